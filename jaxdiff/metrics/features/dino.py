"""DINOv2: features of FD-DINOv2, which weighs shape and content where Inception's weigh texture.

The class token after the last norm of the tower without registers: [b, 1024] for ViT-L/14, at 224x224.

Source: Oquab et al. 2023 (DINOv2); Stein et al. 2023 (FD-DINOv2); Karras et al. 2024 (EDM2), appendix A.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.metrics.features import preparation, vit
from jaxdiff.metrics.features import weights as files
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["DINOv2", "converted", "dinov2", "shapes"]

SIZE, EPS = 224, 1e-6
FILE = "dinov2_vitl14_pretrain.pth"
SOURCE = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/" + FILE
PROTOCOLS = ("edm2", "edm2_pil", "tf1")
OFFSET = 0.1  # patches: the published code asks for a table of 16.1 by 16.1, and gets one of 16 by 16


@frozen(leaves=("params",))
class DINOv2:
    """The tower with its weights; see `dinov2`.

    Attributes:
      params: as `vit.forward` has them.
      name, protocol, sha256: what makes figures comparable.
      mlp: `gelu`, or `swiglu` (ViT-g).
    """

    params: Params
    name: str = "dinov2"
    protocol: str = "edm2"
    sha256: str = ""
    mlp: str = "gelu"

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, d] of images [b, h, w, c] uint8."""
        dtype = self.params["class"].dtype
        x = preparation.resized(images, self.protocol, SIZE, name=self.name, dtype=dtype)
        return {"features": vit.forward(self.params, preparation.standardised(x), eps=EPS, mlp=self.mlp)}

    def __call__(self, images: Array) -> Array:
        """Returns the class token [b, d] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


def dinov2(*, weights: str | os.PathLike | None = None, protocol: str = "edm2", sha256: str | None = None) -> DINOv2:
    """Makes the extractor of FD-DINOv2.

    Args:
      weights: the published file, or its folder; None for the folder `$JAXDIFF_WEIGHTS`.  Depth and width are read
        from it, so that ViT-S, B and g (all without registers) are taken as well: their figures are not comparable.
      protocol: `edm2` (EDM2: bicubic in float, antialiased, not clipped), `edm2_pil` (EDM2's option, dgm-eval:
        Pillow's bytes) or `tf1` (torch-fidelity); features move by 3e-3 of the largest between the first two.
      sha256: what the file must hash to, or its first digits.

    Raises:
      ValueError: an unknown protocol; no such file; a file that is damaged or of another network.
    """
    preparation.checked(protocol, PROTOCOLS, "dinov2")
    held, found = files.opened(files.find(FILE, weights, source=SOURCE), sha256=sha256)
    flat = files.flattened(held, "DINOv2")
    if "register_tokens" in flat:
        raise ValueError(f"these are the weights of DINOv2 with registers, and FD-DINOv2 is without: put {FILE}")
    arrays = files.arrays(flat, shapes(flat), of="DINOv2", ignored="mask_token")
    mlp = "swiglu" if "blocks.0.mlp.w12.weight" in arrays else "gelu"
    return DINOv2(converted(arrays), protocol=protocol, sha256=found, mlp=mlp)


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of a file with the width and depth of these arrays; ViT-L's where they do not tell."""
    token, gate = arrays.get("cls_token"), arrays.get("blocks.0.mlp.w3.weight")
    d = token.shape[-1] if token is not None and token.ndim else 1024
    wide = 4 * d if gate is None else gate.shape[-1]
    first, second = (("fc1", wide), "fc2") if gate is None else (("w12", 2 * wide), "w3")
    found: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d), "pos_embed": (1, 1 + 37 * 37, d), "patch_embed.proj.weight": (d, 3, 14, 14),
        "patch_embed.proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,)}
    for i in range(vit.depth(arrays, "blocks.", ".norm1.weight") or 24):
        dense = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), f"mlp.{first[0]}": (first[1], d),
                 f"mlp.{second}": (d, wide)}
        for name, shape in dense.items():
            found |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma")
        found |= {f"blocks.{i}.{name}": (d,) for name in vectors}
    return found


def converted(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Params:
    """Returns the parameters of `vit.forward` of the arrays in `shapes`, at 224x224.

    LayerScale is folded into the layers before it; the table of positions is resized.
    """
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    d, blocks = arrays["cls_token"].shape[-1], []
    first, second = ("w12", "w3") if "blocks.0.mlp.w12.weight" in arrays else ("fc1", "fc2")
    for i in range(vit.depth(arrays, "blocks.", ".norm1.weight")):
        at = f"blocks.{i}."
        blocks.append({
            "norm0": vit.layer(arrays, at + "norm1", norm=True), "norm1": vit.layer(arrays, at + "norm2", norm=True),
            "qkv": vit.layer(arrays, at + "attn.qkv"), "mlp0": vit.layer(arrays, f"{at}mlp.{first}"),
            "out": vit.scaled(vit.layer(arrays, at + "attn.proj"), arrays[at + "ls1.gamma"]),
            "mlp1": vit.scaled(vit.layer(arrays, f"{at}mlp.{second}"), arrays[at + "ls2.gamma"]),
        })
    kernel = arrays["patch_embed.proj.weight"]  # [d, 3, p, p]
    patches = SIZE // kernel.shape[-1]
    table = arrays["pos_embed"][0]
    return {"patch": {"kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, d), "bias": arrays["patch_embed.proj.bias"]},
            "class": arrays["cls_token"][0, 0],
            "position": np.concatenate([table[:1], positions(table[1:], patches)]).astype(dtype),
            "norm": vit.layer(arrays, "norm", norm=True), "blocks": vit.each(blocks)}


def positions(table: np.ndarray, patches: int, *, offset: float = OFFSET) -> np.ndarray:
    """Returns the table [given², d] at patches² places [patches², d], as the published code resizes it."""
    given, d = vit.side(1 + len(table)), table.shape[-1]
    resized = vit.bicubic(table.reshape(given, given, d), patches, (patches + offset) / given)
    return resized.reshape(-1, d)
