"""Linen networks: `(x [b, ...], c_noise [b], cond, *, train) -> [b, ...]` float32."""

from jaxdiff.networks.adm import ADM
from jaxdiff.networks.dense import MLP
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.edm2 import EDM2
from jaxdiff.networks.jit import JiT
from jaxdiff.networks.mmdit import MMDiT
from jaxdiff.networks.song import SongUNet
from jaxdiff.networks.stable import StableUNet
from jaxdiff.networks.uvit import UViT

__all__ = ["ADM", "DiT", "EDM2", "JiT", "MLP", "MMDiT", "SongUNet", "StableUNet", "UViT"]
