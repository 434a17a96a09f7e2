"""Freezes how diffusers turns CompVis's names into its own: `compvis.json`, {network: {theirs: diffusers'}}.

An independent witness of our two tables of each: the names of a small network, as our table writes them, go through
diffusers' own conversion.  Ours need jax and diffusers' torch, so that this runs in two steps:

    python tests/golden/make_compvis.py names > /tmp/names.json        in the project's environment
    /tmp/peers/bin/python tests/golden/make_compvis.py < /tmp/names.json
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNET = dict(channels=32, mults=(1, 2), blocks=1, transformers=(1, 0), heads=4)
VAE = dict(channels=32, mults=(1, 2), blocks=1)


def named():
    """Prints {network: {CompVis's name: shape}}."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxdiff import convert, networks
    from jaxdiff.convert import stable

    x = jnp.zeros((1, 8, 8, 4))
    unet = jax.eval_shape(networks.StableUNet(**UNET).init, jax.random.key(0), x, jnp.zeros(1),
                          {"text": jnp.zeros((1, 5, 16))})
    vae = jax.eval_shape(networks.Autoencoder(**VAE).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    filled = lambda like: {path: np.zeros(shape) for path, shape in convert.shapes(like).items()}
    made = {"unet": convert.back(filled(unet), stable.unet_rules(2, 1, (1, 0))),
            "vae": stable.to_vae(networks.Autoencoder(**VAE), filled(vae))}
    print(json.dumps({case: {name: value.shape for name, value in made[case].items()} for case in made}))


def witnessed():
    """Writes what diffusers makes of the names on standard input."""
    import torch
    from diffusers.loaders import single_file_utils as peer

    golden = {}
    for case, names in json.load(sys.stdin).items():
        mark = {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(names.items())}
        if case == "unet":
            config = {"layers_per_block": 1, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                      "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
            given = {f"model.diffusion_model.{name}": value for name, value in mark.items()}
            made = peer.convert_ldm_unet_checkpoint(given, config)
        else:
            config = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
            made = peer.convert_ldm_vae_checkpoint({f"first_stage_model.{n}": v for n, v in mark.items()}, config)
        order = list(names)
        golden[case] = {order[int(value.flatten()[0])]: name for name, value in made.items()}
        assert len(golden[case]) == len(names), set(names) - set(golden[case])
    (HERE / "compvis.json").write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    named() if sys.argv[1:] == ["names"] else witnessed()
