"""Linen networks: `(x [b, ...], c_noise [b], cond, *, train) -> [b, ...]` float32."""

from jaxdiff.networks.dense import MLP
from jaxdiff.networks.song import SongUNet

__all__ = ["MLP", "SongUNet"]
