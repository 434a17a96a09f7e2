"""Linen networks: `(x [b, ...], c_noise [b], cond, *, train) -> [b, ...]` float32."""

from jaxdiff.networks import autoencoder, tiling
from jaxdiff.networks.adm import ADM
from jaxdiff.networks.autoencoder import Autoencoder
from jaxdiff.networks.dense import MLP
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.edm2 import EDM2
from jaxdiff.networks.jit import JiT
from jaxdiff.networks.mmdit import MMDiT
from jaxdiff.networks.patch import PatchDiscriminator
from jaxdiff.networks.song import SongUNet
from jaxdiff.networks.stable import StableUNet
from jaxdiff.networks.text import Conditioned, TextTransformer
from jaxdiff.networks.uvit import UViT

__all__ = ["ADM", "Autoencoder", "Conditioned", "DiT", "EDM2", "JiT", "MLP", "MMDiT", "PatchDiscriminator", "SongUNet",
           "StableUNet", "TextTransformer", "UViT", "autoencoder", "tiling"]
