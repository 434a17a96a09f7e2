"""Whether an accelerator gives the features that a CPU gives.

Accelerators multiply in bfloat16 or TF32 unless told otherwise, which moves features by a fifth of their size, and FID
silently with them.  The extractors here ask for the highest precision; whether a device obeys is measured.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["pictures", "verify"]

LIMIT = 1e-3  # of the largest feature; rounding in float32 is below 3e-4 of it


def pictures(n: int = 2, side: int = 64, channels: int = 3) -> np.ndarray:
    """Returns [n, side, side, channels] uint8 by a formula: waves of all lengths, and edges."""
    k, y, x, c = np.ogrid[:n, :side, :side, :channels]
    waves = 90 * np.sin((k + 1) * x * y / side + c) + 30 * np.cos(0.7 * x - (c + 1) * 0.4 * y)
    return np.clip(np.rint(127.5 + waves + 60.0 * ((x // 9 + y // 7 + k) % 2 - 0.5)), 0, 255).astype(np.uint8)


def verify(extractor: Any, images: np.ndarray | None = None, *, limit: float = LIMIT) -> float:
    """Returns how far the default device's features are from the CPU's in float32, as a share of the largest.

    Args:
      extractor: to be tried.
      images: a few [b, h, w, c] uint8; `pictures()` by default.
      limit: what is refused.

    Raises:
      ValueError: they are further apart than `limit`, or there is no CPU to compare with.
    """
    images = pictures() if images is None else images
    (device,) = jnp.zeros(()).devices()
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError("features are held against a CPU's, and JAX has none: JAX_PLATFORMS=tpu,cpu or cuda,cpu adds "
                         "one") from error
    found = np.asarray(_features(jax.device_put(extractor, device), jax.device_put(images, device)), np.float64)
    with jax.default_device(cpu), jax.default_matmul_precision("highest"):
        exact = np.asarray(_features(jax.device_put(extractor, cpu), jax.device_put(images, cpu)), np.float64)
    apart = float(np.abs(found - exact).max() / np.abs(exact).max())
    if not apart <= limit:
        name = getattr(extractor, "name", type(extractor).__name__)
        raise ValueError(
            f"features {name!r} on {device.device_kind} are {apart:.1e} of the largest from a CPU's in float32, and at "
            f"most {limit:g} is rounding: the device multiplies in lower precision, bfloat16 or TF32, and figures "
            f"would not be comparable; jax.default_matmul_precision('highest') asks for float32")
    return apart


@jax.jit
def _features(extractor: Any, images: Any) -> Any:
    return extractor(images)
