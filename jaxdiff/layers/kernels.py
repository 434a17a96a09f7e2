"""Kernels of dot-product attention, `(q, k, v, mask) -> like q`, and what each of them can do.

All calculate `softmax(q kᵀ/√d) v` with float32 logits and softmax.  `choose` says, before anything is
compiled, which of them an experiment gets.
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as tiles
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as patterns
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdiff.layers.placement import AXES
from jaxdiff.protocols import Array

__all__ = ["KERNELS", "Kernel", "choose", "cudnn", "splash", "xla"]


def xla(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Returns `softmax(q kᵀ/√d) v`; logits and softmax are float32 whatever the inputs are.

    Args:
      q: [b, n, heads, d].
      k, v: [b, m, heads, d].
      mask: boolean, broadcast to [b, heads, n, m]; True where a key may be seen.

    Returns:
      [b, n, heads, d] in the dtype of `q`.

    Source: Vaswani et al. 2017, eq. 1.
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def cudnn(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """As `xla`, by cuDNN's fused kernel on NVIDIA GPUs, in bfloat16; under a mask n and m are even.

    Source: Dao et al. 2022 (FlashAttention), as cuDNN has it.
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def splash(q: Array, k: Array, v: Array, mask: Array | None = None, *, interpret: bool = False) -> Array:
    """As `xla`, by a Pallas kernel on TPUs that never holds the logits of a whole row.

    Lengths are padded to a multiple of 128, and what was added is masked.

    Args:
      q, k, v: as in `xla`.
      mask: of keys alone, [b or 1, 1, 1, m]; every row needs a key that may be seen.
      interpret: run the kernel as plain JAX, on any platform.

    Returns:
      [b, n, heads, d] in the dtype of `q`.

    Raises:
      ValueError: a mask that differs between queries or heads.

    Source: `jax.experimental.pallas.ops.tpu.splash_attention`.
    """
    (b, n, heads, d), m = q.shape, k.shape[1]
    seen = jnp.ones((1, m), bool) if mask is None else _keys(mask, m)
    multiple = KERNELS["splash"].multiple
    q, k, v = (_padded(a, multiple) for a in (q / math.sqrt(d), k, v))  # the kernel itself does not scale
    seen = jnp.broadcast_to(_padded(seen, multiple), (b, k.shape[1]))
    run = _on_every_device(functools.partial(_splash, interpret=interpret), b, heads)
    return run(q, k, v, seen)[:, :n].astype(q.dtype)


def _splash(q: Array, k: Array, v: Array, seen: Array, interpret: bool) -> Array:
    """Returns attention of lengths that fit, q already scaled, `seen` [b, m] true where a key may be seen."""
    # Keys that may be seen are of the queries' segment 0, all others of segment 1.
    segments = tiles.SegmentIds(jnp.zeros(q.shape[:2], jnp.int32), 1 - seen.astype(jnp.int32))
    whole = patterns.MultiHeadMask([patterns.FullMask((q.shape[1], k.shape[1]))] * q.shape[2])
    kernel = tiles.make_splash_mha(whole, head_shards=1, q_seq_shards=1, interpret=interpret)
    y = jax.vmap(kernel)(*(a.swapaxes(1, 2) for a in (q, k, v)), segments)  # [b, heads, n, d]
    return y.swapaxes(1, 2)


def _on_every_device(run: Callable[..., Array], batch: int, heads: int) -> Callable[..., Array]:
    """Returns `run` on each device's part of the batch and of the heads: the compiler cannot cut a Pallas kernel.

    `run` as it is where there is no mesh with Auto axes, and so within a `shard_map` or `pmap`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(kinds.get(axis) != AxisType.Auto for axis in AXES) or mesh.size == 1:
        return run
    rows = AXES if batch % math.prod(mesh.shape[axis] for axis in AXES) == 0 else None
    cut = "tensor" if "tensor" in kinds and heads % mesh.shape["tensor"] == 0 else None
    tokens = P(rows, None, cut)
    return jax.shard_map(run, in_specs=(tokens, tokens, tokens, P(rows)), out_specs=tokens, check_vma=False)


def _keys(mask: Array, length: int) -> Array:
    """Returns the mask of keys, [b or 1, m]."""
    if mask.ndim != 4 or mask.shape[1:] != (1, 1, length):
        raise ValueError(f"splash takes a mask of keys, [b, 1, 1, {length}], got {list(mask.shape)}; xla takes any")
    return mask[:, 0, 0]


def _padded(x: Array, multiple: int) -> Array:
    """Returns x [b, n, ...] with zeros (False) after axis 1, up to a multiple."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % multiple)] + [(0, 0)] * (x.ndim - 2))


class Kernel(NamedTuple):
    """What a kernel of attention can do.

    Attributes:
      attend: the function.
      platform: where it runs; None for everywhere.
      dtypes: of queries, keys and values.
      masks: those it takes: `none`, `keys` [b, 1, 1, m], `any`.
      multiple: lengths are padded to a multiple of this.
      jvp: has a forward-mode derivative; a kernel with its own backward pass has none.
    """

    attend: Callable[..., Array]
    platform: str | None = None
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float64")
    masks: tuple[str, ...] = ("none", "keys", "any")
    multiple: int = 1
    jvp: bool = True


KERNELS = {
    "xla": Kernel(xla),
    "splash": Kernel(splash, "tpu", ("float32", "bfloat16"), ("none", "keys"), multiple=128, jvp=False),
    "cudnn": Kernel(cudnn, "gpu", ("bfloat16",), jvp=False),
}


def choose(name: str, *, platform: str, dtype: str = "float32", mask: str = "none", jvp: bool = False) -> str:
    """Returns the name of the kernel to use: `name`, or `xla` where it is for another platform.

    Args:
      name: `xla`, `splash` or `cudnn`.
      platform: `cpu`, `gpu` or `tpu`, where the experiment will run.
      dtype: what the network computes in.
      mask: `none`, `keys` or `any`, what the network masks by.
      jvp: whether the objective differentiates the network forwards (average velocities, consistency, score matching).

    Raises:
      ValueError: an unknown name, or a kernel that cannot do what is asked.
    """
    if name not in KERNELS:
        raise ValueError(f"there is no attention kernel {name!r}; it may be {', '.join(KERNELS)}")
    kernel = KERNELS[name]
    if jvp and not kernel.jvp:
        able = ", ".join(other for other in KERNELS if KERNELS[other].jvp)
        raise ValueError(f"the attention kernel {name!r} has no JVP, which this objective needs; use {able}")
    if kernel.platform not in (None, platform):
        logging.getLogger(__name__).warning("attention kernel %s is for %s, not %s: using xla", name, kernel.platform,
                                            platform)
        return "xla"
    for what, value, allowed in (("dtype", dtype, kernel.dtypes), ("mask", mask, kernel.masks)):
        if value not in allowed:
            raise ValueError(f"the attention kernel {name!r} has no {what} {value!r}; it may be {', '.join(allowed)}")
    return name
