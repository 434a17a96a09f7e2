"""Linen pieces and functions that networks and feature extractors share; statistics and angles are float32."""

from jaxdiff.layers import attention
from jaxdiff.layers.attention import CrossAttention, SelfAttention
from jaxdiff.layers.depth import REMAT, stacked
from jaxdiff.layers.embedding import Fourier, LabelEmbedding, positional
from jaxdiff.layers.magnitude import MPConv, MPDense, mp_cat, mp_silu, mp_sum, normalize
from jaxdiff.layers.mlp import ACTIVATIONS, feed_forward
from jaxdiff.layers.norm import GroupNorm, LayerNorm, RMSNorm
from jaxdiff.layers.patch import patchify, unpatchify
from jaxdiff.layers.placement import batched
from jaxdiff.layers.position import LearnedPosition, angles, rotate, sincos
from jaxdiff.layers.precision import DTYPES, wide
from jaxdiff.layers.resample import down, up
from jaxdiff.layers.transformer import NORMS, AdaLNBlock, TransformerBlock, dropped, modulate, modulation
from jaxdiff.layers.uniform import fan_in_uniform, uniform_conv, uniform_dense

__all__ = ["ACTIVATIONS", "AdaLNBlock", "angles", "attention", "batched", "CrossAttention", "down", "dropped",
           "DTYPES", "fan_in_uniform", "feed_forward", "Fourier", "GroupNorm", "LabelEmbedding", "LayerNorm",
           "LearnedPosition", "modulate", "modulation", "mp_cat", "mp_silu", "mp_sum", "MPConv", "MPDense",
           "normalize", "NORMS", "patchify", "positional", "REMAT", "RMSNorm", "rotate", "SelfAttention", "sincos",
           "stacked", "TransformerBlock", "uniform_conv", "uniform_dense", "unpatchify", "up", "wide"]
