"""Linen pieces and functions that networks and feature extractors share; statistics and angles are float32."""

from jaxdiff.layers import attention
from jaxdiff.layers.attention import SelfAttention
from jaxdiff.layers.embedding import Fourier, LabelEmbedding, positional
from jaxdiff.layers.norm import GroupNorm, LayerNorm
from jaxdiff.layers.placement import batched
from jaxdiff.layers.resample import down, up

__all__ = ["Fourier", "GroupNorm", "LabelEmbedding", "LayerNorm", "SelfAttention", "attention", "batched", "down",
           "positional", "up"]
