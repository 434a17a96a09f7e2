"""Pieces of a batch and tiles of an image are decoded as the whole would be, in less memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import autoencoder, tiling


class Convolutions(nn.Module):
    """Two convolutions, a doubling between them: each pixel sees less than two latents to each side."""

    @nn.compact
    def __call__(self, z):
        z = jnp.tanh(nn.Conv(8, (3, 3), name="conv0")(z))
        return nn.Conv(3, (3, 3), name="conv1")(jnp.repeat(jnp.repeat(z, 2, 1), 2, 2))


Z = jax.random.normal(jax.random.key(0), (2, 13, 16, 4))
PARAMS = Convolutions().init(jax.random.key(1), Z)
SEEN = 2


def decode(z):
    return Convolutions().apply(PARAMS, z)


def doubled(z):
    """Sees the pixel it makes, and no other."""
    return jnp.sin(jnp.repeat(jnp.repeat(z, 2, 1), 2, 2))


@pytest.mark.parametrize(("size", "tile", "overlap", "f"), [
    (13, 8, 4, 1), (16, 8, 4, 8), (64, 16, 0, 2), (9, 8, 3, 4), (17, 8, 7, 1), (8, 8, 2, 3), (33, 8, 1, 2)])
def test_weights_sum_to_one_everywhere(size, tile, overlap, f):
    starts, weights = tiling.blend(size, tile, overlap, f)
    assert starts[0] == 0 and starts[-1] == size - tile
    assert (tile - np.diff(starts) >= overlap).all()
    total = np.zeros(f * size)
    for start, weight in zip(starts, weights, strict=True):
        total[f * start: f * (start + tile)] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-15)
    assert (weights > 0).all()


def test_weights_are_linear_over_what_two_tiles_share():
    starts, weights = tiling.blend(12, 8, 4)
    np.testing.assert_array_equal(starts, [0, 4])
    ramp = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    np.testing.assert_allclose(weights, [[1] * 4 + ramp[::-1], ramp + [1] * 4], rtol=1e-15)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 4), (8, 0), (5, 3), (13, 6)])
def test_tiles_of_a_pointwise_decoder_are_the_image(tile, overlap):
    whole = tiling.tiled(doubled, Z, tile=tile, overlap=overlap)
    np.testing.assert_allclose(whole, doubled(Z), rtol=0, atol=1e-6)


def test_tiles_of_convolutions_are_the_image_but_near_their_edges():
    z = jax.random.normal(jax.random.key(2), (1, 24, 32, 4))
    error = np.abs(tiling.tiled(decode, z, tile=16, overlap=8) - decode(z)).max((0, 3))
    near = [np.zeros(2 * n, bool) for n in z.shape[1:3]]
    for flags, n in zip(near, z.shape[1:3], strict=True):
        starts, _ = tiling.blend(n, 16, 8)
        for edge in {*starts[1:], *(starts[:-1] + 16)}:
            flags[2 * (edge - SEEN): 2 * (edge + SEEN)] = True
    away = ~near[0][:, None] & ~near[1]
    assert away.mean() > 0.3
    assert error[away].max() < 1e-6
    assert error.max() > 1e-3


@pytest.mark.parametrize("tile", [16, 64])
def test_one_tile_is_the_image_to_the_bit(tile):
    np.testing.assert_array_equal(tiling.tiled(decode, Z, tile=tile, overlap=1), decode(Z))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_pieces_are_the_batch(size):
    z = jax.random.normal(jax.random.key(2), (5, 6, 6, 4))
    np.testing.assert_allclose(tiling.sliced(decode, z, size=size), decode(z), rtol=0, atol=1e-6)


def test_both_need_less_memory_together():
    network = autoencoder.Autoencoder(channels=8, mults=(1, 1), blocks=1)
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    z = jax.ShapeDtypeStruct((4, 32, 32, 4), jnp.float32)

    def temporary(run):
        whole = lambda params, z: run(lambda z: network.apply(params, z, method="images"), z)
        fast = {"xla_backend_optimization_level": 0}
        return jax.jit(whole).lower(like, z).compile(fast).memory_analysis().temp_size_in_bytes

    tiles = lambda decode, z: tiling.tiled(decode, z, tile=16, overlap=4)
    whole = temporary(lambda decode, z: decode(z))
    assert temporary(tiles) < whole / 3
    assert temporary(lambda decode, z: tiling.sliced(lambda z: tiles(decode, z), z)) < whole / 9


@pytest.mark.parametrize(("run", "message"), [
    (lambda: tiling.tiled(decode, Z, tile=4, overlap=4), "between 0 and 3, got 4"),
    (lambda: tiling.tiled(lambda z: z[:, 1:], Z, tile=8, overlap=2), "8x8 became 7x8"),
    (lambda: tiling.sliced(decode, Z, size=0), "at least 1 sample, got size=0"),
])
def test_errors(run, message):
    with pytest.raises(ValueError, match=message):
        run()
