"""The denoising objective: match a noised example's prediction target.

    E_t,ε w(λ) |ε̂ - ε|²  =  E_t,ε w(λ) (α/Δ)² |ŷ - (A x0 + B ε)|²

for whatever the network predicts (`jaxdiff.parameterization`).  With `importance` each level's
error is also divided by the density p(λ) of the levels drawn, so that the loss is ∫ w(λ) |δε|² dλ
over the span: a property of data and network, which levels and process give but a variance.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import denoiser as denoisers
from jaxdiff import parameterization as parameterizations
from jaxdiff import process as processes
from jaxdiff.objective import levels as level_choices
from jaxdiff.objective import weighting as weightings
from jaxdiff.protocols import (
    Array, Batch, Cond, Context, Key, LearnedProcess, Metrics, Network, Parameterization, Params, Process,
)

__all__ = ["AUGMENT", "Denoising", "denoising"]

AUGMENT = "augment"  # of a condition: what was done to the image, which a network must always be told


@dataclasses.dataclass(frozen=True, eq=False)
class Denoising:
    """See `denoising`."""

    network: Network
    process: Process
    parameterization: Parameterization
    levels: Callable
    weighting: Callable
    drop: float
    null: Cond
    stratified: bool = True
    importance: bool = False

    def init(self, batch: Batch, key: Key) -> Params:
        """Returns the network's parameters for batches of these shapes."""
        x0 = batch["x0"]
        return self.network.init(key, x0, jnp.zeros(x0.shape[:1]), batch["cond"])

    def draw(self, batch: Batch, key: Key) -> Batch:
        """Adds u and t [b], eps [b, ...] and drops conditions; all that is random but the network's dropout."""
        u_key, eps_key, drop_key = jax.random.split(key, 3)
        x0 = batch["x0"]
        b = x0.shape[0]
        u = level_choices.spread(u_key, b, stratified=self.stratified)
        return {**batch, "u": u, "t": self.levels(self.process, u),
                "eps": jax.random.normal(eps_key, x0.shape, x0.dtype),
                "cond": self._dropped(batch["cond"], jax.random.bernoulli(drop_key, self.drop, (b,)))}

    def _dropped(self, cond: Cond, mask: Array) -> Cond:
        if not self.drop or cond is None or self.null is None:
            return cond
        swap = lambda value, none: jnp.where(processes.expand(mask, value), jnp.asarray(none, value.dtype), value)
        kept = {AUGMENT: cond[AUGMENT]} if AUGMENT in cond else {}
        return jax.tree.map(swap, dict(cond), dict(self.null)) | kept

    def __call__(self, params: Params, batch: Batch, key: Key, context: Context) -> tuple[Array, Metrics]:
        """Returns the loss () and metrics; draws first unless the batch is drawn."""
        del context
        draw_key, dropout_key = jax.random.split(key)
        drawn = batch if "eps" in batch else self.draw(batch, draw_key)
        return self.errors(params, drawn, dropout_key).mean(), {}

    def errors(self, params: Params, drawn: Batch, key: Key) -> Array:
        """Returns every example's weighted error [b], a mean over its dimensions; `key` is for dropout."""
        x0, eps, t = drawn["x0"], drawn["eps"], drawn["t"]
        x = processes.perturb(self.process, x0, eps, t)
        y = denoisers.predict(self.network, self.parameterization, self.process, params, x, t, drawn["cond"],
                              train=True, rngs={"dropout": key})
        alpha, sigma = processes.alpha(self.process, t), processes.sigma(self.process, t)
        a, b = self.parameterization.coefficients(alpha, sigma, *processes.slopes(self.process, t))
        error = (y - processes.expand(a, x0) * x0 - processes.expand(b, x0) * eps) ** 2
        error = error.reshape(error.shape[0], -1).mean(1)
        weight = self.weighting(jnp.clip(processes.logsnr(self.process, t), -parameterizations.LOGSNR_LIMIT,
                                         parameterizations.LOGSNR_LIMIT))
        if weight is not None:
            error = error * weight * (alpha / parameterizations.determinant(a, b, alpha, sigma)) ** 2
        return error * level_choices.stretch(self.levels, self.process, drawn["u"]) if self.importance else error

    def denoiser(self, params: Params, frozen: Any = None) -> denoisers.Denoiser:
        """Returns the denoiser of `params`."""
        del frozen
        return denoisers.from_network(self.network, self.process, self.parameterization, params)


def denoising(network: Network, process: Process, parameterization: Parameterization, *,
              levels: Callable = level_choices.uniform, weighting: Callable = weightings.native, drop: float = 0.0,
              null: Cond = None, stratified: bool = True, importance: bool = False) -> Denoising:
    """Returns the denoising objective.

    Args:
      network: a Linen module.
      process: what noise does.
      parameterization: what the network predicts.
      levels: `(process, u [b]) -> t [b]`, see `jaxdiff.objective.levels`.
      weighting: `logsnr [b] -> w [b]` on the error of ε, or None for no weight; see `jaxdiff.objective.weighting`.
      drop: probability in [0, 1] with which an example's condition becomes `null`, all of it together but for
        "augment": an image that was augmented without a word would be learnt as one that was not.
      null: the condition that stands for none: the keys of `cond`, no batch axis.
      stratified: spread the levels evenly over the batch, which lowers the loss's variance; or draw each by itself.
      importance: divide by the density of log-SNR of the levels drawn.

    Raises:
      ValueError: a learned process without parameters; a prediction type without x0 at this process's noise end;
        drop outside [0, 1], or without `null`; importance for levels whose t does not
        follow u smoothly.

    Source: Ho et al. 2020 (eq. 14), Karras et al. 2022 (eq. 8); dropping, Ho & Salimans 2022 (algorithm 1).
    """
    if isinstance(process, LearnedProcess) and not jax.tree.leaves(process):
        raise ValueError(f"{type(process).__name__} has parameters of its own, which this objective does not train; "
                         "use 'vlb', or process.bind(params) to keep them as they are")
    denoisers.check(parameterization, process)
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must lie in [0, 1], got {drop}")
    if drop and null is None:
        raise ValueError(f"drop={drop} needs a condition to drop: this data has none")
    if importance:
        check_density(levels, process)
    return Denoising(network, process, parameterization, levels, weighting, drop, null, stratified, importance)


def check_density(levels: Callable, process: Process) -> None:
    """Refuses levels whose density cannot be told from t(u).

    Raises:
      ValueError: dλ/du vanishes in the middle.
    """
    if not float(level_choices.stretch(levels, process, jnp.full((1,), 0.5))[0]) > 0:
        raise ValueError(f"these levels have no density on {type(process).__name__}, whose t_of_logsnr has no slope; "
                         "use levels 'uniform'")
