"""Denoising with a learned uncertainty of every noise level (EDM2).

    E w(λ) |δε|² / e^u(λ) + u(λ),    least at u(λ) = ln E[w |δε|² | λ],

where every level's share of the loss is 1: e^-u scales the gradient of the network, so that no
level drowns another, whatever weighting and training have made of their sizes.  u is a Gaussian's
log-variance shared by all tasks of a level (Kendall et al. 2018); only training sees it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff import denoiser as denoisers
from jaxdiff import layers
from jaxdiff import process as processes
from jaxdiff.objective import levels as level_choices
from jaxdiff.objective import matching
from jaxdiff.objective import weighting as weightings
from jaxdiff.protocols import Array, Batch, Cond, Context, Key, Metrics, Network, Parameterization, Params, Process

__all__ = ["Balanced", "Uncertainty", "balanced"]


class Uncertainty(nn.Module):
    """u(c_noise): a linear map of Fourier features, 0 before training.

    Attributes:
      channels: number of features.
    """

    channels: int = 128

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        """Returns u [b] float32 of c_noise [b]."""
        features = layers.Fourier(self.channels, scale=1.0, phases=True, name="fourier")(c_noise)  # [b, channels]
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="linear")(features)[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Balanced:
    """See `balanced`; params are `{"network", "uncertainty"}`."""

    denoising: matching.Denoising
    uncertainty: Uncertainty

    @property
    def network(self) -> Any:
        """The network, as of the loss that is balanced."""
        return self.denoising.network

    def init(self, batch: Batch, key: Key) -> Params:
        """Returns the parameters of network and uncertainty."""
        network_key, uncertainty_key = jax.random.split(key)
        return {"network": self.denoising.init(batch, network_key),
                "uncertainty": self.uncertainty.init(uncertainty_key, jnp.zeros((1,)))}

    def draw(self, batch: Batch, key: Key) -> Batch:
        """Draws as `denoising` does."""
        return self.denoising.draw(batch, key)

    def __call__(self, params: Params, batch: Batch, key: Key, context: Context) -> tuple[Array, Metrics]:
        """Returns the loss (), and the weighted error and u it is made of, means over the batch."""
        del context
        draw_key, dropout_key = jax.random.split(key)
        drawn = batch if "eps" in batch else self.draw(batch, draw_key)
        error = self.denoising.errors(params["network"], drawn, dropout_key)
        c_noise = self.denoising.parameterization.c_noise(processes.logsnr(self.denoising.process, drawn["t"]))
        u: Array = self.uncertainty.apply(params["uncertainty"], c_noise)
        return (error * jnp.exp(-u) + u).mean(), {"error": error.mean(), "uncertainty": u.mean()}

    def denoiser(self, params: Params, frozen: Any = None) -> denoisers.Denoiser:
        """Returns the denoiser of the network in `params`."""
        return self.denoising.denoiser(params["network"], frozen)


def balanced(network: Network, process: Process, parameterization: Parameterization, *,
             levels: Callable = level_choices.lognormal, weighting: Callable = weightings.edm, drop: float = 0.0,
             null: Cond = None, stratified: bool = True, channels: int = 128) -> Balanced:
    """Returns the denoising objective whose levels are balanced by a learned uncertainty.

    Args:
      network, process, parameterization, levels, weighting, drop, null, stratified: as in `denoising`.
      channels: Fourier features of the uncertainty, >= 1.

    Raises:
      ValueError: as `denoising`; channels < 1.

    Source: Karras et al. 2024 (EDM2, arXiv:2312.02696), eq. 21; there the linear map has no bias, unit weights
      and starts at random, here it is a plain one that starts at 0, as the plain loss.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    inner = matching.denoising(network, process, parameterization, levels=levels, weighting=weighting, drop=drop,
                               null=null, stratified=stratified)
    return Balanced(inner, Uncertainty(channels))
