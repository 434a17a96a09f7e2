"""Runs the autoencoder of diffusers with weights drawn from their names, and freezes what it encodes and decodes.

The tests read `networks_autoencoder.npz`, and need neither torch nor this script.  To make it anew, in the environment
of `make_unets.py`:

    /tmp/peers/bin/python tests/golden/make_autoencoder.py

Keys are `case/name`, names are

    peer             str             JSON, {name: [shape, standard deviation when the peer is made]}
    mean, logvar     [b, h, w, c]    of the posterior of `shown.image`, float64
    image            [b, h, w, 3]    decoded from `shown.latent`, float64
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from networks import shown  # noqa: E402

LEVELS = 2
LAYOUT = dict(block_out_channels=(32, 64), layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * LEVELS,
              up_block_types=("UpDecoderBlock2D",) * LEVELS)
CASES = {  # with the two 1x1 convolutions, and without
    "sd": dict(LAYOUT, latent_channels=4),
    "sd3": dict(LAYOUT, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
}


def freeze(name, options):
    """Returns what the golden holds of a case."""
    torch.manual_seed(zlib.crc32(name.encode()))
    module = AutoencoderKL(**options).eval()
    peer, state = {}, module.state_dict()
    for key, value in state.items():
        peer[key] = [list(value.shape), float(value.double().std(correction=0))]
        state[key] = torch.tensor(shown.drawn(key, tuple(value.shape)))
    module.load_state_dict(state)
    given = [torch.tensor(a) for a in (shown.image(), shown.latent(options["latent_channels"]))]
    single, double = run(module, *given), run(module.double(), *(a.double() for a in given))
    for key, value in double.items():
        error = np.abs(single[key] - value).max() / value.std()
        print(f"{name:4s} {key:6s} std {value.std():6.3f}  float32 against float64 {error:.1e} of it")
    return {"peer": json.dumps(peer), **double}


def run(module, image, latent):
    """Returns {name: [b, h, w, c]} float64."""
    with torch.no_grad():
        posterior = module.encode(image).latent_dist
        out = {"mean": posterior.mean, "logvar": posterior.logvar, "image": module.decode(latent).sample}
    return {key: value.double().permute(0, 2, 3, 1).numpy() for key, value in out.items()}


if __name__ == "__main__":
    golden = {f"{name}/{key}": value for name, case in CASES.items() for key, value in freeze(name, case).items()}
    np.savez_compressed(FOLDER / "networks_autoencoder.npz", **golden)
