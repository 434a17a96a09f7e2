"""The feed-forward half of a transformer block."""

import functools
from collections.abc import Callable

import flax.linen as nn

from jaxdiff.layers.placement import batched
from jaxdiff.protocols import Array

__all__ = ["ACTIVATIONS", "feed_forward"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "silu": nn.silu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}
XAVIER = nn.initializers.xavier_uniform()


def feed_forward(x: Array, hidden: int, kind: str = "gelu_tanh", *,
                 init: nn.initializers.Initializer = XAVIER, drop: Callable[[Array], Array] = lambda h: h,
                 dtype: str = "float32") -> Array:
    """Returns `mlp1(φ(mlp0(x)))`, or with `swiglu` `mlp1(silu(a) b)` where `[a, b] = mlp0(x)`.

    Called inside a compact method, whose module then has the layers `mlp0` and `mlp1`.

    Args:
      x: [b, n, c].
      hidden: width between the layers (of a and of b).
      kind: `gelu`, `gelu_tanh` (its approximation), `quick_gelu` (x σ(1.702 x), CLIP's), `silu` or `swiglu`.
      init: of both kernels.
      drop: what is done to what is between the layers.
      dtype: what the layers compute in.

    Returns:
      [b, n, c].

    Raises:
      ValueError: another kind.

    Source: Vaswani et al. 2017; SwiGLU, Shazeer 2020.
    """
    if kind != "swiglu" and kind not in ACTIVATIONS:
        raise ValueError(f"there is no feed-forward {kind!r}; it may be {', '.join(ACTIVATIONS)} or swiglu")
    layer = functools.partial(nn.Dense, dtype=dtype, kernel_init=init)
    if kind == "swiglu":
        h = batched(layer(2 * hidden, name="mlp0")(x))
        h = nn.silu(h[..., :hidden]) * h[..., hidden:]
    else:
        h = ACTIVATIONS[kind](batched(layer(hidden, name="mlp0")(x)))
    return batched(layer(x.shape[-1], name="mlp1")(drop(h)))
