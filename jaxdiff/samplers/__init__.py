"""Samplers: `sampler(denoiser, x, times, key=None, *, cond=None, walk=walk, <options>) -> (x, aux)`.

`aux` is `{"nfe": denoiser calls, "seen": records or None}`.
"""

from jaxdiff.samplers.edm import euler, heun
from jaxdiff.samplers.implicit import ancestral, ddim

__all__ = ["ancestral", "ddim", "euler", "heun"]
