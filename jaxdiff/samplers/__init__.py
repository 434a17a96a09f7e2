"""Samplers: `sampler(denoiser, x, times, key=None, *, cond=None, walk=walk, <options>) -> (x, aux)`.

`aux` is `{"nfe": denoiser calls, "seen": records or None}`.
"""

from jaxdiff.samplers.adams import deis, lms, plms, pndm
from jaxdiff.samplers.angular import heun_angle
from jaxdiff.samplers.edm import euler, heun
from jaxdiff.samplers.implicit import ancestral, ddim
from jaxdiff.samplers.multistep import dpmpp_2m, dpmpp_3m, dpmpp_3m_legacy
from jaxdiff.samplers.singlestep import dpm_solver, dpmpp_2s
from jaxdiff.samplers.stochastic import euler_maruyama, predictor_corrector
from jaxdiff.samplers.tolerant import adaptive
from jaxdiff.samplers.turning import restart
from jaxdiff.samplers.unified import unipc

__all__ = [
    "adaptive", "ancestral", "ddim", "deis", "dpm_solver", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_3m_legacy",
    "euler", "euler_maruyama", "heun", "heun_angle", "lms", "plms", "pndm", "predictor_corrector", "restart", "unipc",
]
