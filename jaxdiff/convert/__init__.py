"""Weights from elsewhere: what a file or folder holds, as the parts of a config, and its tensors in our trees.

A layout is `(source) -> Found`; `tables.convert` then fills the network's shapes, and names every tensor that does
not fit.  Of DiT and the autoencoder there is a way back.
"""

from collections.abc import Callable

from jaxdiff.convert import texts
from jaxdiff.convert.guided import adm
from jaxdiff.convert.transformers import dit, jit, sit, to_diffusers_dit, to_dit
from jaxdiff.convert.snapshots import edm, edm2
from jaxdiff.convert.joint import mmdit, uvit
from jaxdiff.convert.sources import Found, Source, opened
from jaxdiff.convert.stable import to_diffusers_vae, to_vae, unet, vae
from jaxdiff.convert.tables import Mismatch, Rule, back, convert, shapes

__all__ = [
    "BACK", "LAYOUTS", "PARTS", "Found", "Mismatch", "Rule", "Source", "adm", "back", "convert", "dit", "edm", "edm2",
    "jit", "mmdit", "opened", "shapes", "sit", "texts", "unet", "uvit", "vae",
]

LAYOUTS = ("adm", "dit", "edm", "edm2", "jit", "mmdit", "sit", "unet", "uvit", "vae")
PARTS = {"unet": ("unet",), "vae": ("vae",), "dit": ("transformer",), "mmdit": ("transformer",)}  # of a pipeline
# Layout -> (network, `(network, our path -> value, resolution) -> their name -> value`).
BACK: dict[str, tuple[str, Callable]] = {
    "dit": ("DiT", to_dit), "diffusers_dit": ("DiT", to_diffusers_dit),
    "vae": ("Autoencoder", to_vae), "diffusers_vae": ("Autoencoder", to_diffusers_vae),
}
