"""Sample i depends on (key, i) alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoiser, process, sample, samplers, times

FLOW = process.RectifiedFlow()


def shrink(x, t, cond):
    a, s = process.alpha(FLOW, jnp.asarray(t)), process.sigma(FLOW, jnp.asarray(t))
    shift = 0.0 if cond is None else cond["label"][:, None].astype(x.dtype)
    return shift + a * (x - a * shift) / (a**2 + s**2)


D = denoiser.from_function(shrink, FLOW)
GRID = times.karras(FLOW, steps=4)
STOCHASTIC = functools.partial(samplers.ddim, eta=1.0)


def drawn(key=None, num=64, sampler=STOCHASTIC, **options):
    return sample.generate(D, sampler, GRID, jax.random.key(0) if key is None else key, num=num, shape=(3,), **options)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_sample_does_not_depend_on_its_neighbours(batch):
    """G03's kind: how a batch is cut is not part of the law."""
    np.testing.assert_allclose(drawn(batch=batch), drawn(batch=16), atol=1e-6)


def test_the_same_samples_come_again_to_the_bit_after_an_interruption():
    whole = drawn(batch=16)
    rest = [x for _, x, _ in sample.stream(D, STOCHASTIC, GRID, jax.random.key(0), shape=(3,), indices=range(23, 64),
                                           batch=16)]
    np.testing.assert_array_equal(np.concatenate(rest), whole[23:])


def test_any_indices_may_be_asked_for():
    parts = list(sample.stream(D, STOCHASTIC, GRID, jax.random.key(0), shape=(3,), indices=[5, 3, 60], batch=2))
    assert [list(part) for part, _, _ in parts] == [[5, 3], [60]]
    np.testing.assert_allclose(np.concatenate([x for _, x, _ in parts]), drawn()[[5, 3, 60]], atol=1e-6)


def test_all_samples_differ_and_another_key_makes_others():
    x = drawn()
    assert len(np.unique(x[:, 0])) == 64
    assert not np.isin(x, drawn(jax.random.key(1))).any()


def test_other_generators_are_turned_into_threefry():
    # Under rbg a vmapped fold_in differs from the loop: samples would depend on the batch.
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_allclose(drawn(key, batch=7), drawn(key, batch=64), atol=1e-6)


def test_conditions_follow_the_index():
    x = drawn(num=10, sampler=samplers.heun, batch=4,
              cond_of=lambda indices: {"label": np.asarray(indices, np.int32) * 100})
    np.testing.assert_allclose(x.mean(1) / 100, np.arange(10), atol=0.05)


def test_what_comes_after_is_part_of_the_same_program():
    (part, out, nfe), = sample.stream(D, samplers.heun, GRID, jax.random.key(0), shape=(3,), indices=range(5), batch=8,
                                      then=_moments)
    assert out["mean"].shape == (5,) and len(part) == 5 and nfe == 6
    np.testing.assert_allclose(out["mean"], drawn(num=5, sampler=samplers.heun, batch=8).mean(1), atol=1e-6)


def _moments(x):
    return {"mean": x.mean(1)}


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        drawn(num=0)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        drawn(batch=0)
    with pytest.raises(ValueError, match="must be one typed key"):
        drawn(jax.random.PRNGKey(0))


def test_a_mesh_gives_the_samples_of_one_device(run_python):
    run_python("""
        import functools, jax, jax.numpy as jnp, numpy as np, pytest
        from jaxdiff import denoiser, mesh, process, sample, samplers, times
        flow = process.RectifiedFlow()
        D = denoiser.from_function(lambda x, t, cond: 0.5 * x, flow)
        grid = times.uniform(flow, steps=5)
        draw = functools.partial(sample.generate, D, functools.partial(samplers.ddim, eta=1.0), grid,
                                 jax.random.key(0), num=20, shape=(4, 4, 1))
        alone = draw(batch=8)
        for shape in ((8, 1), (2, 4)):
            on = mesh.make_mesh(data=shape[0], fsdp=shape[1])
            np.testing.assert_allclose(draw(batch=8, mesh=on), alone, atol=1e-6)
        with pytest.raises(ValueError, match="sampling batch of 12 does not divide over 8 devices"):
            draw(batch=12, mesh=mesh.make_mesh())
    """, devices=8)
