"""The Vision Transformer that DINOv2 and CLIP share, as a function of its weights; the blocks are scanned.

    x = [class, patches] + position           (CLIP: a norm)
    x += out(attention(norm0(x)))
    x += mlp1(φ(mlp0(norm1(x))))              in each block
    features = norm(x[class])

Products have the highest precision, and statistics, logits and softmax the weights' own.

Source: Dosovitskiy et al. 2021, eq. 1 to 4.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.protocols import Array, Params

__all__ = ["HEAD", "bicubic", "depth", "each", "forward", "layer", "scaled", "side"]

HEAD = 64  # channels of a head, in all published towers of both
HIGHEST = jax.lax.Precision.HIGHEST


def forward(params: Params, x: Array, *, eps: float, mlp: str) -> Array:
    """Returns the class token [b, d] after the last norm.

    Args:
      params: `patch` {kernel [p*p*3, d], bias}, `class` [d], `position` [1 + n, d], `norm` {scale, bias}, perhaps
        `norm_in`, and `blocks`, whose leaves are stacked: `norm0`, `qkv`, `out`, `norm1`, `mlp0`, `mlp1`.
      x: [b, h, w, 3], standardised; n patches of p*p pixels.
      eps: of the norms.
      mlp: `gelu`, `quick_gelu`, or `swiglu`.
    """
    (b, height, width, c), p = x.shape, round((len(params["patch"]["kernel"]) / 3) ** 0.5)
    x = x.reshape(b, height // p, p, width // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)  # [b, n, p*p*3]
    x = _dense(params["patch"], x)
    first = jnp.broadcast_to(params["class"], (b, 1, x.shape[-1]))
    x = jnp.concatenate([first, x], 1) + params["position"]
    if "norm_in" in params:
        x = _norm(params["norm_in"], x, eps)

    def block(x: Array, own: Params) -> tuple[Array, None]:
        x = x + _dense(own["out"], _attention(_dense(own["qkv"], _norm(own["norm0"], x, eps))))
        return x + _dense(own["mlp1"], _activated(_dense(own["mlp0"], _norm(own["norm1"], x, eps)), mlp)), None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    return _norm(params["norm"], x[:, 0], eps)


def _dense(own: Params, x: Array) -> Array:
    return jnp.dot(x, own["kernel"], precision=HIGHEST) + own["bias"]


def _norm(own: Params, x: Array, eps: float) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + eps) * own["scale"] + own["bias"]


def _attention(qkv: Array) -> Array:
    """Softmax attention [b, n, d] of [b, n, 3*d], in the order q, k, v and then heads."""
    b, n, wide = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, -1, HEAD), 2, 0)  # [b, n, heads, HEAD]
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST) / np.sqrt(HEAD).astype(qkv.dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v, precision=HIGHEST)
    return mixed.reshape(b, n, wide // 3)


def _activated(h: Array, mlp: str) -> Array:
    if mlp == "swiglu":
        gate, h = jnp.split(h, 2, -1)
        return jax.nn.silu(gate) * h
    return layers.ACTIVATIONS[mlp](h)


def layer(arrays: Mapping[str, np.ndarray], name: str, *, norm: bool = False) -> Params:
    """Returns a dense layer {kernel [in, out], bias} or a norm {scale, bias} of torch's `name.weight`, `name.bias`."""
    weight, bias = arrays[name + ".weight"], arrays[name + ".bias"]
    return {"scale": weight, "bias": bias} if norm else {"kernel": np.ascontiguousarray(weight.T), "bias": bias}


def scaled(own: Params, gain: np.ndarray) -> Params:
    """Returns a dense layer whose outputs are multiplied by `gain` [out]."""
    return {"kernel": own["kernel"] * gain, "bias": own["bias"] * gain}


def each(blocks: list[Params]) -> Params:
    """Returns the parameters of all blocks, stacked."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def depth(names: Mapping[str, Any], stem: str, end: str) -> int:
    """Returns how many blocks there are: of the names `stem`, a number, `end`."""
    return sum(name.startswith(stem) and name.endswith(end) and name[len(stem):-len(end)].isdigit() for name in names)


def side(tokens: int) -> int:
    """Returns the side of the square of patches that a table of 1 + side² positions is for."""
    return round((tokens - 1) ** 0.5)


def bicubic(table: np.ndarray, wanted: int, ratio: float) -> np.ndarray:
    """Returns a table [side, side, d] as [wanted, wanted, d], as torch's `interpolate` does it without antialias.

    Keys' kernel with a = -¾ at (i + ½)/ratio - ½, beyond the border the border's own values.
    """
    given, a = len(table), -0.75
    position = (np.arange(wanted) + 0.5) / ratio - 0.5
    low = np.floor(position).astype(int)
    matrix = np.zeros((wanted, given))
    for step in (-1, 0, 1, 2):
        at = np.abs(position - low - step)
        near = ((a + 2) * at - (a + 3)) * at**2 + 1
        far = ((a * at - 5 * a) * at + 8 * a) * at - 4 * a
        np.add.at(matrix, (np.arange(wanted), np.clip(low + step, 0, given - 1)), np.where(at <= 1, near, far))
    return np.einsum("ih,jw,hwd->ijd", matrix, matrix, table.astype(np.float64))
