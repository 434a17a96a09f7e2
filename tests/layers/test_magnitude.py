"""Every piece of EDM2 keeps unit mean square, whatever the size of its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers


def normals(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def rms(x):
    return float(jnp.sqrt(jnp.square(x).mean()))


def test_normalize_makes_the_root_mean_square_one_over_its_axes():
    x = 7 * normals(0, 5, 4, 6)
    np.testing.assert_allclose(jnp.sqrt(jnp.square(layers.normalize(x)).mean(-1)), 1, rtol=1e-4)
    np.testing.assert_allclose(jnp.sqrt(jnp.square(layers.normalize(x, (0, 1))).mean((0, 1))), 1, rtol=1e-4)
    assert (layers.normalize(jnp.zeros((2, 3))) == 0).all()
    np.testing.assert_allclose(layers.normalize(jnp.full(4, 1e-4)), 0.5, rtol=1e-5)  # x/(eps + rms)


def test_silu_of_unit_normals_has_unit_mean_square():
    assert abs(rms(layers.mp_silu(normals(0, 200_000))) - 1) < 0.01


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_sums_and_concatenations_keep_unit_mean_square(t):
    a, b = normals(0, 5_000, 24), normals(1, 5_000, 8)
    assert abs(rms(layers.mp_sum(a, normals(2, 5_000, 24), t)) - 1) < 0.01
    both = layers.mp_cat(a, b, t)
    assert both.shape == (5_000, 32)
    assert abs(rms(both) - 1) < 0.01
    # The share of b in what a layer makes of both is t/(1 - t) times that of a, whatever their widths.
    assert abs(jnp.square(both[:, 24:]).sum() * (1 - t) ** 2 - jnp.square(both[:, :24]).sum() * t**2) < 0.02 * both.size


@pytest.mark.parametrize(("layer", "shape"), [
    (layers.MPDense((48,)), (200, 32)), (layers.MPDense((3, 2, 8)), (200, 32)),
    (layers.MPDense((48,), inputs=2), (200, 4, 8)), (layers.MPConv(48, 1), (4, 8, 8, 32)),
])
def test_a_layer_keeps_unit_mean_square_and_does_not_see_the_size_of_its_weights(layer, shape):
    x = normals(0, *shape)
    params = layer.init(jax.random.key(1), x)
    assert abs(rms(params["params"]["weight"]) - 1) < 0.1
    out = layer.apply(params, x)
    assert abs(rms(out) - 1) < 0.05
    larger = layer.apply(jax.tree.map(lambda weight: 9 * weight, params), x, 2.0)
    np.testing.assert_allclose(larger, 2 * out, rtol=1e-3, atol=1e-4)


def test_gradients_are_at_right_angles_to_weights():
    """What is normalized does not change along itself, so that steps make weights grow (Karras et al. 2024)."""
    layer, x = layers.MPDense((6,), inputs=3), normals(0, 2, 4, 4, 5)
    params = layer.init(jax.random.key(1), x)
    gradient = jax.grad(lambda params: (layer.apply(params, x) ** 3).sum())(params)["params"]["weight"]
    along = (gradient * params["params"]["weight"]).sum((0, 1, 2))
    across = jnp.sqrt(jnp.square(gradient).sum((0, 1, 2)) * jnp.square(params["params"]["weight"]).sum((0, 1, 2)))
    assert (jnp.abs(along) < 1e-3 * across).all()


def test_weights_are_normalized_in_float32():
    x = normals(0, 4, 32)
    params = layers.MPDense((16,)).init(jax.random.key(1), x)
    text = str(jax.make_jaxpr(layers.MPDense((16,), dtype="bfloat16").apply)(params, x))
    assert "bf16" in text
    assert all("f32" in line for line in text.splitlines() if "sqrt" in line or "reduce_sum" in line)
