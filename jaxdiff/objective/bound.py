"""The variational bound on -ln p(x0), in continuous time (VDM).

    -ln p(x0)  <=  prior + diffusion + reconstruction            in nats, sums over the dimensions

    prior           KL(q(x_1|x0) || N(0, σ_1²)) = ½ e^λ_1 |x0|²
    diffusion       ½ ∫ E|ε̂ - ε|² dλ  from λ_1 to λ_0  =  ½ E_u[(-dλ/du) |ε̂ - ε|²]
    reconstruction  -E ln p(x0|x_0),  p ∝ exp(-½ |z/α_0 - x0|² α_0²/σ_0²) over the values of a pixel

where 0 and 1 are the ends of the process's span.  The diffusion term depends on the process by
λ_0 and λ_1 alone, its variance on all of it (Kingma et al. 2021, sec. 5.1): where the process is
learned, the gradient of a schedule between its ends is noise around 0, that of its ends is not.
VDM turns the former into descent on the variance; here the loss is differentiated as it is.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import denoiser as denoisers
from jaxdiff import process as processes
from jaxdiff.objective import levels as level_choices
from jaxdiff.objective import matching
from jaxdiff.objective import weighting as weightings
from jaxdiff.protocols import (
    Array, Batch, Cond, Context, Key, LearnedProcess, Metrics, Network, Parameterization, Params, Process,
)

__all__ = ["VLB", "vlb"]


@dataclasses.dataclass(frozen=True, eq=False)
class VLB:
    """See `vlb`; params are the network's, or `{"network", "gamma"}` where the process is learned."""

    denoising: matching.Denoising
    bins: int | None

    @property
    def network(self) -> Network:
        """The network, as of the loss that is bounded."""
        return self.denoising.network

    def init(self, batch: Batch, key: Key) -> Params:
        """Returns the parameters of the network, and of the process where it has some."""
        process = self.denoising.process
        if not isinstance(process, LearnedProcess):
            return self.denoising.init(batch, key)
        network_key, gamma_key = jax.random.split(key)
        return {"network": self.denoising.init(batch, network_key), "gamma": process.init(gamma_key)}

    def draw(self, batch: Batch, key: Key) -> Batch:
        """Draws as `denoising` does, and the noise eps_0 [b, ...] of the clean end."""
        path_key, end_key = jax.random.split(key)
        x0 = batch["x0"]
        return {**self.denoising.draw(batch, path_key), "eps_0": jax.random.normal(end_key, x0.shape, x0.dtype)}

    def __call__(self, params: Params, batch: Batch, key: Key, context: Context) -> tuple[Array, Metrics]:
        """Returns the bound in nats a dimension, and it and its terms in nats and in bits a dimension."""
        del context
        draw_key, dropout_key = jax.random.split(key)
        drawn = batch if "eps_0" in batch else self.draw(batch, draw_key)
        network, loss = self._bound(params)
        x0, size = drawn["x0"], math.prod(drawn["x0"].shape[1:])
        clean, noisy = (processes.logsnr(loss.process, jnp.asarray(end, x0.dtype)) for end in loss.process.span)
        terms = {
            "prior": 0.5 * jnp.exp(noisy) * (x0**2).mean() * size,
            "diffusion": 0.5 * loss.errors(network, drawn, dropout_key).mean() * size,
            "reconstruction": reconstruction(x0, drawn["eps_0"], jnp.exp(-0.5 * clean), self.bins).mean(),
        }
        total = sum(terms.values())
        named = {"": total, **{f"_{name}": term for name, term in terms.items()}}
        nats = {f"nats{name}": value for name, value in named.items()}
        bits = {f"bits_per_dim{name}": value / (size * math.log(2)) for name, value in named.items()}
        return total / size, {**nats, **bits}

    def denoiser(self, params: Params, frozen: Any = None) -> denoisers.Denoiser:
        """Returns the denoiser of `params`, with the process bound to its own."""
        network, loss = self._bound(params)
        return loss.denoiser(network, frozen)

    def _bound(self, params: Params) -> tuple[Params, matching.Denoising]:
        """The network's parameters, and the loss on the process as it now is."""
        process = self.denoising.process
        if not isinstance(process, LearnedProcess):
            return params, self.denoising
        return params["network"], dataclasses.replace(self.denoising, process=process.bind(params["gamma"]))


def reconstruction(x0: Array, eps: Array, scale: Array, bins: int | None) -> Array:
    """Returns -ln p(x0 | z) [b] of the decoder at z/α = x0 + scale ε.

    Args:
      x0: [b, ...]; where there are bins, at one of their values -1, ..., 1.
      eps: [b, ...].
      scale: σ/α, ().
      bins: number of equally spaced values a pixel may have; None for a density, N(z/α, scale²).
    """
    if bins is None:
        nats = 0.5 * (eps**2 + jnp.log(2 * jnp.pi * scale**2))
    else:
        own = jnp.round((x0 + 1) * 0.5 * (bins - 1))  # which bin, so that its own distance is 0 to the bit
        apart = 2 / ((bins - 1) * scale) * (own[..., None] - jnp.arange(bins))  # [b, ..., bins]
        nats = 0.5 * eps**2 + jax.nn.logsumexp(-0.5 * (eps[..., None] + apart) ** 2, axis=-1)
    return nats.reshape(nats.shape[0], -1).sum(1)


def vlb(network: Network, process: Process, parameterization: Parameterization, *,
        levels: Callable = level_choices.uniform, drop: float = 0.0, null: Cond = None, stratified: bool = True,
        bins: int | None = 256) -> VLB:
    """Returns the variational bound as an objective.

    Args:
      network: a Linen module.
      process: what noise does, learned with the network where it is a `LearnedProcess`.
      parameterization: what the network predicts.
      levels: where the integral over log-SNR is sampled; they must cover the span, as `uniform`, `logsnr` and `mode`
        do and normal ones do not.  `logsnr` has the lower variance on most fixed processes.
      drop, null, stratified: as in `denoising`.
      bins: values of a pixel, equally spaced from -1 to 1 (`data.to_float`), >= 2; None for data with a density.

    Raises:
      ValueError: as `denoising`; bins < 2; levels of a learned process that are not given by t alone.

    Source: Kingma et al. 2021 (VDM, arXiv:2107.00630), eq. 11-19; prior N(0, σ_1²), from which sampling starts.
    """
    if bins is not None and bins < 2:
        raise ValueError(f"bins must be at least 2, or None for data with a density, got {bins}")
    if not isinstance(process, LearnedProcess):
        return VLB(matching.denoising(network, process, parameterization, levels=levels, weighting=weightings.eps,
                                      drop=drop, null=null, stratified=stratified, importance=True), bins)
    _check_levels(levels, process)
    start = process.bind(process.init(jax.random.key(0)))
    checked = matching.denoising(network, start, parameterization, levels=levels, weighting=weightings.eps, drop=drop,
                                 null=null, stratified=stratified, importance=True)
    return VLB(dataclasses.replace(checked, process=process), bins)


def _check_levels(levels: Callable, process: Process) -> None:
    try:
        levels(process, jnp.full((1,), 0.5))
    except ValueError as error:
        raise ValueError(f"a learned process is trained at levels that are given by t alone, as 'uniform' is: {error}"
                         ) from error
