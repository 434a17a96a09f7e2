"""Runs the UNets of physicsnemo, azula and diffusers with weights drawn from their names, and freezes the outputs.

The tests read `networks_unets.npz`, and need neither torch nor this script.  To make it anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 numpy einops jaxtyping wadler_lindig treelib termcolor nvtx psutil cftime \
        omegaconf pandas huggingface_hub safetensors regex requests filelock importlib_metadata packaging tqdm
    /tmp/peers/bin/pip install --no-deps nvidia-physicsnemo==2.2.2 azula==0.11.1 diffusers==0.42.1 timm
    /tmp/peers/bin/python tests/golden/make_unets.py

Keys are `case/name`, names are

    peer     str             JSON, {name: [shape, standard deviation when the peer is made]}, of all that was drawn
    out      [b, h, w, c]    float64, of the float64 peer where it has one, else of the float32 peer
    exact    bool            whether `out` is a float64 peer's

Inputs are drawn too, under the names in `inputs`.  What physicsnemo and azula import and a network does not need
(warp, torchvision, cloud storage) is stood in for.  physicsnemo's GroupNorm divides by n - 1 in `.eval()`: it runs in
`.train()` without dropout.
"""

import importlib.abc
import importlib.machinery
import json
import sys
import zlib
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "networks"))
ABSENT = {"torchvision", "warp", "gdown", "s3fs", "tensordict", "h5py", "git", "onnx", "hydra"}


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a mock wherever a package of `ABSENT` is imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__spec__, module.__name__, module.__path__ = spec, spec.name, []
        module.__file__, module.__version__ = "stand-in", "0.0"
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, StandIn())

import shown  # noqa: E402
import torch  # noqa: E402
from azula.plugins.adm._src.unet import UNetModel  # noqa: E402
from diffusers import UNet2DConditionModel  # noqa: E402
from physicsnemo.models.diffusion_unets import DhariwalUNet, SongUNet  # noqa: E402

IMAGES = dict(img_resolution=8, in_channels=3, out_channels=3, dropout=0.0, attn_resolutions=[4])
SONG = dict(IMAGES, model_channels=16, channel_mult=[1, 2], num_blocks=1)
NCSN = dict(embedding_type="fourier", channel_mult_noise=2, resample_filter=[1, 3, 3, 1])


def inputs(channels=3, batch=2, size=8, tokens=0):
    made = {"x": shown.drawn("x", (batch, channels * size * size)).reshape(batch, channels, size, size) * 12}
    made["c_noise"] = np.array([-0.7, 0.4], np.float32)
    made["augment"] = 3 * shown.drawn("augment", (batch, 9))
    if tokens:
        made["text"] = 4 * shown.drawn("text", (batch, tokens, 16))
    return {name: torch.tensor(value) for name, value in made.items()}


def edm(make, classes=0, augment=False):
    """Runs a network of physicsnemo; the second sample is of class 1, the first of none."""

    def run(module, given):
        hot = torch.tensor(np.eye(classes)[[0, 1]] * [[0], [1]]).to(given["x"]) if classes else None
        return module(given["x"], given["c_noise"], hot, given["augment"] if augment else None)

    return lambda: make().train(), run


def openai(module, given):
    return module(given["x"], 100 * given["c_noise"].abs(), torch.tensor([1, 2]))


def stable(module, given):
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    return module(given["x"], 100 * given["c_noise"].abs(), given["text"], encoder_attention_mask=mask).sample


CASES = {
    "ddpmpp": (*edm(lambda: SongUNet(**SONG, label_dim=3, augment_dim=9), 3, True), {}),
    "ncsnpp": (*edm(lambda: SongUNet(**SONG, **NCSN, encoder_type="residual")), {}),
    "skip": (*edm(lambda: SongUNet(**SONG, **NCSN, encoder_type="skip", decoder_type="skip")), {}),
    "adm_edm": (*edm(lambda: DhariwalUNet(**IMAGES, model_channels=64, channel_mult=[1, 2], num_blocks=1, label_dim=3,
                                          augment_dim=9), 3, True), {}),
    "adm_openai": (lambda: UNetModel(
        image_size=8, in_channels=3, model_channels=64, out_channels=6, num_res_blocks=1, attention_resolutions=(2,),
        channel_mult=(1, 2), num_classes=3, num_head_channels=64, use_scale_shift_norm=True, resblock_updown=True,
        use_new_attention_order=True), openai, {}),
    "stable": (lambda: UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4), stable, dict(channels=4, tokens=5)),
}


def freeze(name, make, run, options):
    """Returns what the golden holds of a case."""
    torch.manual_seed(zlib.crc32(name.encode()))
    module = make()
    peer, state = {}, module.state_dict()
    for key, value in state.items():
        if "resample_filter" in key:
            continue
        if key == "map_noise.freqs" and type(module.map_noise).__name__ == "PositionalEmbedding":
            continue
        peer[key] = [list(value.shape), float(value.double().std(correction=0))]
        state[key] = torch.tensor(shown.drawn(key, tuple(value.shape)))
    module.load_state_dict(state)
    given, exact = inputs(**options), name != "adm_openai"  # azula casts to float32 inside
    with torch.no_grad():
        single = run(module, given).double()
        out = single
        if exact:
            out = run(module.double(), {key: value.double() for key, value in given.items()})
    print(f"{name:12s} std {out.std():.3f}  float32 against float64 {(single - out).abs().max():.1e}")
    return {"peer": json.dumps(peer), "out": out.permute(0, 2, 3, 1).numpy(), "exact": exact}


if __name__ == "__main__":
    golden = {f"{name}/{key}": value for name, case in CASES.items() for key, value in freeze(name, *case).items()}
    np.savez_compressed(FOLDER / "networks_unets.npz", **golden)
