"""A checkpoint is what was saved, or it is not used."""

import logging
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import checkpoint, train

PRINT = {"examples": 10, "seed": 0, "batch": 4}


def state(step=3, shift=0.0):
    params = {"params": {"dense": {"kernel": jnp.arange(12.0).reshape(3, 4) + shift, "bias": jnp.ones(4) + shift}}}
    opt_state = optax.adam(1e-3).init(params)
    ema = {"decay_0.9": jax.tree.map(lambda p: p + 1, params), "decay_0.5": jax.tree.map(lambda p: p + 2, params)}
    return train.State(jnp.int32(step), params, ema, opt_state)


def shapes(tree):
    return jax.eval_shape(lambda: tree)


def saved(folder, *steps, **options):
    store = checkpoint.opened(str(folder), PRINT, **{"keep": 9, **options})
    for step in steps:
        assert checkpoint.save(store, state(step, shift=step), step)
    checkpoint.finish(store)
    return folder


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    saved(tmp_path, 3)
    store = checkpoint.opened(str(tmp_path), PRINT)
    step, trees = checkpoint.restore(store, checkpoint.items(shapes(state())))
    assert step == 3
    same(trees, checkpoint.items(state(3, shift=3)))
    assert jax.tree.structure(trees) == jax.tree.structure(checkpoint.items(state()))
    checkpoint.finish(store)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    store = checkpoint.opened(str(tmp_path), PRINT)
    assert checkpoint.restore(store, checkpoint.items(shapes(state()))) is None
    checkpoint.finish(store)
    with pytest.raises(ValueError, match="no checkpoint in .*; train first"):
        checkpoint.opened(str(tmp_path), None)


def test_one_average_is_read_without_the_others(tmp_path):
    saved(tmp_path, 3)
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "params")  # sampling needs none of these
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "train")
    store = checkpoint.opened(str(tmp_path), None)
    _, trees = checkpoint.restore(store, {"ema": {"decay_0.5": shapes(state().ema["decay_0.5"])}})
    same(trees["ema"], {"decay_0.5": state(3, shift=3).ema["decay_0.5"]})


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    store = checkpoint.opened(str(tmp_path), PRINT)
    assert checkpoint.save(store, state(3), 3)
    assert not checkpoint.save(store, state(3, shift=1), 3)
    checkpoint.finish(store)


def test_the_newest_are_kept_and_every_so_many_for_ever(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, 6, keep=1, keep_every_steps=2)
    assert checkpoint.steps(checkpoint.opened(str(tmp_path), None)) == [2, 4, 6]


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def damage_empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def damage_meta(folder):
    path = folder / "meta" / "metadata"
    path.write_text(path.read_text()[:50])


def damage_truncate(folder):
    path = largest(folder / "params")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_remove(folder):
    shutil.rmtree(folder / "params" / "d")


DAMAGES = [damage_empty, damage_meta, damage_truncate, damage_remove]


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_goes_back_over_a_damaged_step_and_says_so(tmp_path, damage, caplog):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    store = checkpoint.opened(str(tmp_path), PRINT)
    with caplog.at_level(logging.WARNING):
        step, trees = checkpoint.restore(store, checkpoint.items(shapes(state())))
    assert step == 1
    same(trees, checkpoint.items(state(1, shift=1)))
    assert "checkpoint 2 is damaged" in caplog.text
    assert [p.name for p in (tmp_path / "checkpoints").glob("2.damaged-*")]
    assert checkpoint.save(store, state(2, shift=2), 2)  # the step can be saved again
    checkpoint.finish(store)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_names_the_damaged_step_and_the_newest_sound_one_and_touches_nothing(tmp_path, damage):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    store = checkpoint.opened(str(tmp_path), None)
    wanted = checkpoint.items(shapes(state()))
    with pytest.raises(ValueError, match=r"checkpoint 2 is damaged \(.*\); the newest sound one is --checkpoint=1"):
        checkpoint.restore(store, wanted)
    assert checkpoint.restore(store, wanted, step=1)[0] == 1
    with pytest.raises(ValueError, match="no sound checkpoint"):
        checkpoint.restore(store, wanted, step=2)
    assert before == sorted(p.name for p in (tmp_path / "checkpoints").iterdir())


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path):
    # Orbax itself reads such a file without a word.
    params = {"w": jax.random.normal(jax.random.key(0), (256, 256))}
    big = train.State(jnp.int32(1), params, {"decay_0.9": {"w": jnp.ones(1)}}, ())
    store = checkpoint.opened(str(tmp_path), PRINT)
    checkpoint.save(store, big, 1)
    checkpoint.finish(store)
    path = largest(tmp_path / "checkpoints" / "1" / "params")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.restore(checkpoint.opened(str(tmp_path), None), {"params": shapes(big.params)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_every_single_flipped_bit_changes_the_checksum(dtype):
    array = np.asarray(jax.random.normal(jax.random.key(1), (3, 5)) > 0) if dtype == "bool" else \
        np.asarray(jax.random.normal(jax.random.key(1), (3, 5)) * 50).astype(jnp.dtype(dtype))
    honest = checkpoint.checksums({"a": array})["a"]
    raw = array.view(np.uint8).ravel()
    for byte in range(raw.size):
        for bit in range(1 if dtype == "bool" else 8):
            flipped = raw.copy()
            flipped[byte] ^= 1 << bit
            assert checkpoint.checksums({"a": flipped.view(array.dtype).reshape(array.shape)})["a"] != honest


def test_swapped_entries_change_the_checksum():
    assert checkpoint.checksums({"a": jnp.array([1.0, 2.0])}) != checkpoint.checksums({"a": jnp.array([2.0, 1.0])})


def test_another_network_is_named_array_by_array(tmp_path):
    """G14: weights that a checkpoint lacked were filled with zeros without a word."""
    saved(tmp_path, 3)
    other = state()
    dense = other.params["params"]["dense"]
    network = {"dense": {"kernel": jnp.zeros((3, 5))}, "block": {"kernel": dense["bias"]}}
    wanted = {"params": shapes({"params": network})}
    with pytest.raises(ValueError, match="does not fit this network") as caught:
        checkpoint.restore(checkpoint.opened(str(tmp_path), None), wanted)
    text = str(caught.value)
    assert "params/params/block/kernel (4,) is missing from the checkpoint" in text
    assert "params/params/dense/bias (4,) is in the checkpoint and not in the network" in text
    assert "params/params/dense/kernel is (3, 4) in the checkpoint and (3, 5) in the network" in text
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["3"]


def test_a_step_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    saved(tmp_path, 1, 3)
    with pytest.raises(ValueError, match="no checkpoint of step 2 .* there are 1, 3"):
        checkpoint.restore(checkpoint.opened(str(tmp_path), None), {"params": shapes(state().params)}, step=2)


def test_another_order_of_the_data_is_refused(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(ValueError, match="holds a run with seed=0, this one has seed=1; choose another --workdir"):
        checkpoint.opened(str(tmp_path), {**PRINT, "seed": 1})


def test_a_failed_save_fails_the_run_at_the_next_step(tmp_path):
    class Full:
        def check_for_errors(self):
            raise ValueError("RESOURCE_EXHAUSTED: no space left on device\nand much more")

    store = checkpoint.opened(str(tmp_path), PRINT)
    with pytest.raises(OSError, match=r"saving a checkpoint to .* failed: RESOURCE_EXHAUSTED: no space left .*$"):
        checkpoint.failed(store._replace(manager=Full()))
    checkpoint.finish(store)


def test_checksums_and_restored_arrays_are_those_of_any_mesh(run_python, tmp_path):
    saved(tmp_path, 3)
    run_python(f"""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jaxdiff import checkpoint, mesh
        on = mesh.make_mesh(data=2, fsdp=4)
        array = np.arange(64, dtype=np.float32).reshape(8, 8)
        plain = checkpoint.checksums({{"a": array}})
        for spec in (P("data"), P("fsdp", "data"), P(None, ("data", "fsdp"))):
            assert checkpoint.checksums({{"a": jax.device_put(array, NamedSharding(on, spec))}}) == plain
        split = jax.ShapeDtypeStruct((3, 4), jnp.float32, sharding=NamedSharding(on, P(None, "fsdp")))
        whole = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=NamedSharding(on, P()))
        wanted = {{"params": {{"params": {{"dense": {{"kernel": split, "bias": whole}}}}}}}}
        step, trees = checkpoint.restore(checkpoint.opened({str(tmp_path)!r}, None), wanted)
        kernel = trees["params"]["params"]["dense"]["kernel"]
        assert kernel.sharding == split.sharding
        np.testing.assert_array_equal(kernel, np.arange(12.0).reshape(3, 4) + 3)
    """, devices=8)


FULL = """
    import resource, time
    import jax.numpy as jnp
    from pathlib import Path
    from jaxdiff import checkpoint, train
    folder = Path(FOLDER)
    def state(step, size):
        params = {"w": jnp.arange(size, dtype=jnp.float32)}
        return train.State(jnp.int32(step), params, {"decay_0.9": {"w": jnp.ones(2)}}, ())
    store = checkpoint.opened(folder, {"seed": 0}, keep=9)
    checkpoint.save(store, state(1, 1_000), 1)
    store.manager.wait_until_finished()
    if LIMIT:  # no disk of our own to fill: no file may grow beyond this, which the writer sees as it sees a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    checkpoint.save(store, state(2, 12_000_000), 2)
    begun = time.monotonic()
    while time.monotonic() - begun < 30:
        try:
            checkpoint.failed(store)
        except checkpoint.Failed as error:
            print(f"failed after {time.monotonic() - begun:.1f} s: {error}")
            break
        time.sleep(0.05)  # a step
    found = checkpoint.restore(checkpoint.opened(folder, None), {"params": {"w": jnp.zeros(1_000)}}, step=1)
    print("restored", found[0], float(found[1]["params"]["w"][-1]))
"""


def test_a_full_disk_fails_the_run_at_once_and_the_last_good_one_stays(tmp_path, run_python):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(disk)], check=False,
                             capture_output=True).returncode == 0
    try:
        out = run_python(FULL.replace("FOLDER", repr(str(disk))).replace("LIMIT", repr(not mounted)), devices=1)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    print(out, "a small disk" if mounted else "a limit to files")
    assert "saving a checkpoint to" in out and "restored 1 999.0" in out


def test_the_best_by_a_metric_is_kept_beside_the_newest_also_after_a_restart(tmp_path):
    rule = {"metric": "fid", "mode": "min", "number": 1}
    store = checkpoint.opened(tmp_path, PRINT, keep=1, keep_best=rule)
    for step, fid in ((1, 9.0), (2, 3.0), (3, 5.0)):
        checkpoint.save(store, state(step), step, {"fid": fid})
    checkpoint.finish(store)
    assert checkpoint.steps_in(tmp_path) == [2, 3]
    store = checkpoint.opened(tmp_path, PRINT, keep=1, keep_best=rule)
    checkpoint.save(store, state(4), 4, {"fid": 4.0})
    checkpoint.finish(store)
    assert checkpoint.steps_in(tmp_path) == [2, 4]
    with pytest.raises(ValueError, match="must be 'min' or 'max', got 'least'"):
        checkpoint.opened(tmp_path, PRINT, keep_best={**rule, "mode": "least"})
