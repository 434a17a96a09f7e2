"""CLIP's image tower: embeddings of CMMD, and one half of a CLIP score.

The class token after the last norm and the projection, of length 1: [b, 768] for ViT-L/14 at 336x336.

Source: Radford et al. 2021 (CLIP); Jayasumana et al. 2024 (CMMD).
"""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.metrics.features import preparation, vit
from jaxdiff.metrics.features import weights as files
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["CLIP", "clip", "converted", "shapes"]

EPS = 1e-5
FILES = ("ViT-L-14-336px.pth", "clip-vit-large-patch14-336.safetensors", "model.safetensors")
SOURCE = "https://huggingface.co/openai/clip-vit-large-patch14-336 (model.safetensors)"
PROTOCOLS = ("cmmd", "tf1")
STANDARD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPENAI = {  # Hugging Face's name -> OpenAI's
    r"vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"vision_model\.embeddings\.patch_embedding\.weight": "visual.conv1.weight",
    r"vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"vision_model\.pre_layrnorm\.": "visual.ln_pre.",
    r"vision_model\.post_layernorm\.": "visual.ln_post.",
    r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.": r"visual.transformer.resblocks.\1.attn.out_proj.",
    r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.": r"visual.transformer.resblocks.\1.ln_\2.",
    r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.": r"visual.transformer.resblocks.\1.mlp.c_fc.",
    r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.": r"visual.transformer.resblocks.\1.mlp.c_proj.",
}
QUERY = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)")


@frozen(leaves=("params",))
class CLIP:
    """The image tower with its weights; see `clip`.

    Attributes:
      params: as `vit.forward` has them, and `projection` [d, e].
      name, protocol, sha256: what makes figures comparable.
      size: of a side of what the tower sees.
    """

    params: Params
    name: str = "clip"
    protocol: str = "cmmd"
    sha256: str = ""
    size: int = 336

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, e], of length 1, of images [b, h, w, c] uint8."""
        dtype = self.params["class"].dtype
        x = preparation.resized(images, self.protocol, self.size, name=self.name, dtype=dtype)
        x = vit.forward(self.params, preparation.standardised(x, *STANDARD), eps=EPS, mlp="quick_gelu")
        x = jnp.dot(x, self.params["projection"], precision=vit.HIGHEST)
        return {"features": x / jnp.linalg.norm(x, axis=-1, keepdims=True)}

    def __call__(self, images: Array) -> Array:
        """Returns the embeddings [b, e] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


def clip(*, weights: str | os.PathLike | None = None, protocol: str = "cmmd", sha256: str | None = None) -> CLIP:
    """Makes the extractor of CMMD.

    Args:
      weights: a file of tensors with OpenAI's or Hugging Face's names, of the whole model or its image tower, in
        float16 too; or its folder; None for the folder `$JAXDIFF_WEIGHTS`.  Depth, widths and size are read from it.
      protocol: `cmmd` (the square in the middle, Pillow's bicubic bytes) or `tf1` (torch-fidelity).
      sha256: what the file must hash to, or its first digits.

    Raises:
      ValueError: an unknown protocol; no such file; a file that is damaged, of another network, or a program.
    """
    preparation.checked(protocol, PROTOCOLS, "clip")
    path = files.find(FILES, weights, source=SOURCE)
    _check_is_no_program(path)
    held, found = files.opened(path, sha256=sha256)
    flat = _in_openai_names(files.flattened(held, "CLIP"))
    arrays = files.arrays(flat, shapes(flat), of="CLIP's image tower", ignored=r"(?!visual\.).*")
    size = arrays["visual.conv1.weight"].shape[-1] * vit.side(len(arrays["visual.positional_embedding"]))
    return CLIP(converted(arrays), protocol=protocol, sha256=found, size=size)


def _check_is_no_program(path: Path) -> None:
    """Refuses TorchScript, as OpenAI publishes CLIP: code that only torch runs, with the tensors."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError(
                f"{path} is TorchScript, a program, and only files of tensors are read: where torch is, "
                f"torch.save(torch.jit.load({path.name!r}, map_location='cpu').state_dict(), {FILES[0]!r}) makes one; "
                f"or take the one at {SOURCE}")


def _in_openai_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns Hugging Face's arrays under OpenAI's names; others as they are."""
    made: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        query = QUERY.fullmatch(name)
        if query:
            parts = [arrays[part] for part in (name.replace("q_proj", f"{p}_proj") for p in "qkv") if part in arrays]
            made[f"visual.transformer.resblocks.{query[1]}.attn.in_proj_{query[2]}"] = np.concatenate(parts)
        elif name == "visual_projection.weight":
            made["visual.proj"] = array.T
        else:
            known = (re.sub(ours, theirs, name) for ours, theirs in OPENAI.items() if re.match(ours, name))
            made[next(known, name)] = array
    return made


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of an image tower of these arrays' widths and depth; ViT-L/14's where they do not tell."""
    shape = lambda name, otherwise: arrays[name].shape if name in arrays else otherwise
    patches, projection = shape("visual.conv1.weight", (1024, 3, 14, 14)), shape("visual.proj", (1024, 768))
    d, p, tokens = patches[0], patches[-1], shape("visual.positional_embedding", (577, 1024))[0]
    found: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (d,), "visual.positional_embedding": (1 + vit.side(tokens)**2, d),
        "visual.conv1.weight": (d, 3, p, p), "visual.proj": (d, projection[-1])}
    found |= {f"visual.{norm}.{part}": (d,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    for i in range(vit.depth(arrays, "visual.transformer.resblocks.", ".ln_1.weight") or 24):
        at = f"visual.transformer.resblocks.{i}."
        found |= {at + "attn.in_proj_weight": (3 * d, d), at + "attn.in_proj_bias": (3 * d,)}
        for name, shape_of in {"attn.out_proj": (d, d), "mlp.c_fc": (4 * d, d), "mlp.c_proj": (d, 4 * d)}.items():
            found |= {f"{at}{name}.weight": shape_of, f"{at}{name}.bias": shape_of[:1]}
        found |= {f"{at}{norm}.{part}": (d,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return found


def converted(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Params:
    """Returns the parameters of `vit.forward`, and `projection`, of the arrays in `shapes`."""
    arrays = {name.removeprefix("visual."): array.astype(dtype) for name, array in arrays.items()}
    blocks = []
    for i in range(vit.depth(arrays, "transformer.resblocks.", ".ln_1.weight")):
        at = f"transformer.resblocks.{i}."
        blocks.append({
            "norm0": vit.layer(arrays, at + "ln_1", norm=True), "norm1": vit.layer(arrays, at + "ln_2", norm=True),
            "qkv": {"kernel": arrays[at + "attn.in_proj_weight"].T, "bias": arrays[at + "attn.in_proj_bias"]},
            "out": vit.layer(arrays, at + "attn.out_proj"), "mlp0": vit.layer(arrays, at + "mlp.c_fc"),
            "mlp1": vit.layer(arrays, at + "mlp.c_proj"),
        })
    kernel = arrays["conv1.weight"]  # [d, 3, p, p]
    d = len(kernel)
    return {"patch": {"kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, d), "bias": np.zeros(d, dtype)},
            "class": arrays["class_embedding"], "position": arrays["positional_embedding"],
            "norm_in": vit.layer(arrays, "ln_pre", norm=True), "norm": vit.layer(arrays, "ln_post", norm=True),
            "blocks": vit.each(blocks), "projection": arrays["proj"]}
