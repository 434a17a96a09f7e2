"""What noise does: `x_t = α(t) x0 + σ(t) ε`, with t from 0 (data) to 1 (noise).

A process is a frozen dataclass with `log_alpha`, `log_sigma` and `span`, the times between
which its log-SNR λ = 2 ln(α/σ) is finite in float32 and from which training times are drawn.
`alpha` and `sigma` are their exponentials unless the process gives a form that also holds
where one of them vanishes; `t_of_logsnr` is found by bisection unless it is given.
`norm(alpha, sigma)`, homogeneous of degree 1, is what stays put along the path (α + σ in a flow,
α where noise is only added, √(α² + σ²) unless given).
"""

from jaxdiff.process.derived import (
    alpha, diffusion, drift, ends_in_noise, expand, logsnr, norm, perturb, prior_scale, ratio, sigma, slopes,
    t_of_logsnr, transition,
)
from jaxdiff.process.families import EDM, VE, VP, Cosine, RectifiedFlow, Sigmoid, SubVP, TrigFlow
from jaxdiff.process.learned import LearnedGamma
from jaxdiff.process.tables import Discrete, betas
from jaxdiff.process.wrapped import Shift, ZeroTerminalSNR

__all__ = [
    "Cosine", "Discrete", "EDM", "LearnedGamma", "RectifiedFlow", "Shift", "Sigmoid", "SubVP", "TrigFlow", "VE", "VP",
    "ZeroTerminalSNR", "alpha", "betas", "diffusion", "drift", "ends_in_noise", "expand", "logsnr", "norm", "perturb",
    "prior_scale", "ratio", "sigma", "slopes", "t_of_logsnr", "transition",
]
