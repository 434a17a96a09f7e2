"""What becomes of a batch on the device: the parts that `config.prepare` names."""

from jaxdiff.data.augment import augmented
from jaxdiff.data.pixels import as_is, images, latents

__all__ = ["as_is", "augmented", "images", "latents"]
