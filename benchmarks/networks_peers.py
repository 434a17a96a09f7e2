"""The torch side of `benchmarks.networks`, run by an interpreter that has torch, diffusers and physicsnemo.

Command: PEER_PYTHON benchmarks/networks_peers.py dit   (prints seconds a train step, as JSON)
"""

import importlib.abc
import importlib.machinery
import json
import statistics
import sys
import time
from unittest.mock import MagicMock

import torch

ABSENT = {"torchvision", "warp", "s3fs", "tensordict", "h5py", "git", "onnx", "hydra"}  # no network needs them


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a mock wherever a package of `ABSENT` is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        absent = name.split(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent else None

    def create_module(self, spec: object) -> object:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__name__, module.__path__ = spec, spec.name, []
        module.__file__, module.__version__ = "stand-in", "0.0"
        return module

    def exec_module(self, module: object) -> None:
        pass


def dit(width: int, depth: int, heads: int, side: int, channels: int) -> tuple:
    """Returns diffusers' DiT and what calls it."""
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=channels, out_channels=channels,
        num_layers=depth, sample_size=side, patch_size=2, num_embeds_ada_norm=1000, norm_type="ada_norm_zero")
    return net, lambda x, t, label: net(x, timestep=(999 * t).long(), class_labels=label).sample


def ddpmpp(width: int, mults: list, blocks: int, side: int, channels: int) -> tuple:
    """Returns physicsnemo's DDPM++ and what calls it."""
    sys.meta_path.insert(0, StandIn())
    from physicsnemo.models.diffusion_unets import SongUNet

    net = SongUNet(side, channels, channels, model_channels=width, channel_mult=list(mults), num_blocks=blocks,
                   attn_resolutions=[side // 2], label_dim=1000, dropout=0.0)
    hot = torch.nn.functional.one_hot
    return net, lambda x, t, label: net(x, t.log(), hot(label, 1000).float())


def main(name: str, fields: str, batch: str, steps: str, threads: str) -> None:
    """Trains and prints: loss, gradient, AdamW and an average of the weights, as our step has them."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    sizes = json.loads(fields)
    net, call = {"dit": dit, "ddpmpp": ddpmpp}[name](**sizes)
    net.train()
    average = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    x0 = torch.randn(int(batch), sizes["channels"], sizes["side"], sizes["side"])
    label = torch.arange(int(batch))
    spent = []
    for _ in range(int(steps)):
        begin = time.perf_counter()
        t, eps = torch.rand(len(x0)) * 0.9 + 0.05, torch.randn_like(x0)
        mix = t[:, None, None, None]
        loss = ((call((1 - mix) * x0 + mix * eps, t, label) - (eps - x0)) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in net.parameters()], 1e-3)
        loss.item()
        spent.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": statistics.median(spent[2:]), "parameters": sum(p.numel() for p in net.parameters()),
                      "torch": torch.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
