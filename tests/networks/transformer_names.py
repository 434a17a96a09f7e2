"""How the peers of the transformers name their tensors, as (pattern, target, transform): the first match decides.

As in `peer_names`; besides, the group `layer` of a pattern is stacked on axis 0, and the group `part`, which is
q, k or v, on the axis before the heads.
Imports numpy alone, since `tests/golden/make_transformers.py` reads it too.
"""

import re

import numpy as np
from networks.peer_names import drawn, heads, kernel, same

__all__ = ["DIT", "JIT", "MMDIT", "UVIT", "converted", "drawn"]

PARTS = "qkv"


def patches(value, shape):
    """A strided convolution [o, c, p, p] to the dense layer on flattened patches [p*p*c, o]."""
    return value.transpose(2, 3, 1, 0).reshape(shape)


def joined(value, shape):
    """A projection [o, (heads, dim)] to [heads, dim, o]."""
    return value.T.reshape(shape)


def swapped(value, shape):
    """(scale, shift) to (shift, scale)."""
    first, second = np.split(value, 2)
    return np.concatenate([second, first]).T


def table(value, shape):
    """[1, n, c] to [n, c]."""
    return value[0]


def _layer(pattern, target, transform=kernel):
    """The rules of a layer with weight and bias."""
    return ((rf"{pattern}\.weight", f"{target}/kernel", transform),
            (rf"{pattern}\.bias", f"{target}/bias", swapped if transform is swapped else same))


def _qkv(pattern, target):
    """Three layers that are one here; `pattern` holds the group `part`."""
    return ((rf"{pattern}\.weight", f"{target}/kernel", heads), (rf"{pattern}\.bias", f"{target}/bias", heads))


def _packed(stem, target, out=r"attn\.proj"):
    return (*_qkv(rf"{stem}\.attn\.qkv", f"{target}/attention/qkv"),
            *_layer(rf"{stem}\.{out}", f"{target}/attention/out", joined))


_B = r"transformer_blocks\.(?P<layer>\d+)"
_E = r"transformer_blocks\.0\.norm1\.emb"

DIT = (  # diffusers, which keeps a copy of the embedding in every block
    *_layer(r"pos_embed\.proj", "patch", patches),
    *_layer(rf"{_E}\.timestep_embedder\.linear_1", "noise0"),
    *_layer(rf"{_E}\.timestep_embedder\.linear_2", "noise1"),
    (rf"{_E}\.class_embedder\.embedding_table\.weight", "label/embedding", same),
    (r"transformer_blocks\.\d+\.norm1\.emb\..*", None, same),
    *_layer(rf"{_B}\.norm1\.linear", "blocks/modulation"),
    *_qkv(rf"{_B}\.attn1\.to_(?P<part>[qkv])", "blocks/attention/qkv"),
    *_layer(rf"{_B}\.attn1\.to_out\.0", "blocks/attention/out", joined),
    *_layer(rf"{_B}\.ff\.net\.0\.proj", "blocks/mlp0"),
    *_layer(rf"{_B}\.ff\.net\.2", "blocks/mlp1"),
    *_layer(r"proj_out_1", "modulation"),
    *_layer(r"proj_out_2", "out"),
)


def _jit_blocks(layers, target):
    stem = rf"blocks\.(?P<layer>{layers})"
    return (
        (rf"{stem}\.norm1\.weight", f"{target}/norm0/scale", same),
        (rf"{stem}\.norm2\.weight", f"{target}/norm1/scale", same),
        (rf"{stem}\.attn\.([qk])_norm\.weight", rf"{target}/attention/\2_norm/scale", same),
        *_packed(stem, target),
        *_layer(rf"{stem}\.mlp\.w12", f"{target}/mlp0"),
        *_layer(rf"{stem}\.mlp\.w3", f"{target}/mlp1"),
        *_layer(rf"{stem}\.adaLN_modulation\.1", f"{target}/modulation"),
    )


JIT = (  # azula's copy of the authors' code, with the class tokens before block 1
    (r"pos_embed", None, same),
    (r"in_context_posemb", "class_position", table),
    (r"x_embedder\.proj1\.weight", "patch0/kernel", patches),
    *_layer(r"x_embedder\.proj2", "patch1", patches),
    *_layer(r"t_embedder\.mlp\.0", "noise0"),
    *_layer(r"t_embedder\.mlp\.2", "noise1"),
    (r"y_embedder\.embedding_table\.weight", "label/embedding", same),
    *_jit_blocks("0", "early"),
    *_jit_blocks(r"\d+", "late"),
    (r"final_layer\.norm_final\.weight", "norm/scale", same),
    *_layer(r"final_layer\.adaLN_modulation\.1", "modulation"),
    *_layer(r"final_layer\.linear", "out"),
)


def _stream(target, norm, feed, out, added, number):
    """The rules of one stream of MMDiT, in all blocks but the last and in the last, which is layer `number`."""
    rules = []
    for stem, home in ((rf"transformer_blocks\.{number}", f"last/{target}"), (_B, f"blocks/{target}")):
        final = target == "text" and home.startswith("last")
        rules += [
            *_layer(rf"{stem}\.{norm}\.linear", f"{home}/modulation", swapped if final else kernel),
            *_qkv(rf"{stem}\.attn\.{added}", f"{home}/qkv"),
            *_layer(rf"{stem}\.attn\.{out}", f"{home}/out", joined),
            *_layer(rf"{stem}\.{feed}\.net\.0\.proj", f"{home}/mlp0"),
            *_layer(rf"{stem}\.{feed}\.net\.2", f"{home}/mlp1"),
        ]
        rms = "added_" if target == "text" else ""
        rules += [(rf"{stem}\.attn\.norm_{rms}{part}\.weight", f"{home}/{part}_norm/scale", same) for part in "qk"]
    return tuple(rules)


MMDIT = (  # diffusers, three blocks
    (r"pos_embed\.pos_embed", None, same),
    *_layer(r"pos_embed\.proj", "patch", patches),
    *_layer(r"time_text_embed\.timestep_embedder\.linear_1", "noise0"),
    *_layer(r"time_text_embed\.timestep_embedder\.linear_2", "noise1"),
    *_layer(r"time_text_embed\.text_embedder\.linear_1", "pooled0"),
    *_layer(r"time_text_embed\.text_embedder\.linear_2", "pooled1"),
    *_layer(r"context_embedder", "text"),
    *_stream("image", "norm1", "ff", r"to_out\.0", r"to_(?P<part>[qkv])", 2),
    *_stream("text", "norm1_context", "ff_context", "to_add_out", r"add_(?P<part>[qkv])_proj", 2),
    *_layer(r"norm_out\.linear", "modulation", swapped),
    *_layer(r"proj_out", "out"),
)


def _uvit_block(stem, target):
    return (
        *((rf"{stem}\.norm{i + 1}\.{theirs}", f"{target}/norm{i}/{ours}", same)
          for i in range(2) for theirs, ours in (("weight", "scale"), ("bias", "bias"))),
        *_packed(stem, target),
        *_layer(rf"{stem}\.mlp\.fc1", f"{target}/mlp0"),
        *_layer(rf"{stem}\.mlp\.fc2", f"{target}/mlp1"),
    )


UVIT = (  # the authors' code
    (r"pos_embed", "position/table", table),
    *_layer(r"patch_embed\.proj", "patch", patches),
    (r"label_emb\.weight", "label/embedding", same),
    *_uvit_block(r"in_blocks\.(?P<layer>\d+)", "first/block"),
    *_uvit_block("mid_block", "middle"),
    *_layer(r"out_blocks\.(?P<layer>\d+)\.skip_linear", "second/skip"),
    *_uvit_block(r"out_blocks\.(?P<layer>\d+)", "second/block"),
    (r"norm\.weight", "norm/scale", same),
    (r"norm\.bias", "norm/bias", same),
    *_layer("decoder_pred", "out"),
    *_layer("final_layer", "out_conv"),
)


def found(name, rules):
    """Returns (path or None, layer or None, part or None, transform) of a peer's name."""
    for pattern, target, transform in rules:
        match = re.fullmatch(pattern, name)
        if match:
            groups = match.groupdict()
            layer, part = groups.get("layer"), groups.get("part")
            return target and match.expand(target), layer and int(layer), part and PARTS.index(part), transform
    raise KeyError(f"no rule for {name}")


def converted(source, rules, shapes):
    """Returns {path: value} of the peer's {name: value}; every one of `shapes` {path: shape} is filled once."""
    pieces = {}
    for name, value in source.items():
        path, layer, part, transform = found(name, rules)
        if path is None:
            continue
        assert path in shapes, f"{name} goes to {path}, which is not there"
        shape = shapes[path][layer is not None:]
        if part is not None:
            shape = shape[:-3] + shape[-2:]
        piece = transform(value, shape)
        assert piece.shape == shape, f"{name} is {value.shape}, {path} is {shape}"
        place = pieces.setdefault(path, {}).setdefault(layer, {})
        assert part not in place, f"{name} goes to {path}, which has a value"
        place[part] = piece
    made = {path: _stacked(layers) for path, layers in pieces.items()}
    assert {path: value.shape for path, value in made.items()} == shapes
    return made


def _stacked(layers):
    whole = {layer: parts[None] if None in parts else np.stack([parts[i] for i in range(3)], -3)
             for layer, parts in layers.items()}
    return whole[None] if None in whole else np.stack([whole[layer] for layer in sorted(whole)])


# What the peers are shown.

LABELS = (1, 4)
TIMES = {"dit": (730, 12), "jit": (0.25, 0.625), "mmdit": (120.0, 12.0), "uvit": (730.0, 12.0)}


def image(channels, size):
    """Images [2, channels, size, size], drawn by their name."""
    return 12 * drawn("x", (2, channels * size * size)).reshape(2, channels, size, size)


def text():
    """Tokens [2, 5, 24] and a pooled vector [2, 12]."""
    return 8 * drawn("text", (2, 5, 24)), 3 * drawn("pooled", (2, 12))
