"""Runs the torch tools for FID on weights and images drawn from their seeds, and freezes features and resizes.

The tests read `fid_inception.npz` and `fid_resizes.npz`, and need neither torch nor this script.  To make them anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0 tqdm requests
    /tmp/peers/bin/pip install --no-deps torchvision torch-fidelity==0.4.0 pytorch-fid==0.3.0 clean-fid==0.1.35
    /tmp/peers/bin/python tests/golden/make_fid.py [--compare FOLDER]

`--compare` prints how far these are from the goldens of the specification (`torch_fidelity.npz`, ...), which were made
by other scripts: 0 for all but features in float32, where another machine rounds otherwise.

`fid_inception.npz`: `size/tool/output`, of the first two real images of `metrics/inputs.py`; tools are `torch_fidelity`
(outputs feat, sfid, logits; in float32 and, with 64 behind it, in float64), `pytorch_fid`, `clean` and
`legacy_pytorch` (clean-fid's file reading apart, its own resize; for `clean` torch-fidelity's layers behind it, since
its TorchScript is a download).

`fid_resizes.npz`: `HxW/size/way`, of `inputs.pattern`: `tf1` by torch-fidelity, `half_pixel` and `edm2` by torch's
`interpolate` (bilinear; bicubic with antialias), float32 [size, size, 3].
"""

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

# The compiled part of torchvision seldom fits a torch without CUDA; only its Python is needed.
if not torch.cuda.is_available():
    missing = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                     "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
        missing.define(operator)

from cleanfid import inception_pytorch as cleanfid_inception
from cleanfid import resize as cleanfid_resize
from pytorch_fid import inception as pytorch_fid
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from metrics import inputs  # noqa: E402

RESIZES = ((9, 6, 13), (40, 23, 16), (32, 32, 299), (16, 16, 16))
HANDED = {"torch_fidelity": ("torch_fidelity.npz", "{size}/{name}"),
          "pytorch_fid": ("pytorch_fid.npz", "{size}/{name}"), "clean": ("clean_fid.npz", "{size}/clean/{name}"),
          "legacy_pytorch": ("clean_fid_legacy.npz", "{size}/legacy_pytorch/{name}")}
OUTPUTS = {"feat": 0, "logits": 1, "sfid": 2}


def planes(images):
    """[n, h, w, c] array -> [n, c, h, w] tensor."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def shapes():
    """Name -> shape of the published file, from pytorch-fid's graph."""
    with (mock.patch.object(pytorch_fid, "load_state_dict_from_url", return_value={}),
          mock.patch.object(torch.nn.Module, "load_state_dict")):
        state = pytorch_fid.fid_inception_v3().state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


class Tools:
    """The networks of the tools, with one file of weights."""

    def __init__(self):
        kinds = ["2048", "logits_unbiased"]
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "weights.pth")
            self.state = {key: torch.from_numpy(value) for key, value in inputs.weights(shapes()).items()}
            torch.save(self.state, path)
            self.single = FeatureExtractorInceptionV3("inception-v3-compat", kinds, path)
            self.double = FeatureExtractorInceptionV3("inception-v3-compat", kinds, path)
        # torch-fidelity 0.4.0 takes float32 where float64 is asked for
        self.double.feature_extractor_internal_dtype = torch.float64
        self.double.to(torch.float64)
        for module in (pytorch_fid, cleanfid_inception):
            module.load_state_dict_from_url = lambda *given, **more: self.state
        self.pytorch_fid = pytorch_fid.InceptionV3([3]).eval()
        self.cleanfid = cleanfid_inception.InceptionV3([3], resize_input=False).eval()
        self.layers = [module for name, module in self.single.named_children() if name != "fc"]

    def torch_fidelity(self, network, images):
        """Features, logits without bias, and the tensor of sFID."""
        spatial = []
        hook = network.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, given, out: spatial.append(out[:, :7].permute(0, 2, 3, 1).flatten(1).float()))
        features, logits = network(planes(images))
        hook.remove()
        return [value.numpy() for value in (features, logits, spatial[0])]

    def clean(self, images):
        """clean-fid's `clean`."""
        resize = cleanfid_resize.build_resizer("clean")
        x = (planes(np.stack([resize(image) for image in images])) - 128) / 128
        for module in self.layers:
            x = module(x)
        return x.flatten(1).numpy()

    def legacy_pytorch(self, images):
        """clean-fid's `legacy_pytorch`."""
        resize = cleanfid_resize.build_resizer("legacy_pytorch")
        x = planes(np.stack([resize(image) for image in images])) / 255
        return self.cleanfid(x)[0].flatten(1).numpy()


def features(tools):
    """Returns the arrays of `fid_inception.npz`."""
    found = {}
    for height, width in inputs.SIZES:
        size, images = f"{height}x{width}", inputs.images("real", 2, height, width)
        both = zip(tools.torch_fidelity(tools.single, images), tools.torch_fidelity(tools.double, images), strict=True)
        for (name, _), (single, double) in zip(OUTPUTS.items(), both, strict=True):
            if name == "feat" or size in ("32x32", "48x80"):
                found[f"{size}/torch_fidelity/{name}"] = single
            if size in ("32x32", "48x80"):
                found[f"{size}/torch_fidelity/{name}64"] = double.astype(np.float32)
        if size not in ("64x64", "299x299"):
            found[f"{size}/pytorch_fid/feat"] = tools.pytorch_fid(planes(images) / 255)[0].flatten(1).numpy()
            found[f"{size}/clean/feat"] = tools.clean(images)
        if size in ("32x32", "320x256"):
            found[f"{size}/legacy_pytorch/feat"] = tools.legacy_pytorch(images)
    return found


def resizes():
    """Returns the arrays of `fid_resizes.npz`."""
    found = {}
    for height, width, size in RESIZES:
        x = planes(inputs.pattern(height, width)).float()
        ways = {"tf1": interpolate_bilinear_2d_like_tensorflow1x(x, size=(size, size), align_corners=False),
                "half_pixel": torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False),
                "edm2": torch.nn.functional.interpolate(x, (size, size), mode="bicubic", antialias=True)}
        for way, made in ways.items():
            step = 8 if size == 299 else 1  # a part of the large ones
            found[f"{height}x{width}/{size}/{way}"] = made[0, :, ::step, ::step].permute(1, 2, 0).contiguous().numpy()
    return found


def compare(found, folder):
    """Prints the distance from the goldens of the specification."""
    for key, value in found.items():
        size, tool, name = key.split("/")
        file, pattern = HANDED[tool]
        name = name.replace("logits", "logits_unbiased")
        with np.load(folder / file) as handed:
            other = handed[pattern.format(size=size, name=name)]
        print(f"{key:32s} {np.abs(value - other).max() / np.abs(other).max():.1e} of the maximum")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", type=Path)
    arguments = parser.parse_args()
    with torch.no_grad():
        tools = Tools()
        made = {"fid_inception": features(tools), "fid_resizes": resizes()}
    print(f"weights {inputs.checksum({key: value.numpy() for key, value in tools.state.items()}):08x}")
    for name, arrays in made.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    if arguments.compare:
        compare(made["fid_inception"], arguments.compare)


if __name__ == "__main__":
    main()
