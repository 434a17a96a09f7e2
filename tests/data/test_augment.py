"""EDM's augmentation: each operation, how often, and what the network is told of it."""

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxdiff import experiment, networks, objective, overrides, parameterization, process
from jaxdiff.build import build
from jaxdiff.data import augment, pixels, prepare
from jaxdiff.data.augment import COLOUR, ORDER, PLANE
from jaxdiff.main import main

NONE = dict.fromkeys(ORDER, 0.0)
EVERY = dict.fromkeys(ORDER, 1.0)
WIDTHS = {"quarter_turns": 2, "whole_shift": 2, "rotate": 2, "stretch": 2, "shift": 2, "hue": 2}


def noise(count=32, side=12, channels=3):
    image = np.random.RandomState(0).randint(0, 256, (count, side, side, channels)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


def smooth(count=24, side=32, seed=0):
    """Images without detail, which every good interpolation agrees on; their borders are level, as mirrors want."""
    rng, at = np.random.RandomState(seed), np.arange(side) / (side - 1)
    waves = np.cos(np.pi * np.arange(4)[:, None] * at)  # [4, side]
    image = np.einsum("bcij,ix,jy->byxc", rng.randn(count, 3, 4, 4), waves, waves)
    image = 127.5 + 100 * image / np.abs(image).max((1, 2, 3), keepdims=True)
    return {"image": np.round(image).astype(np.uint8)}


@functools.lru_cache
def only(name, probability=1.0, **options):
    return jax.jit(augment.augmented(**NONE | {name: 1.0} | options, probability=probability))


def plain(batch):
    return np.asarray(jax.jit(pixels.images())(batch, jax.random.key(0))["x0"])


def made(part, batch, seed=0):
    out = part(batch, jax.random.key(seed))
    return np.asarray(out["x0"]), np.asarray(out["cond"]["augment"])


# What is untouched.


@pytest.mark.parametrize("side", [12, 9, 5], ids=["even", "odd", "smaller than the filter"])
def test_with_probability_zero_nothing_changes_to_the_bit(side):
    batch = noise(side=side)
    x, labels = made(jax.jit(augment.augmented(**EVERY, probability=0.0)), batch)
    np.testing.assert_array_equal(x, plain(batch))
    assert labels.shape == (32, 19) and x.dtype == labels.dtype == np.float32 and (labels == 0).all()


def test_labels_are_zero_exactly_where_an_image_is_as_it_was():
    batch = noise(count=400)
    x, labels = made(jax.jit(augment.augmented(**EVERY, probability=0.08)), batch)
    same, silent = (x == plain(batch)).all((1, 2, 3)), (labels == 0).all(1)
    np.testing.assert_array_equal(same, silent)
    assert 100 < same.sum() < 300


# Each operation alone, against another's arithmetic.


@pytest.mark.parametrize(("name", "axis"), [("x_flip", 2), ("y_flip", 1)])
def test_flips_are_exact(name, axis):
    batch = noise(count=400)
    x, labels = made(only(name), batch)
    flipped = labels[:, 0] == 1
    expected = np.where(flipped[:, None, None, None], np.flip(plain(batch), axis), plain(batch))
    np.testing.assert_array_equal(x, expected)
    assert set(np.unique(labels)) == {0, 1} and abs(flipped.mean() - 0.5) < 0.1


def test_quarter_turns_are_exact():
    batch = noise(count=200)
    x, labels = made(only("quarter_turns"), batch)
    turns = np.array([[0, 3], [1, 2]])[labels[:, 0].astype(int), labels[:, 1].astype(int)]
    for before, after, number in zip(plain(batch), x, turns, strict=True):
        np.testing.assert_array_equal(after, np.rot90(before, number))
    assert (np.bincount(turns) > 30).all()


def test_whole_shifts_mirror_at_the_border():
    batch = noise(count=100, side=16)
    x, labels = made(only("whole_shift"), batch)
    by = np.round(labels * 2).astype(int)  # an eighth of 16
    np.testing.assert_array_equal(by, labels * 2)
    for before, after, (right, down) in zip(plain(batch), x, by, strict=True):
        wide = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(after, wide[2 - down:18 - down, 2 - right:18 - right])
    assert set(by.ravel()) == {-2, -1, 0, 1, 2}


def reference(image, inverse):
    """Seen through a map, by cubic splines, mirrored without end; `inverse` is of (x, y), from the centre."""
    centre = (np.array(image.shape[1::-1]) - 1) / 2
    flip = np.eye(3)[[1, 0, 2]]  # scipy counts (row, column)
    matrix = flip @ inverse @ flip
    matrix[:2, 2] += centre[::-1] - matrix[:2, :2] @ centre[::-1]
    return np.stack([ndimage.affine_transform(band, matrix, order=3, mode="mirror")
                     for band in np.moveaxis(image, -1, 0)], -1)


def turn(angle):
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def inverses_of(name, label):
    """The maps that a label may stand for, written as ADA's paper does, T(x, y), R(angle), S(x, y), and undone."""
    angle, size = math.atan2(label[-1], label[0]), 2 ** (0.2 * np.linalg.norm(label))
    forward = {
        "scale": [np.diag([2 ** (0.2 * label[0])] * 2 + [1])],
        "rotate": [turn(-math.atan2(label[-1], label[0] + 1))],
        "stretch": [turn(-angle) @ np.diag([1 / other, other, 1]) @ turn(angle)  # w at an angle and -w at its opposite
                    for other in (size, 1 / size)],
        "shift": [np.array([[1, 0, label[0] * 4], [0, 1, label[-1] * 4], [0, 0, 1]])],
    }[name]
    return [np.linalg.inv(matrix) for matrix in forward]


def distance(after, before, inverses):
    """The least root mean square difference to an image seen through one of some maps."""
    return min(np.sqrt(np.mean((after - reference(before.astype(np.float64), inverse)) ** 2)) for inverse in inverses)


@pytest.mark.parametrize("name", PLANE)
def test_a_map_of_the_plane_is_what_its_label_says(name):
    batch = smooth()
    x, labels = made(only(name), batch)
    far = [distance(after, before, inverses_of(name, label))
           for before, after, label in zip(plain(batch), x, labels, strict=True)]
    assert max(far) < 0.004  # of 2, the range
    assert np.sqrt(np.mean((x - plain(batch)) ** 2)) > 0.03  # that is, something has moved


def test_maps_are_done_in_their_order():
    batch = smooth()
    part = augment.augmented(**NONE | dict.fromkeys(PLANE, 1.0), probability=1.0)
    x, labels = made(jax.jit(part), batch)
    for before, after, label in zip(plain(batch), x, labels, strict=True):
        parts = [inverses_of("scale", label[:1]), inverses_of("rotate", label[1:3]), inverses_of("stretch", label[3:5]),
                 inverses_of("shift", label[5:])]
        assert distance(after, before, [functools.reduce(np.matmul, one) for one in itertools.product(*parts)]) < 0.006


GRAY = np.full(3, 3**-0.5)


def turned_hue(colour, angle):
    """Rodrigues' rotation about the gray axis."""
    return (colour * math.cos(angle) + np.cross(GRAY, colour) * math.sin(angle)
            + GRAY * (colour @ GRAY)[..., None] * (1 - math.cos(angle)))


COLOURS = {
    "brightness": lambda x, label: x + 0.2 * label[0],
    "contrast": lambda x, label: x * 2 ** (label[0] / 2),
    "luma_flip": lambda x, label: x - 2 * label[0] * (x @ GRAY)[..., None] * GRAY,
    "hue": lambda x, label: turned_hue(x, math.atan2(label[1], label[0] + 1)),
    "saturation": lambda x, label: x.mean(-1, keepdims=True) + 2 ** label[0] * (x - x.mean(-1, keepdims=True)),
}


@pytest.mark.parametrize("name", COLOUR)
def test_a_map_of_colours_is_what_its_label_says(name):
    batch = noise(side=4)
    x, labels = made(only(name), batch)
    for before, after, label in zip(plain(batch), x, labels, strict=True):
        np.testing.assert_allclose(after, COLOURS[name](before, label), atol=2e-5)
    assert np.abs(x - plain(batch)).max((1, 2, 3)).min() > 0 or name == "luma_flip"


@pytest.mark.parametrize("name", ["brightness", "contrast", "luma_flip"])
def test_gray_images_have_the_colours_that_gray_can_have(name):
    batch = noise(side=4, channels=1)
    x, labels = made(only(name), batch)
    for before, after, label in zip(plain(batch), x, labels, strict=True):
        np.testing.assert_allclose(after, COLOURS[name](before.repeat(3, -1), label)[..., :1], atol=2e-5)


# How often.


def labels_of(part, count, seed=0):
    """The labels of so many images, without their pixels."""
    given = {"image": jnp.zeros((count, 2, 2, 3), jnp.uint8)}
    return np.asarray(jax.jit(lambda key: part(given, key)["cond"]["augment"])(jax.random.key(seed)))


def test_every_operation_is_done_as_often_as_it_should_be():
    count, p = 20_000, 0.12
    multipliers = EVERY | {"x_flip": 1e8, "scale": 0.5, "hue": 3.0}
    labels = labels_of(augment.augmented(**multipliers, probability=p), count)
    within = {"x_flip": 1 / 2, "y_flip": 1 / 2, "luma_flip": 1 / 2, "quarter_turns": 3 / 4}
    within["whole_shift"] = 0  # of two pixels an eighth is none
    start = 0
    for name in ORDER:
        width = WIDTHS.get(name, 1)
        done = (labels[:, start:start + width] != 0).any(1).mean()
        start += width
        chance = min(1, multipliers[name] * p) * within.get(name, 1)
        assert abs(done - chance) <= 4 * math.sqrt(chance * (1 - chance) / count), name
    assert start == labels.shape[1] == 19


def test_draws_have_the_laws_of_the_paper():
    count = 20_000
    always = lambda *names: labels_of(augment.augmented(**NONE | dict.fromkeys(names, 1.0), probability=1.0), count)
    normal = always("scale", "shift", "brightness", "contrast", "saturation")
    assert (abs(normal.mean(0)) < 0.03).all() and (abs(normal.std(0) - 1) < 0.02).all()
    assert abs(np.corrcoef(normal.T) - np.eye(6)).max() < 0.03
    angles = always("rotate", "hue", "stretch")
    for cos, sin in (angles[:, :2].T, angles[:, 4:].T):
        turned = np.sort(np.arctan2(sin, cos + 1)) / np.pi
        assert abs(turned - np.linspace(-1, 1, count)).max() < 2 * 1.95 / math.sqrt(count)  # Kolmogorov, .001
    along, across = angles[:, 2:4].T
    assert abs((across == 0).mean() - 0.5) < 0.015  # half of the stretches are along the rows
    assert abs(np.hypot(along, across).mean() - math.sqrt(2 / math.pi)) < 0.02


def test_operations_and_steps_draw_by_themselves():
    part = augment.augmented(**EVERY, probability=0.5)
    one, other = labels_of(part, 3_000), labels_of(part, 3_000, seed=1)
    assert not ((one == other) & (one != 0) & (one != 1)).any()
    together = np.corrcoef((one[:, [0, 1, 6, 7, 9, 11, 13, 14, 15, 18]] != 0).T)
    assert np.abs(together - np.eye(10)).max() < 0.08
    alone = labels_of(augment.augmented(**NONE | {"shift": 1.0}, probability=0.5), 3_000)
    np.testing.assert_array_equal(alone, one[:, 11:13])  # whatever else is done


# As a part.


def test_as_it_stands_it_is_edm_s_with_nine_labels():
    part = build({"name": "augmented"}, prepare)
    assert part == augment.augmented() and hash(part) == hash(augment.augmented())
    assert [name for name, _ in part.multipliers] == ["x_flip", "y_flip", "scale", "rotate", "stretch", "shift"]
    out = part(noise(), jax.random.key(0))
    assert out["cond"]["augment"].shape == (32, 9) and list(out["cond"]) == ["label", "augment"]
    assert list(augment.augmented(conditions=())(noise(), jax.random.key(0))["cond"]) == ["augment"]


def test_parts_of_before_are_still_there():
    for name in ("images", "latents", "as_is"):
        assert build(name, prepare) == build(name, pixels)


def test_images_need_not_be_square():
    given = {"image": np.random.RandomState(0).randint(0, 256, (8, 6, 10, 3)).astype(np.uint8)}
    x, _ = made(jax.jit(augment.augmented(probability=1.0)), given)
    assert x.shape == (8, 6, 10, 3) and np.isfinite(x).all()
    with pytest.raises(ValueError, match="quarter_turns need square images, got 6x10"):
        only("quarter_turns")(given, jax.random.key(0))


def test_a_row_gets_the_same_draw_on_any_mesh(run_python):
    run_python("""
        import jax, numpy as np
        from jaxdiff.data import augment
        given = {"image": np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3)).astype(np.uint8)}
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        part = augment.augmented(probability=0.5, brightness=1, contrast=1, luma_flip=1, hue=1, saturation=1,
                                 quarter_turns=1, whole_shift=1)
        put = jax.device_put(given, rows)
        prepare = jax.jit(part, out_shardings=rows)
        sharded, alone = prepare(put, jax.random.key(3)), jax.jit(part)(given, jax.random.key(3))
        np.testing.assert_allclose(sharded["cond"]["augment"], alone["cond"]["augment"], atol=1e-6)
        np.testing.assert_allclose(sharded["x0"], alone["x0"], atol=2e-5)
        assert "all-gather" not in prepare.lower(put, jax.random.key(3)).compile().as_text()
    """, devices=8)


@pytest.mark.parametrize(("options", "message"), [
    ({"probability": 1.5}, r"probability must lie in \[0, 1\], got 1\.5"),
    ({"scale": -1.0}, "scale multiplies a probability and must be >= 0, got -1"),
    (NONE, "no operation has a multiplier above 0; `images` leaves images as they are"),
])
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        augment.augmented(**options)


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_colours_that_gray_has_not(name):
    with pytest.raises(ValueError, match=f"{name} needs images of 3 channels, got 1"):
        only(name)(noise(channels=1), jax.random.key(0))
    with pytest.raises(ValueError, match="colours are of images with 3 channels or 1, got 4"):
        only("brightness")(noise(channels=4), jax.random.key(0))


# In a run.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """EDM's config for tests, with its augmentation, two steps of it."""
    folder = tmp_path_factory.mktemp("run")
    network = {"name": "SongUNet", "channels": 8, "mults": (1,), "blocks": 1, "attention": (), "num_classes": 10,
               "augment": 9}
    words = ["--config=configs/edm.py:tiny", f"--workdir={folder}", "--config.prepare={'name': 'augmented'}",
             f"--config.network={network}"]
    assert main(["train", *words]) == 0
    return folder


def test_a_run_trains_and_samples_are_not_augmented(trained, capsys):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert not any(line["skipped"] for line in lines if "skipped" in line)
    assert main(["sample", f"--workdir={trained}", "--num=2", "--guidance=2"]) == 0
    config = experiment.from_json(json.loads((trained / "config.json").read_text()))
    model = experiment.model(config, experiment.examples(trained, config))
    cond = experiment.conditions_of((), model)(np.arange(3))
    assert (cond["augment"] == 0).all() and cond["augment"].shape == (3, 9)
    assert (model.null["augment"] == 0).all() and model.null["label"] == 10


def test_without_classes_labels_of_augmentation_are_no_condition():
    config = overrides.apply(overrides.load("configs/edm.py:tiny"), [
        ("prepare", "{'name': 'augmented', 'conditions': ()}"), ("objective.drop", "0.0"),
        ("network", "{'name': 'SongUNet', 'channels': 8, 'mults': (1,), 'blocks': 1, 'attention': (), 'augment': 9}")])
    model = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    assert model.null is None and experiment.conditions_of((), model) is None


def test_a_network_that_is_not_told_refuses():
    config = overrides.apply(overrides.load("configs/edm.py:tiny"), [
        ("prepare", "{'name': 'augmented'}"), ("network.augment", "0")])
    loader = experiment.loader(config, experiment.meshed(config))
    with pytest.raises(ValueError, match="reads 'label' .* and nothing else, got augment, label"):
        experiment.model(config, loader.example)
    with pytest.raises(ValueError, match="unknown prepare 'augmentd'; did you mean 'augmented'"):
        experiment.model(overrides.apply(config, [("prepare", "{'name': 'augmentd'}")]), loader.example)


def test_dropping_a_condition_keeps_what_was_done_to_the_image():
    loss = objective.denoising(networks.MLP(), process.EDM(), parameterization.edm(sigma_data=0.5), drop=1.0,
                               null={"label": np.int32(10), "augment": np.zeros(9, np.float32)})
    batch = {"x0": jnp.zeros((4, 2)), "cond": {"label": jnp.arange(4), "augment": jnp.ones((4, 9))}}
    cond = loss.draw(batch, jax.random.key(0))["cond"]
    assert (cond["label"] == 10).all() and (cond["augment"] == 1).all()
