"""Training an autoencoder, with an adversary or without (VQGAN; Rombach et al. 2022).

    |x - y| + p P(x, y) + k KL/d - a D(y)    the generator's, y = decode(mean + e^(logvar/2) ε)
    [1 - D(x)]₊/2 + [1 + D(y)]₊/2            the discriminator's

with means over the d numbers of an image, over its patches and over the batch, P a perceptual distance, and
KL = ½ Σ (mean² + e^logvar - 1 - logvar) over the latents of an image.  Both are one loss: stop-gradients keep the
first from the discriminator's parameters and the second from the generator's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.protocols import Array, Batch, Context, Key, Metrics, Params

__all__ = ["Autoencoding", "autoencoding", "divergence", "hinge"]

ERRORS: dict[str, Callable[[Array], Array]] = {"l1": jnp.abs, "l2": jnp.square}


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoding:
    """See `autoencoding`; params are `{"generator"}`, with an adversary `{"generator", "discriminator"}`."""

    generator: Any
    discriminator: Any
    error: str
    kl_weight: float
    weight: float
    start: int
    perceptual: Callable | None
    perceptual_weight: float

    def init(self, batch: Batch, key: Key) -> Params:
        """Returns the parameters of both players, for images of these shapes."""
        generator_key, discriminator_key = jax.random.split(key)
        params = {"generator": self.generator.init(generator_key, batch["x0"])}
        if self.discriminator is not None:
            params["discriminator"] = self.discriminator.init(discriminator_key, batch["x0"])
        return params

    def draw(self, batch: Batch, key: Key) -> Batch:
        """Adds keys [b], from which the latents of each image are drawn."""
        return {**batch, "keys": jax.random.split(key, batch["x0"].shape[0])}

    def __call__(self, params: Params, batch: Batch, key: Key, context: Context) -> tuple[Array, Metrics]:
        """Returns the sum of the players' losses (), and its terms."""
        drawn = batch if "keys" in batch else self.draw(batch, jax.random.split(key)[0])
        x = drawn["x0"]
        y, mean, logvar = self.generator.apply(params["generator"], x, drawn["keys"])
        reconstruction = ERRORS[self.error](x - y).mean()
        kl = divergence(mean, logvar).mean() / math.prod(x.shape[1:])
        metrics = {"reconstruction": reconstruction, "kl": kl}
        loss = reconstruction + self.kl_weight * kl
        if self.perceptual is not None:
            metrics["perceptual"] = self.perceptual(x, y, context.frozen).mean()
            loss = loss + self.perceptual_weight * metrics["perceptual"]
        if self.discriminator is None:
            return loss, metrics
        players = self._players(params["discriminator"], x, y, context.step)
        return loss + self.weight * players["adversarial"] + players["discriminator"], {**metrics, **players}

    def _players(self, params: Params, x: Array, y: Array, step: Array) -> Metrics:
        judge = self.discriminator.apply
        fooled = -judge(jax.lax.stop_gradient(params), y).mean()
        real, fake = judge(params, x), judge(params, jax.lax.stop_gradient(y))
        begun = lambda value: jnp.where(step >= self.start, value, 0.0)
        return {"adversarial": begun(fooled), "discriminator": begun(hinge(real, fake)),
                "logits_real": real.mean(), "logits_fake": fake.mean()}

    def denoiser(self, params: Params, frozen: Any = None) -> Any:
        """Refuses: there is none.

        Raises:
          ValueError: always; it says what the parameters are for.
        """
        raise ValueError("an autoencoder is no denoiser and has nothing to sample from; train one on its latents, "
                         "with params['generator'] frozen")


def autoencoding(generator: Any, discriminator: Any = None, *, error: str = "l1", kl_weight: float = 1e-6,
                 weight: float = 0.1, start: int = 0, perceptual: Callable | None = None,
                 perceptual_weight: float = 1.0) -> Autoencoding:
    """Returns the objective that trains an autoencoder.

    The players may learn at two rates:
    `optax.multi_transform({"generator": a, "discriminator": b}, {"generator": "generator", "discriminator":
    "discriminator"})`.

    Args:
      generator: a Linen module, `(x, keys [b]) -> (y, mean, logvar)` as `networks.autoencoder.Autoencoder`.
      discriminator: a Linen module, `x -> logits` as `networks.patch.PatchDiscriminator`, or None for no adversary.
      error: `l1` or `l2`.
      kl_weight: k >= 0.
      weight: a >= 0, of what the discriminator says of y; a fixed one, where VQGAN measures it at every step by the
        gradients of the decoder's last layer.
      start: first step, from 0, at which the players meet; before it both of their terms are 0.
      perceptual: `(x, y, frozen) -> [b]`, P; its weights are part of the state's `frozen`.
      perceptual_weight: p >= 0.

    Raises:
      ValueError: an unknown error; a negative number.

    Source: Esser et al. 2021 (arXiv:2012.09841), eq. 5-7; hinge, Lim & Ye 2017; the weight of the divergence, Rombach
      et al. 2022 (appendix G), whose sums over an image are divided by d here.
    """
    if error not in ERRORS:
        raise ValueError(f"autoencoding has no error {error!r}; it may be {' or '.join(ERRORS)}")
    numbers = {"kl_weight": kl_weight, "weight": weight, "start": start, "perceptual_weight": perceptual_weight}
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    return Autoencoding(generator, discriminator, error, kl_weight, weight, start, perceptual, perceptual_weight)


def divergence(mean: Array, logvar: Array) -> Array:
    """Returns KL(N(mean, e^logvar) || N(0, 1)) in nats [b], sums over the axes of mean and logvar [b, ...]."""
    nats = 0.5 * (mean**2 + jnp.expm1(logvar) - logvar)
    return nats.reshape(nats.shape[0], -1).sum(1)


def hinge(real: Array, fake: Array) -> Array:
    """Returns the discriminator's loss (), at least 0: logits of real images above 1, of others below -1.

    Source: Lim & Ye 2017 (Geometric GAN), eq. 17; halved as in VQGAN's code.
    """
    return 0.5 * (jnp.maximum(1 - real, 0).mean() + jnp.maximum(1 + fake, 0).mean())
