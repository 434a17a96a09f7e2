"""Guidance by another model: a weaker denoiser, or a classifier of noisy data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import process as processes
from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.numbers import Number, strength
from jaxdiff.protocols import Array, Cond

__all__ = ["autoguidance", "classifier"]


@transform
def autoguidance(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, scale: Number, weak: Denoiser) -> Array:
    """Guidance away from a weaker version of itself: `D + (w - 1)(D - D_weak)`; w = 1 is off, to the bit.

    Both see the condition, if there is one: what is exaggerated is the difference that training or size makes.

    Args:
      denoiser: the better denoiser.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...], or None.
      scale: w >= 0, () or [b]; the paper's presets are 1.7 to 2.1.
      weak: of the same process and conditions, smaller or trained for shorter; a leaf, as the denoiser is.

    Returns:
      x0 [b, ...]; one evaluation of either network a call.

    Raises:
      ValueError: a weaker denoiser of another process, or a scale that is no number.

    Source: Karras et al. 2024 (arXiv:2406.02507), sec. 4.
    """
    kind: Any = jax.tree.structure(denoiser.process)
    if kind != jax.tree.structure(weak.process):
        raise ValueError(f"autoguidance compares two denoisers of one process, got {denoiser.process} and, of the "
                         f"weaker one, {weak.process}")
    x0 = denoiser(x, t, cond)
    return x0 + (strength(scale, x) - 1) * (x0 - weak(x, t, cond))


@transform
def classifier(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, log_prob: Callable, power: Number = 1.0) -> Array:
    """Classifier guidance: `D + k σ²/α ∇ₓ ln p(y | x)`, the denoiser of p(x) p(y | x)^k.

    Args:
      denoiser: usually an unconditional one; it is shown `cond` too.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition y, leaves [b, ...].
      log_prob: ln p(y | x_t) up to a constant, `(x, t, cond) -> [b]`, differentiable in x, each entry of its
        own sample alone.  A pytree, so that parameters are leaves: `jax.tree_util.Partial(function, params)` calls
        `function(params, x, t, cond)`.
      power: k >= 0, () or [b]; 1 is Bayes' rule, 0 is off (hence not called a scale, of which 1 is off).

    Returns:
      x0 [b, ...]; one evaluation of the denoiser and one of the classifier's gradient a call.

    Raises:
      ValueError: a process that ends in pure noise, where x tells nothing of y; a `log_prob` that is no pytree
        or not one number a sample; a power that is no number.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), algorithm 2, in x0 by Tweedie's formula.
    """
    if processes.ends_in_noise(denoiser.process):
        raise ValueError(f"classifier guidance needs alpha(1) > 0: at t = 1 {type(denoiser.process).__name__} is pure "
                         "noise, and the gradient says nothing of x0")
    if jax.tree_util.all_leaves([log_prob]):
        raise ValueError(f"log_prob must be a pytree, so that `jit` takes its parameters as leaves; wrap it: "
                         f"jax.tree_util.Partial({getattr(log_prob, '__name__', 'log_prob')})")

    def total(x: Array) -> Array:
        each = log_prob(x, t, cond)
        if each.shape != x.shape[:1]:
            raise ValueError(f"log_prob must return one number a sample, {list(x.shape[:1])}, got {list(each.shape)}")
        return each.sum()

    at = jnp.asarray(t, x.dtype)
    alpha, sigma = processes.alpha(denoiser.process, at), processes.sigma(denoiser.process, at)
    return denoiser(x, t, cond) + strength(power, x) * processes.expand(sigma**2 / alpha, x) * jax.grad(total)(x)
