"""Runs the transformers of diffusers, azula and U-ViT with weights drawn from their names, and freezes the outputs.

The tests read `networks_transformers.npz`, and need neither torch nor this script.  To make it anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 numpy einops huggingface_hub safetensors regex requests filelock \
        importlib_metadata packaging tqdm
    /tmp/peers/bin/pip install --no-deps azula==0.11.1 diffusers==0.42.1 timm==1.0.31
    UVIT=/path/to/U-ViT /tmp/peers/bin/python tests/golden/make_transformers.py

U-ViT is no package: `UVIT` is a checkout of github.com/baofff/U-ViT, here at 0935d80.  Keys are `case/name`, names are

    peer     str           JSON, {name: [shape, standard deviation when the peer is made]}, of all that was drawn
    out      [b, h, w, c]  float64, of the peer in float64

Inputs are drawn too, under the names in `inputs`.  Peers that go to float32 inside (norms, angles) are kept from it:
`torch.float32` means float64 while they run.  diffusers' DiT spaces its frequencies by k/(n - 1), and the published
one by k/n: `downscale_freq_shift` is set to 0.
"""

import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
from pathlib import Path
from unittest import mock

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # azula compiles JiT's blocks
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), os.environ["UVIT"]]


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a mock for what the peers import and a network does not need."""

    def find_spec(self, name, path=None, target=None):
        absent = name.split(".")[0] in {"gdown", "torchvision"}
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent else None

    def create_module(self, spec):
        return mock.MagicMock(__spec__=spec, __name__=spec.name, __path__=[], __version__="0.0")

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, StandIn())


import numpy as np  # noqa: E402
import torch  # noqa: E402

from azula.plugins.jit._src.model import JiT  # noqa: E402
from diffusers.models import DiTTransformer2DModel, SD3Transformer2DModel  # noqa: E402
from libs import uvit  # noqa: E402
from networks import shown  # noqa: E402

uvit.ATTENTION_MODE = "math"  # the other mode casts to float32


def dit():
    peer = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
                                 num_layers=3, sample_size=8, patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6)
    for block in peer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return peer


def mmdit():
    return SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=16,
                                 num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=32,
                                 pooled_projection_dim=12, out_channels=4, pos_embed_max_size=7, qk_norm="rms_norm")


def jit():
    return JiT(input_size=16, patch_size=4, hidden_size=32, depth=3, num_heads=2, num_classes=5, bottleneck_dim=8,
               in_context_len=3, in_context_start=1)


CASES = {
    "dit": (dit, r"pos_embed\.pos_embed|transformer_blocks\.[1-9]\d*\.norm1\.emb\..*", (4, 8),
            ("timestep", "class_labels")),
    "jit": (jit, "pos_embed", (3, 16), ("t", "y")),
    "mmdit": (mmdit, r"pos_embed\.pos_embed", (4, 8), ("timestep",)),
    "uvit": (lambda: uvit.UViT(img_size=8, patch_size=2, in_chans=4, embed_dim=32, depth=5, num_heads=2,
                               num_classes=6), "nothing", (4, 8), ("timesteps", "y")),
}


def inputs(case, channels, size, keys):
    x = torch.tensor(shown.patched(channels, size)).double()
    times = torch.tensor(shown.TIMES[case])
    times = times.double() if times.is_floating_point() else times
    given = dict(zip(keys, (times, torch.tensor(shown.LABELS)), strict=False))
    if case == "mmdit":
        text, pooled = shown.text()
        given |= {"encoder_hidden_states": torch.tensor(text).double(),
                  "pooled_projections": torch.tensor(pooled).double()}
    return x, given


def filled(peer, left):
    """Draws every tensor but those named `left`; returns {name: [shape, initial standard deviation]}."""
    state, drawn = peer.state_dict(), {}
    for name, value in state.items():
        if not re.fullmatch(left, name):
            drawn[name] = [list(value.shape), float(value.double().std(correction=0))]
            value.copy_(torch.tensor(shown.drawn(name, tuple(value.shape))))
    for name, value in state.items():  # copies of the embedding in DiT's other blocks
        if ".norm1.emb." in name:
            value.copy_(state["transformer_blocks.0.norm1.emb." + name.split(".norm1.emb.")[1]])
    return drawn


@torch.no_grad()
def main():
    torch.manual_seed(0)
    golden = {}
    for case, (make, left, (channels, size), keys) in CASES.items():
        peer = make().eval()
        golden[f"{case}/peer"] = json.dumps(filled(peer, left))
        x, given = inputs(case, channels, size, keys)
        with mock.patch.object(torch, "float32", torch.float64):
            out = peer.double()(x, **given)
        out = (out if isinstance(out, torch.Tensor) else out.sample).numpy()
        golden[f"{case}/out"] = out.transpose(0, 2, 3, 1)
        print(case, out.shape, out.dtype, "std", out.std())
    np.savez_compressed(FOLDER / "networks_transformers.npz", **golden)


if __name__ == "__main__":
    main()
