"""From the bytes of images to numbers in [-1, 1], and back; from an encoder's moments to latents.

A `prepare(batch, key, frozen=None) -> {"x0", "cond"}` runs on the device inside the step.
Its randomness comes from the step's key and is drawn for the whole global batch, so that
row i gets the same draw on any mesh.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.protocols import Array, Batch, Key, Params

__all__ = ["as_is", "images", "latents", "to_float", "to_uint8"]


def to_float(image: Array) -> Array:
    """Returns x = v / 127.5 - 1, float32 in [-1, 1], of uint8 values v in 0..255; numpy or JAX."""
    xp = image.__array_namespace__()
    return (image.astype(xp.float32) - 127.5) / 127.5  # v / 127.5 - 1 ends at 1.0000001 under `jit`


def to_uint8(x: Array) -> Array:
    """Returns v = clip(round(127.5 (x + 1)), 0, 255), uint8; numpy or JAX, any shape.

    The inverse of `to_float`; ties go to the even level, so that 0 becomes 128.  NaN becomes 0.
    """
    xp = x.__array_namespace__()
    x = xp.where(xp.isnan(x), -1, x.astype(xp.float32))
    return xp.clip(xp.round((x + 1) * 127.5), 0, 255).astype(xp.uint8)


def as_is(batch: Batch, key: Key | None = None, frozen: Params = None) -> dict:
    """Returns the batch unchanged, with a `cond` of None where it has none."""
    del key, frozen
    return {"cond": None, **batch}


@dataclasses.dataclass(frozen=True)
class Images:
    """See `images`; equal options make equal parts, which compile once."""

    flip: bool = False
    conditions: tuple[str, ...] = ("label",)

    def __call__(self, batch: Batch, key: Key, frozen: Params = None) -> dict:
        del frozen
        x0 = to_float(batch["image"])
        if self.flip:
            flipped = jax.random.bernoulli(key, 0.5, (len(x0), 1, 1, 1))
            x0 = jnp.where(flipped, x0[:, :, ::-1], x0)
        cond = {name: batch[name] for name in self.conditions if name in batch}
        return {"x0": x0, "cond": cond or None}


def images(*, flip: bool = False, conditions: tuple = ("label",)) -> Images:
    """Makes the `prepare` of images.

    Args:
      flip: mirror every image left to right with probability 1/2.
      conditions: what beside the image becomes the condition, where it is there; () for none.

    Returns:
      `prepare(batch, key, frozen=None)`, which turns `{"image": uint8 [b, h, w, c], ...}` into
      `{"x0": float32 [b, h, w, c] in [-1, 1], "cond": {...}}`; `cond` is None where
      there is nothing to hold.
    """
    return Images(flip, tuple(conditions))


@dataclasses.dataclass(frozen=True)
class Latents:
    """See `latents`; equal options make equal parts, which compile once."""

    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0
    conditions: tuple[str, ...] = ("label",)

    def __call__(self, batch: Batch, key: Key, frozen: Params = None) -> dict:
        del frozen
        mean, std = jnp.split(jnp.asarray(batch["moments"], jnp.float32), 2, -1)
        x0 = mean + std * jax.random.normal(key, mean.shape)
        cond = {name: batch[name] for name in self.conditions if name in batch}
        return {"x0": (x0 - jnp.asarray(self.shift)) * jnp.asarray(self.scale), "cond": cond or None}


def latents(*, scale: float | tuple = 1.0, shift: float | tuple = 0.0, conditions: tuple = ("label",)) -> Latents:
    """Makes the `prepare` of latents, drawn anew in every step from what an encoder gave once.

    Args:
      scale: > 0, of one number or one a channel; 0.18215 makes Stable Diffusion's latents of unit variance.
      shift: subtracted before; one number or one a channel.
      conditions: what beside the moments becomes the condition, where it is there; () for none.

    Returns:
      `prepare(batch, key, frozen=None)`, which turns `{"moments": [b, h, w, 2c], ...}`, means and then standard
      deviations, into `{"x0": (mean + std eps - shift) scale, "cond": {...}}`, x0 float32 [b, h, w, c].

    Raises:
      ValueError: a scale that is not positive.

    Source: Rombach et al. 2022, appendix G.
    """
    if not all(value > 0 for value in (scale if isinstance(scale, tuple) else (scale,))):
        raise ValueError(f"scale must be > 0, got {scale}")
    return Latents(scale, shift, tuple(conditions))
