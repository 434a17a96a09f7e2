"""jaxdiff: diffusion models in JAX and Flax, whose numbers can be reproduced and whose runs survive."""

__version__ = "0.1.0.dev0"
