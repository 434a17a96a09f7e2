"""How the peers of the UNets name their tensors, as (pattern, target, transform): the first that matches decides.

A pattern matches the whole of a peer's name; the target is a path in our tree, None for what we do not keep.
The transform takes (value, our shape).  Imports numpy alone, since `tests/golden/make_unets.py` reads it too.
"""

import re
import zlib
from itertools import pairwise

import numpy as np

SEED = 5


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that depends on its name and shape alone, of a size with which every part of a network is seen.

    Kernels have the standard deviation 1/√fan_in, also those that start at zero; norms are near 1, biases near 0.
    """
    unit = np.random.default_rng((SEED, zlib.crc32(name.encode()))).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return unit / np.float32(np.sqrt(np.prod(shape[1:])))
    if name.endswith("freqs"):
        return unit
    return np.float32(0.2) * unit + np.float32(name.endswith("weight"))


# Transforms.


def same(value, shape):
    return value


def kernel(value, shape):
    """OI to IO, OIHW to HWIO; a convolution of one pixel may stand for a dense layer."""
    return np.moveaxis(value, (0, 1), (-1, -2)).reshape(shape)


def heads(value, shape):
    """(3, heads, dim) rows to [c, 3, heads, dim], or to the bias [3, heads, dim]; (heads, dim) likewise."""
    rows = value.reshape(value.shape[0], -1)
    return (rows.T if value.ndim > 1 else value).reshape(shape)


def interleaved(value, shape):
    """Rows in the order (heads, dim, 3), EDM's."""
    _, n, dim = shape[-3:]
    rows = np.moveaxis(value.reshape(n, dim, 3, -1), 2, 0)  # [3, heads, dim, c]
    return np.moveaxis(rows, -1, 0).reshape(shape)


def legacy(value, shape):
    """Rows in the order (heads, 3, dim), OpenAI's old one."""
    _, n, dim = shape[-3:]
    rows = np.moveaxis(value.reshape(n, 3, dim, -1), 1, 0)
    return np.moveaxis(rows, -1, 0).reshape(shape)


# Tables.

EDM_BLOCK = (
    (r"(enc|dec)\.(\w+)\.norm([01])\.weight", r"\1_\2/norm\3/scale", same),
    (r"(enc|dec)\.(\w+)\.(?:attn\.norm|norm2)\.weight", r"\1_\2/norm2/scale", same),
    (r"(enc|dec)\.(\w+)\.(?:attn\.norm|norm2)\.bias", r"\1_\2/norm2/bias", same),
    (r"(enc|dec)\.(\w+)\.(?:attn\.)?qkv\.weight", r"\1_\2/attn/qkv/kernel", interleaved),
    (r"(enc|dec)\.(\w+)\.(?:attn\.)?qkv\.bias", r"\1_\2/attn/qkv/bias", interleaved),
    (r"(enc|dec)\.(\w+)\.(?:attn\.)?proj\.weight", r"\1_\2/attn/out/kernel", heads),
    (r"(enc|dec)\.(\w+)\.(?:attn\.)?proj\.bias", r"\1_\2/attn/out/bias", same),
    (r"(enc|dec)\.(\w+)\.(\w+)\.weight", r"\1_\2/\3/kernel", kernel),
    (r"(enc|dec)\.(\w+)\.(\w+)\.bias", r"\1_\2/\3/bias", same),
    (r"(enc|dec)\.(\w+aux_norm)\.weight", r"\1_\2/scale", same),
    (r"(enc|dec)\.(\w+)\.weight", r"\1_\2/kernel", kernel),
    (r"(enc|dec)\.(\w+)\.bias", r"\1_\2/bias", same),
    (r"map_label\.(weight)", "map_label/linear/kernel", kernel),
    (r"map_label\.(bias)", "map_label/linear/bias", same),
    (r"map_noise\.freqs", "map_noise/freqs", same),
    (r"(map_\w+|out_conv)\.weight", r"\1/kernel", kernel),
    (r"out_norm\.weight", "out_norm/scale", same),
    (r"(\w+)\.bias", r"\1/bias", same),
)


def song(resolution: int):
    """EDM's SongUNet, whose last layers bear the name of their level."""
    level = rf"dec\.{resolution}x{resolution}"
    return (
        (rf"{level}_aux_norm\.weight", "out_norm/scale", same),
        (rf"{level}_aux_conv\.weight", "out_conv/kernel", kernel),
        (rf"{level}_aux_(norm|conv)\.bias", r"out_\1/bias", same),
        *EDM_BLOCK,
    )


def openai(encoder, decoder, order=heads):
    """OpenAI's UNetModel, whose blocks bear numbers, from our plan of it."""
    made = [*_layer(r"input_blocks\.0\.0", encoder[0].name, kernel)]
    for i, block in enumerate(encoder[1:], 1):
        made += _block(rf"input_blocks\.{i}", 0, block, order)
    made += _block(r"middle_block", 0, decoder[0], order) + _block(r"middle_block", 2, decoder[1], order)
    number = -1
    for before, block in pairwise(decoder[1:]):
        number += block.mode == "keep"
        place = 0 if block.mode == "keep" else 1 + before.attention  # the last of those under one number goes up
        made += _block(rf"output_blocks\.{number}", place, block, order)
    for place, name in (("0", "map_layer0"), ("2", "map_layer1")):
        made += _layer(rf"time_embed\.{place}", name, kernel)
    made.append((r"label_emb\.weight", "map_label/linear/kernel", same))
    return (*made, *_norm(r"out\.0", "out_norm"), *_layer(r"out\.2", "out_conv", kernel))


def _layer(pattern, target, transform):
    return [(rf"{pattern}\.weight", f"{target}/kernel", transform), (rf"{pattern}\.bias", f"{target}/bias", same)]


def _norm(pattern, target):
    return [(rf"{pattern}\.weight", f"{target}/scale", same), (rf"{pattern}\.bias", f"{target}/bias", same)]


def _block(stem, place, block, order):
    at, attn = rf"{stem}\.{place}", rf"{stem}\.{place + 1}"
    made = _norm(rf"{at}\.in_layers\.0", f"{block.name}/norm0") + _norm(rf"{at}\.out_layers\.0", f"{block.name}/norm1")
    for peer, ours in ((r"in_layers\.2", "conv0"), (r"out_layers\.3", "conv1"), (r"emb_layers\.1", "affine"),
                       ("skip_connection", "skip")):
        made += _layer(rf"{at}\.{peer}", f"{block.name}/{ours}", kernel)
    if block.attention:
        made += _norm(rf"{attn}\.norm", f"{block.name}/norm2")
        made += [(rf"{attn}\.qkv\.(?:weight)", f"{block.name}/attn/qkv/kernel", order),
                 (rf"{attn}\.qkv\.bias", f"{block.name}/attn/qkv/bias", order),
                 (rf"{attn}\.proj_out\.weight", f"{block.name}/attn/out/kernel", heads),
                 (rf"{attn}\.proj_out\.bias", f"{block.name}/attn/out/bias", same)]
    return made


def stable(depth: int):
    """The UNet of diffusers with so many levels; q, k and v are tensors of their own there, `part` joins them."""
    made = []
    low = depth - 1
    for level in range(depth):
        made += _stable_level(rf"down_blocks\.{level}", f"enc_{level}_block")
        made += _stable_level(rf"up_blocks\.{low - level}", f"dec_{level}_block")
        made += _layer(rf"down_blocks\.{level}\.downsamplers\.0\.conv", f"enc_{level + 1}_down", kernel)
        made += _layer(rf"up_blocks\.{low - level}\.upsamplers\.0\.conv", f"dec_{level - 1}_up", kernel)
    for place, name in (("linear_1", "map_layer0"), ("linear_2", "map_layer1")):
        made += _layer(rf"time_embedding\.{place}", name, kernel)
    return (*made, *_stable_level("mid_block", f"dec_{low}_in"), *_layer("conv_in", "enc_0_conv", kernel),
            *_norm("conv_norm_out", "out_norm"), *_layer("conv_out", "out_conv", kernel))


def _stable_level(stem, target):
    res, at = rf"{stem}\.resnets\.(\d+)", rf"{stem}\.attentions\.(\d+)"
    block, outside = rf"{at}\.transformer_blocks\.(\d+)", rf"{target}\1_transformer"
    inside = rf"{outside}/block\2"
    made = []
    for i in range(2):
        made += _norm(rf"{res}\.norm{i + 1}", rf"{target}\1/norm{i}")
        made += _layer(rf"{res}\.conv{i + 1}", rf"{target}\1/conv{i}", kernel)
    made += _layer(rf"{res}\.time_emb_proj", rf"{target}\1/affine", kernel)
    made += _layer(rf"{res}\.conv_shortcut", rf"{target}\1/skip", kernel)
    made += _norm(rf"{at}\.norm", f"{outside}/norm")
    made += _layer(rf"{at}\.proj_in", f"{outside}/in", kernel) + _layer(rf"{at}\.proj_out", f"{outside}/out", kernel)
    for i in range(3):
        made += _norm(rf"{block}\.norm{i + 1}", f"{inside}/norm{i}")
    for i, name in enumerate(("self", "cross"), 1):
        made += [(rf"{block}\.attn{i}\.to_out\.0\.weight", f"{inside}/{name}/out/kernel", heads),
                 (rf"{block}\.attn{i}\.to_out\.0\.bias", f"{inside}/{name}/out/bias", same)]
    made.append((rf"{block}\.attn1\.to_(?P<part>[qkv])\.weight", f"{inside}/self/qkv/kernel", heads))
    made.append((rf"{block}\.attn2\.to_q\.weight", f"{inside}/cross/q/kernel", heads))
    made.append((rf"{block}\.attn2\.to_(?P<part>[kv])\.weight", f"{inside}/cross/kv/kernel", heads))
    return (made + _layer(rf"{block}\.ff\.net\.0\.proj", f"{inside}/mlp0", kernel)
            + _layer(rf"{block}\.ff\.net\.2", f"{inside}/mlp1", kernel))


def converted(source, rules, shapes):
    """Returns {path: value} of the peer's {name: value}; every one of `shapes` {path: shape} is filled once.

    Where a pattern has a group `part`, the values of q, k and v are joined along axis 1.
    """
    made, parts = {}, {}
    for name, value in source.items():
        match, target, transform = _matched(rules, name)
        if target is None:
            continue
        path, part = match.expand(target), match.groupdict().pop("part", None)
        assert path in shapes, f"{name} goes to {path}, which is not there"
        assert path not in made, f"{name} goes to {path}, which has a value"
        if part:
            c, n, *rest = shapes[path]
            parts.setdefault(path, {})[part] = transform(value, (c, *rest))
            if len(parts[path]) < n:
                continue
            made[path] = np.stack([parts[path][part] for part in "qkv"[-n:]], 1)
        else:
            made[path] = transform(value, shapes[path])
        assert made[path].shape == shapes[path], f"{name} is {value.shape}, {path} is {shapes[path]}"
    missing = set(shapes) - set(made)
    assert not missing, f"the peer has nothing for {sorted(missing)}"
    return made


def _matched(rules, name):
    for pattern, target, transform in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match, target, transform
    raise KeyError(f"no rule for {name}")
