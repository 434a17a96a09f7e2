"""A log-SNR that is learned: monotone in t, its shape a small network's, its ends the user's or learned too.

    γ(t) = γ_0 + (γ_1 - γ_0) (g(t) - g(0))/(g(1) - g(0)),    g(t) = t + Σ_j a_j sigmoid(b_j t + c_j),  a, b > 0

with λ = -γ and α² = sigmoid(-γ), variance preserving (Kingma et al. 2021, sec. 4.1 and app. H).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.protocols import Array, Key, Params, frozen

__all__ = ["LearnedGamma"]


@frozen(leaves=("params",))
class LearnedGamma:
    """Variance preserving, with a learned monotone log-SNR; before `bind` it has no parameters and no schedule.

    Attributes:
      gamma_min, gamma_max: -log-SNR at t = 0 and 1, where they start if they are learned.
      width: of the hidden layer.
      learn_ends: also learn γ(0) and γ(1), as VDM does; the likelihood alone depends on them.
      params: what `init` returned, or a later state of it.
    """

    gamma_min: float = -13.3
    gamma_max: float = 5.0
    width: int = 256
    learn_ends: bool = False
    params: Any = None

    def __post_init__(self) -> None:
        if not self.gamma_min < self.gamma_max:
            raise ValueError(f"LearnedGamma needs gamma_min < gamma_max, got {self.gamma_min} and {self.gamma_max}")
        if self.width < 1:
            raise ValueError(f"LearnedGamma needs width >= 1, got {self.width}")

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1.0

    def init(self, key: Key) -> Params:
        """Returns the parameters of a γ close to a straight line: a sum of sigmoids spread over t."""
        slope_key, place_key = jax.random.split(key)
        ends = {"ends": jnp.asarray([self.gamma_min, self.gamma_max], jnp.float32)} if self.learn_ends else {}
        slope = 5 + jax.random.normal(slope_key, (self.width,))  # softplus of it is the steepness b
        place = jax.random.uniform(place_key, (self.width,))  # a sigmoid is steepest at t = place
        return {**ends, "weight": jnp.full((self.width,), -4.0), "slope": slope,
                "offset": -jax.nn.softplus(slope) * place}

    def bind(self, params: Params) -> "LearnedGamma":
        """Returns the process with `params`."""
        return LearnedGamma(self.gamma_min, self.gamma_max, self.width, self.learn_ends, params)

    def gamma(self, t: Array) -> Array:
        """Returns γ(t), of the shape of t, a JAX array.

        Raises:
          ValueError: no parameters are bound.
        """
        if self.params is None:
            raise ValueError("LearnedGamma has no parameters yet: process.bind(process.init(key))")
        low, high = self.params["ends"] if self.learn_ends else (self.gamma_min, self.gamma_max)
        start, end = self._shape(jnp.zeros(())), self._shape(jnp.ones(()))
        return low + (high - low) * (self._shape(jnp.asarray(t)) - start) / (end - start)

    def _shape(self, t: Array) -> Array:
        weight, slope = jax.nn.softplus(self.params["weight"]), jax.nn.softplus(self.params["slope"])
        return t + (weight * jax.nn.sigmoid(slope * t[..., None] + self.params["offset"])).mean(-1)

    def log_alpha(self, t: Array) -> Array:
        return 0.5 * jax.nn.log_sigmoid(-self.gamma(t))

    def log_sigma(self, t: Array) -> Array:
        return 0.5 * jax.nn.log_sigmoid(self.gamma(t))
