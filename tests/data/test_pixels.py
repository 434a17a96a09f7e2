"""The map between bytes and [-1, 1], and what happens to a batch on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.build import build
from jaxdiff.data import pixels


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_uint8_is_a_fixed_map_with_clipping(xp):
    values = xp.asarray([-1.2, -1, 0, 1, 1.2, xp.nan, xp.inf, -xp.inf])
    levels = pixels.to_uint8(values)
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, [0, 0, 128, 255, 255, 0, 255, 0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_every_level_comes_back(wrap):
    levels = np.arange(256, dtype=np.uint8)
    x = wrap(pixels.to_float)(jnp.asarray(levels))
    assert x.dtype == jnp.float32 and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(wrap(pixels.to_uint8)(x), levels)
    np.testing.assert_array_equal(pixels.to_uint8(pixels.to_float(levels)), levels)


def batch(count=6):
    image = np.random.RandomState(0).randint(0, 256, (count, 4, 5, 3)).astype(np.uint8)
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


def test_images_makes_x0_and_cond():
    made = pixels.images()(batch(), jax.random.key(0))
    np.testing.assert_allclose(made["x0"], batch()["image"] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(made["cond"]["label"], np.arange(6))
    assert list(made["cond"]) == ["label"]
    assert pixels.images()({"image": batch()["image"]}, jax.random.key(0))["cond"] is None


def test_flip_mirrors_half_of_the_rows():
    given = batch(2000)
    plain = pixels.images()(given, jax.random.key(1))["x0"]
    made = pixels.images(flip=True)(given, jax.random.key(1))["x0"]
    same, mirrored = ((made == other).all((1, 2, 3)) for other in (plain, plain[:, :, ::-1]))
    assert (same | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.045  # 4 standard deviations
    other = pixels.images(flip=True)(given, jax.random.key(2))["x0"]
    assert (made != other).any()


def test_flip_gives_a_row_the_same_draw_on_any_mesh(run_python):
    run_python("""
        import jax, numpy as np
        from jaxdiff.data import pixels
        given = {"image": np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)}
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        prepare = jax.jit(pixels.images(flip=True))
        sharded = prepare(jax.device_put(given, rows), jax.random.key(3))["x0"]
        alone = prepare(given, jax.random.key(3))["x0"]
        np.testing.assert_array_equal(sharded, alone)
        assert (alone != pixels.to_float(given["image"])).any()
    """, devices=8)


def test_as_is_only_adds_the_missing_cond():
    x0 = np.ones((2, 3))
    assert pixels.as_is({"x0": x0}, jax.random.key(0)) == {"x0": x0, "cond": None}
    cond = {"label": np.arange(2)}
    assert pixels.as_is({"x0": x0, "cond": cond}, jax.random.key(0), None)["cond"] is cond


def test_parts_build_and_are_equal_when_their_options_are():
    assert build({"name": "images", "flip": True}, pixels) == pixels.images(flip=True) != pixels.images()
    assert hash(pixels.images()) == hash(build("images", pixels))
    assert build("as_is", pixels) == build("as_is", pixels)
    assert build("as_is", pixels)({"x0": 1}, None) == {"x0": 1, "cond": None}


def test_only_the_conditions_asked_for_are_kept():
    batch = {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.arange(2), "box": np.zeros((2, 4))}
    key = jax.random.key(0)
    assert set(pixels.images()(batch, key)["cond"]) == {"label"}
    assert set(pixels.images(conditions=("label", "box"))(batch, key)["cond"]) == {"label", "box"}
    assert pixels.images(conditions=())(batch, key)["cond"] is None


def moments(count=6, std=0.5):
    mean = np.random.RandomState(0).randn(count, 4, 4, 3)
    return {"moments": np.concatenate([mean, np.full_like(mean, std)], -1).astype(np.float16),
            "label": np.arange(count, dtype=np.int32)}


def test_latents_are_scaled_means_without_deviation():
    given = moments(std=0.0)
    made = pixels.latents(scale=0.5, shift=(1.0, 2.0, 3.0))(given, jax.random.key(0))
    assert made["x0"].dtype == jnp.float32 and list(made["cond"]) == ["label"]
    np.testing.assert_allclose(made["x0"], (given["moments"][..., :3].astype(np.float32) - [1, 2, 3]) * 0.5, atol=1e-6)


def test_latents_are_drawn_anew_with_their_deviation():
    given = moments(4_000)
    prepare = jax.jit(pixels.latents(scale=(2.0, 1.0, 1.0)))
    one, other = (prepare(given, jax.random.key(seed))["x0"] for seed in (0, 1))
    noise = (one - given["moments"][..., :3] * np.array([2, 1, 1])) / np.array([1, 0.5, 0.5])
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.01)  # 4 standard deviations of the mean
    assert np.abs(np.corrcoef(noise[:, 0, 0].T) - np.eye(3)).max() < 0.07
    assert (one != other).all((1, 2, 3)).all()


def test_latents_give_a_row_the_same_draw_on_any_mesh(run_python):
    run_python("""
        import jax, numpy as np
        from jaxdiff.data import embedded, pixels
        given = embedded.mock(shape=(4, 4, 2), num=16, moments=True)
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        prepare = jax.jit(pixels.latents())
        sharded = prepare(jax.device_put(given, rows), jax.random.key(3))["x0"]
        np.testing.assert_array_equal(sharded, prepare(given, jax.random.key(3))["x0"])
    """, devices=8)


def test_latents_build_and_keep_the_conditions_asked_for():
    part = {"name": "latents", "scale": 0.18215, "conditions": ["text", "mask"]}
    assert build(part, pixels) == pixels.latents(scale=0.18215, conditions=("text", "mask"))
    assert hash(pixels.latents()) == hash(build("latents", pixels))
    given = moments(2) | {"text": np.zeros((2, 3, 8)), "pooled": np.zeros((2, 8))}
    assert set(build(part, pixels)(given, jax.random.key(0))["cond"]) == {"text"}
    assert pixels.latents(conditions=())(given, jax.random.key(0))["cond"] is None
    for scale in (0.0, (1.0, -1.0)):
        with pytest.raises(ValueError, match="scale must be > 0, got"):
            pixels.latents(scale=scale)
