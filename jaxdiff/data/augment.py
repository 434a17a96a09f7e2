"""EDM's augmentation, on the device: the network is told what was done, so that its samples show none of it.

An operation is done to an image with probability p times its multiplier; its draw is part of the labels:

    x_flip, y_flip   mirrored, one time in two              brightness   x + 0.2 w
    quarter_turns    by k·90°, k uniform in 0..3            contrast     x 2^(w/2)
    whole_shift      by whole pixels, uniform in ±n/8       luma_flip    gray becomes -gray, one time in two
    scale            by 2^(0.2 w)                           hue          about the gray axis, uniform in ±π
    rotate           by an angle, uniform in ±π             saturation   by 2^w across the gray axis
    stretch          by 2^(0.2 w) along an axis, by 2^(-0.2 w) across it
    shift            by w n/8

(w normal, n the side.)  The first four move whole pixels.  Scale, rotate, stretch and shift are one map of the plane,
read bilinearly from the image at twice its size, between two orthogonal wavelet filters (sym6): nothing aliases, and
where the map moves nothing the image comes back.  Beyond its border an image is its mirror image.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.data.pixels import to_float
from jaxdiff.data.warp import mirrored, warped
from jaxdiff.protocols import Array, Batch, Key, Params

__all__ = ["Augmented", "augmented"]

SIZES, SHIFTS = 0.2, 0.125  # deviations of the log2 of scale and stretch, and of shifts in sides
BRIGHTNESS, CONTRAST = 0.2, 0.5  # deviations, the second of a log2
TURNED = 0.5  # how often a stretch is along any axis, and not along the rows
ONTO_GRAY = np.pad(np.full((3, 3), 1 / 3), (0, 1))  # [4, 4]: colours are (red, green, blue, 1)
ROUND_GRAY = np.pad(np.cross(np.eye(3), np.full(3, 1 / math.sqrt(3))), (0, 1))  # times a colour: gray x colour
EXACT = jax.lax.Precision.HIGHEST

Operation = Callable[[Key, Array, tuple[int, ...]], tuple]  # (key, on [b], shape) -> what it does, labels [b, k]


@dataclasses.dataclass(frozen=True)
class Augmented:
    """See `augmented`; equal options make equal parts, which compile once."""

    probability: float
    multipliers: tuple[tuple[str, float], ...]  # in the order of the labels
    conditions: tuple[str, ...] = ("label",)

    def __call__(self, batch: Batch, key: Key, frozen: Params = None) -> dict:
        del frozen
        x = to_float(batch["image"])
        plane, colour, labels = jnp.eye(3)[None], jnp.eye(4)[None], []
        for name, multiplier in self.multipliers:
            gate, draw = jax.random.split(jax.random.fold_in(key, ORDER.index(name)))
            on = jax.random.uniform(gate, x.shape[:1]) < multiplier * self.probability
            change, label = {**MOVES, **PLANE, **COLOUR}[name](draw, on, x.shape)
            labels.append(label)
            if name in MOVES:
                x = change(x)
            elif name in PLANE:
                plane = jnp.matmul(plane, change, precision=EXACT)
            else:
                colour = jnp.matmul(change, colour, precision=EXACT)
        names = {name for name, _ in self.multipliers}
        x = _where_changed(plane, warped, x) if names & set(PLANE) else x
        x = _where_changed(colour, _coloured, x) if names & set(COLOUR) else x
        cond = {name: batch[name] for name in self.conditions if name in batch}
        return {"x0": x, "cond": cond | {"augment": jnp.concatenate(labels, -1).astype(jnp.float32)}}


def augmented(*, probability: float = 0.12, x_flip: float = 1e8, y_flip: float = 1.0, quarter_turns: float = 0.0,
              whole_shift: float = 0.0, scale: float = 1.0, rotate: float = 1.0, stretch: float = 1.0,
              shift: float = 1.0, brightness: float = 0.0, contrast: float = 0.0, luma_flip: float = 0.0,
              hue: float = 0.0, saturation: float = 0.0, conditions: tuple = ("label",)) -> Augmented:
    """Makes the `prepare` of images that are augmented; see the module for what each operation does.

    Args:
      probability: p in [0, 1], of every operation by itself; EDM has .12 on CIFAR-10 and .15 on FFHQ and AFHQ.
      x_flip, y_flip, quarter_turns, whole_shift, scale, rotate, stretch, shift, brightness, contrast, luma_flip, hue,
        saturation: multipliers of p, >= 0; 0 leaves an operation and its labels out, 1e8 does it always.  As they are
        here there are 9 labels: 1 of each flip and of scale, 2 of rotate, stretch and shift.
      conditions: what beside the image becomes the condition, where it is there; () for none.

    Returns:
      `prepare(batch, key, frozen=None)`, which turns `{"image": uint8 [b, h, w, c], ...}` into `{"x0": float32
      [b, h, w, c], "cond": {"augment": float32 [b, k], ...}}`.  Labels are zero exactly where an image is as it was;
      so are those of samples, which networks take for granted.  Colours may leave [-1, 1].  As in EDM the labels of a
      stretch are those of its inverse along the opposite direction.

    Raises:
      ValueError: a number out of its range, or no operation.

    Source: Karras et al. 2022 (EDM), appendix F.2, table 6; Karras et al. 2020 (ADA), appendix B.  Not as there: sym6
    is laid where it does not move a smooth image, and images are mirrored over and over, not once.
    """
    given = dict(x_flip=x_flip, y_flip=y_flip, quarter_turns=quarter_turns, whole_shift=whole_shift, scale=scale,
                 rotate=rotate, stretch=stretch, shift=shift, brightness=brightness, contrast=contrast,
                 luma_flip=luma_flip, hue=hue, saturation=saturation)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    for name, value in given.items():
        if not value >= 0:
            raise ValueError(f"{name} multiplies a probability and must be >= 0, got {value}")
    used = tuple((name, given[name]) for name in ORDER if given[name])
    if not used:
        raise ValueError("no operation has a multiplier above 0; `images` leaves images as they are")
    return Augmented(probability, used, tuple(conditions))


# Moves of whole pixels: x -> x.


def _flip(axis: int) -> Operation:
    def operation(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Callable, Array]:
        del shape
        flipped = on & jax.random.bernoulli(key, 0.5, on.shape)
        return lambda x: _chosen(flipped, jnp.flip(x, axis), x), flipped[:, None]

    return operation


def _quarter_turns(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Callable, Array]:
    if shape[1] != shape[2]:
        raise ValueError(f"quarter_turns need square images, got {shape[1]}x{shape[2]}")
    turns = on * jax.random.randint(key, on.shape, 0, 4)
    label = jnp.stack([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)], -1)

    def change(x: Array) -> Array:
        turned = x
        for number in (1, 2, 3):
            turned = _chosen(turns == number, jnp.rot90(x, number, (1, 2)), turned)
        return turned

    return change, label


def _whole_shift(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Callable, Array]:
    most = SHIFTS * np.array([shape[2], shape[1]])  # of x and y
    by = jnp.round(on[:, None] * jax.random.uniform(key, (len(on), 2), minval=-1, maxval=1) * most)

    def change(x: Array) -> Array:
        for axis, shift in ((1, by[:, 1]), (2, by[:, 0])):
            index = mirrored(jnp.arange(x.shape[axis]) - shift[:, None], x.shape[axis]).astype(int)
            x = jnp.take_along_axis(x, jnp.expand_dims(index, (2, 3) if axis == 1 else (1, 3)), axis)
        return x

    return change, by / most


# Maps of the plane, [b, 3, 3]: where a pixel (x, y, 1) of the result, from the centre, was before.


def _scale(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    w = on * jax.random.normal(key, on.shape)
    smaller = jnp.exp2(-SIZES * w)
    return _matrix([[smaller, 0, 0], [0, smaller, 0], [0, 0, 1]], w), w[:, None]


def _rotate(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    angle = on * jax.random.uniform(key, on.shape, minval=-math.pi, maxval=math.pi)
    return _turn(angle), jnp.stack([jnp.cos(angle) - 1, jnp.sin(angle)], -1)


def _stretch(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    size_key, turned_key, axis_key = jax.random.split(key, 3)
    w = on * jax.random.normal(size_key, on.shape)
    turned = on & jax.random.bernoulli(turned_key, TURNED, on.shape)
    axis = turned * jax.random.uniform(axis_key, on.shape, minval=-math.pi, maxval=math.pi)
    along, across = jnp.exp2(-SIZES * w), jnp.exp2(SIZES * w)
    change = _matrix([[along, 0, 0], [0, across, 0], [0, 0, 1]], w)
    change = jnp.matmul(_turn(-axis), jnp.matmul(change, _turn(axis), precision=EXACT), precision=EXACT)
    return change, jnp.stack([w * jnp.cos(axis), w * jnp.sin(axis)], -1)


def _shift(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    w = on[:, None] * jax.random.normal(key, (len(on), 2))
    x, y = w[:, 0] * SHIFTS * shape[2], w[:, 1] * SHIFTS * shape[1]
    return _matrix([[1, 0, -x], [0, 1, -y], [0, 0, 1]], x), w


def _turn(angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], angle)


def _matrix(rows: list, like: Array) -> Array:
    return jnp.stack([jnp.stack([jnp.broadcast_to(value, like.shape) for value in row], -1) for row in rows], -2)


# Maps of colours, [b, 4, 4], of (red, green, blue, 1).


def _brightness(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    w = on * jax.random.normal(key, on.shape)
    return jnp.eye(4) + BRIGHTNESS * w[:, None, None] * np.outer([1, 1, 1, 0], [0, 0, 0, 1]), w[:, None]


def _contrast(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    w = on * jax.random.normal(key, on.shape)
    return _scaled(jnp.exp2(CONTRAST * w), np.diag([1, 1, 1, 0])), w[:, None]


def _luma_flip(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    del shape
    flipped = on & jax.random.bernoulli(key, 0.5, on.shape)
    return _scaled(1 - 2.0 * flipped, ONTO_GRAY), flipped[:, None]


def _hue(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    _check_coloured("hue", shape)
    angle = on * jax.random.uniform(key, on.shape, minval=-math.pi, maxval=math.pi)
    label = jnp.stack([jnp.cos(angle) - 1, jnp.sin(angle)], -1)
    change = _scaled(1 + label[:, 0], np.diag([1, 1, 1, 0]) - ONTO_GRAY) + label[:, 1, None, None] * ROUND_GRAY
    return change, label


def _saturation(key: Key, on: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    _check_coloured("saturation", shape)
    w = on * jax.random.normal(key, on.shape)
    return _scaled(jnp.exp2(w), np.diag([1, 1, 1, 0]) - ONTO_GRAY), w[:, None]


def _scaled(factor: Array, onto: np.ndarray) -> Array:
    """Returns what scales the part of a colour that the projection `onto` keeps; exactly 1 for a factor of 1."""
    return jnp.eye(4) + (factor - 1)[:, None, None] * onto


def _check_coloured(name: str, shape: tuple[int, ...]) -> None:
    if shape[3] != 3:
        raise ValueError(f"{name} needs images of 3 channels, got {shape[3]}")


MOVES = {"x_flip": _flip(2), "y_flip": _flip(1), "quarter_turns": _quarter_turns, "whole_shift": _whole_shift}
PLANE = {"scale": _scale, "rotate": _rotate, "stretch": _stretch, "shift": _shift}
COLOUR = {"brightness": _brightness, "contrast": _contrast, "luma_flip": _luma_flip, "hue": _hue,
          "saturation": _saturation}
ORDER = (*MOVES, *PLANE, *COLOUR)


# What the maps do.


def _where_changed(matrix: Array, apply: Callable[[Array, Array], Array], x: Array) -> Array:
    """Returns what `apply` makes of the images whose matrix is not the identity, and the others as they are."""
    return _chosen((matrix != jnp.eye(matrix.shape[-1])).any((1, 2)), apply(x, matrix), x)


def _chosen(which: Array, one: Array, other: Array) -> Array:
    return jnp.where(which[:, None, None, None], one, other)


def _coloured(x: Array, matrix: Array) -> Array:
    """Returns x [b, h, w, c] with its colours mapped; of gray, the mean of what becomes of it as a colour."""
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"colours are of images with 3 channels or 1, got {x.shape[-1]}")
    linear, constant = matrix[:, :3, :3], matrix[:, :3, 3]
    if x.shape[-1] == 1:
        linear, constant = linear.sum(2, keepdims=True).mean(1, keepdims=True), constant.mean(1, keepdims=True)
    return jnp.einsum("bij,bhwj->bhwi", linear, x, precision=EXACT) + constant[:, None, None]
