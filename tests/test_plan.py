"""What a program takes of a chip, against closed forms, and the search for the largest batch."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import plan
from jaxdiff.planning import asking

needs_libtpu = pytest.mark.skipif(asking.libtpu() is None, reason="libtpu is not here; `make test` installs it where "
                                  "there is one: Linux on x86-64")
V5E = plan.CHIPS["v5e"]

# Names.


@pytest.mark.parametrize(("name", "bounds", "chips", "host"), [
    ("v5e:4x4", None, 16, (2, 2, 1)), ("v5p:2x2x4", None, 16, (2, 2, 1)), ("v5e:1x1", None, 1, (1, 1, 1)),
    ("v6e:2x4", (2, 4, 1), 8, (2, 4, 1)), ("tpu7x:2x2x1", None, 4, (2, 2, 1)),
])
def test_a_topology_says_how_many_chips_it_has(name, bounds, chips, host):
    found = plan.topology(name, bounds)
    assert (found.chips, found.bounds, found.chip) == (chips, host, plan.CHIPS[name.partition(":")[0]])


@pytest.mark.parametrize(("name", "bounds", "words"), [
    ("v5x:4x4", None, "no topology 'v5x:4x4'; did you mean 'v5e:4x4'"),
    ("v5p:2x2", None, "no topology 'v5p:2x2'; did you mean 'v5p:2x2x"),
    ("v5e:4x", None, "did you mean 'v5e:4x4'"), ("v5e", None, "no topology 'v5e'"),
    ("v5e:3x4", None, "2 x 2 x 1 chips do not divide v5e:3x4; --host_bounds=3,4,1"),
    ("v5e:4x4", (2, 4), "2 x 4 chips do not divide"),
])
def test_a_topology_that_there_is_not_is_named_with_the_nearest(name, bounds, words):
    with pytest.raises(ValueError, match=words):
        plan.topology(name, bounds)


def test_chips_have_the_peaks_that_training_is_held_against():
    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5p", "v6e": "TPU v6 lite"}
    assert {name: plan.flops.peak(kind) for name, kind in kinds.items()} == {
        name: plan.CHIPS[name].flops for name in kinds}
    assert not plan.CHIPS["tpu7x"].verified
    assert set(plan.KNOWN) == {plan.topology(name).name for name in plan.KNOWN}


# Programs.


def product(depth=7):
    a, b = jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((128, 128), jnp.float32)
    return jax.jit(lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, length=depth)[0]).trace(a, b)


def test_a_program_is_measured_as_it_runs():
    told = plan.measured(product())
    assert told["flops"] == 7 * 2 * 64 * 128 * 128
    assert told["memory"]["arguments"] == 4 * (64 * 128 + 128 * 128)
    assert told["memory"]["output"] == 4 * 64 * 128
    turn = 4 * (2 * 64 * 128 + 128 * 128)
    assert 7 * turn <= told["hbm_bytes"] <= 12 * turn  # what is carried is copied as well
    assert (told["collectives"], told["unknown_loops"]) == ({}, [])
    assert plan.held(told) == sum(told["memory"].values()) - 2 * told["memory"]["alias"]
    assert told == json.loads(json.dumps(told))


TEMPORARIES = ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (256.00G) "
               "exceeds available HBM (15.75G).")
SPACE = ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.50G of "
         "15.75G hbm. Exceeded hbm capacity by 1.75G.")


@pytest.mark.parametrize(("message", "needs", "limit"), [
    (TEMPORARIES, 256 * 2**30, 15.75 * 2**30), (SPACE, 17.5 * 2**30, 15.75 * 2**30),
    ("RESOURCE_EXHAUSTED: no more", None, None),
])
def test_what_the_compiler_refuses_does_not_fit(message, needs, limit):
    told = plan.measured(refusing(message))
    assert (told["exhausted"]["needs"], told["exhausted"]["limit"]) == (needs, limit)
    assert plan.held(told) == needs and "memory" not in told


@needs_libtpu
def test_what_is_too_large_for_a_tpu_is_no_error(run_python):
    out = run_python("""
        import json, jax, numpy as np
        from jax.experimental import topologies
        from jaxdiff import plan
        on = jax.sharding.Mesh(np.array(topologies.get_topology_desc("v5e:2x2", "tpu").devices), ("a",))
        x = jax.ShapeDtypeStruct((2**30, 64, 4), "float32", sharding=jax.NamedSharding(on, jax.P(None, None, "a")))
        print(json.dumps(plan.measured(jax.jit(lambda x: jax.numpy.cos(x).sum()).trace(x))))
    """, env=asking._environment("tpu", 4))
    told = json.loads(out.splitlines()[-1])
    assert told["exhausted"]["limit"] == pytest.approx(V5E.hbm)
    assert plan.held(told) == 256 * 2**30


def test_any_other_error_of_the_compiler_is_raised():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        plan.measured(refusing("INTERNAL: broken"))


def refusing(message):
    def compile(**options):
        raise jax.errors.JaxRuntimeError(message)

    return types.SimpleNamespace(jaxpr=product().jaxpr, lower=lambda: types.SimpleNamespace(compile=compile))


def told_of(flops=0.0, memory=0, **moved):
    kinds = {kind.replace("_", "-"): {"times": 1, "payload": wire, "wire": wire} for kind, wire in moved.items()}
    return {"flops": flops, "hbm_bytes": memory, "collectives": kinds}


@pytest.mark.parametrize(("told", "seconds", "bound"), [
    (told_of(flops=16 * 197e12), 1.0, "compute"), (told_of(memory=2 * 819e9), 2.0, "memory"),
    (told_of(all_gather=100e9, all_reduce=500e9), 3.0, "interconnect"),
    (told_of(between_slices=12.4e9, all_gather=1e9), 4.0, "slices"),
    (told_of(flops=16 * 197e12, memory=819e8, all_gather=20e9), 1.0, "compute"),
])
def test_the_roofline_is_the_longest_of_what_takes_time(told, seconds, bound):
    line = plan.roofline(told, V5E, 16)
    assert line["step_s"] == pytest.approx(seconds) and line["bound"] == bound


def test_a_device_of_two_a_chip_has_half_of_it():
    whole, chip = told_of(flops=1e15, memory=1e9, all_gather=1e9), plan.CHIPS["tpu7x"]
    line = plan.roofline(whole, chip, 8)
    assert line["compute_s"] == pytest.approx(1e15 / 4 / chip.flops)
    assert line["memory_s"] == pytest.approx(2e9 / chip.bandwidth)
    assert plan.roofline(told_of(between_slices=1.0), plan.CHIPS["v4"], 8)["slices_s"] is None


# The largest batch.


def test_three_compiles_find_the_largest_batch_of_a_model():
    w, v = jax.ShapeDtypeStruct((64, 256), jnp.float32), jax.ShapeDtypeStruct((256, 64), jnp.float32)
    step = jax.jit(jax.grad(lambda p, x: jnp.mean((jnp.tanh(x @ p[0]) @ p[1] - x) ** 2)))
    compiles = []

    def needs(batch):
        compiles.append(batch)
        return plan.held(plan.measured(step.trace((w, v), jax.ShapeDtypeStruct((batch, 64), jnp.float32))))

    limit = needs(8000)  # of HBM that is not there
    compiles.clear()
    found = plan.largest(needs, first=512, granule=8, limit=limit)
    assert len(compiles) == len(found["tried"]) == 3 and found["exact"]
    assert needs(found["batch"]) <= limit < needs(found["batch"] + 8)


@pytest.mark.parametrize(("needs", "batch", "compiles"), [
    (lambda n: 100 + n, 896, 3),  # a line
    (lambda n: 100 + n if n <= 900 else None, 896, 3),  # whose end is not told
    (lambda n: 100 + n if n <= 512 else None, 512, 6),  # that breaks off
    (lambda n: 100 + n * (1 if n < 512 else 1.4), 640, 6),  # that bends
    (lambda n: 999 + n, 0, 2),  # too large whatever the batch
    (lambda n: None, 0, 5),
])
def test_the_search_ends_where_one_granule_more_does_not_fit(needs, batch, compiles):
    found = plan.largest(needs, first=256, granule=16, limit=1000)
    assert found["batch"] <= batch and len(found["tried"]) <= compiles
    assert found["batch"] >= batch - 64  # with so few compiles
    assert all(size is None or size == needs(n) for n, size in found["tried"])
    if found["exact"] and found["batch"]:
        beyond = needs(found["batch"] + 16)
        assert beyond is None or beyond > 1000


def test_a_program_that_takes_the_same_for_any_batch_has_no_largest():
    found = plan.largest(lambda n: 5.0, first=16, granule=4, limit=1000)
    assert not found["exact"] and found["batch"] == max(n for n, _ in found["tried"])
