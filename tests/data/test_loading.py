"""What a config says of loading, and what a run must find unchanged to go on."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff import checkpoint, data, experiment, overrides


def config_of(*pairs):
    return overrides.apply(overrides.load("configs/edm.py:tiny"), pairs)


def loaded(*pairs):
    config = config_of(*pairs)
    return experiment.loader(config, experiment.meshed(config))


@pytest.fixture
def places(tmp_path):
    """The same four images as a folder of two classes and as shards."""
    rng = np.random.RandomState(0)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for i in range(4):
            out = io.BytesIO()
            Image.fromarray(rng.randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(out, "png")
            path = tmp_path / "set" / str(i // 2) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(out.getvalue())
            for name, part in ((f"{i}.png", out.getvalue()), (f"{i}.cls", b"%d" % (i // 2))):
                info = tarfile.TarInfo(name)
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    return {"folder": str(tmp_path / "set"), "shards": str(tmp_path / "set.tar")}


def part_of(places, name):
    return ("data", str({"name": name, "path": places[name]}))


def test_a_config_says_how_to_read_and_need_not(places):
    folder = part_of(places, "folder")
    read = loaded(folder, ("loader.threads", "3")).batches
    assert (read.threads, read.workers) == (3, 0)
    read = loaded(folder, ("loader.workers", "2")).batches
    assert (read.threads, read.workers) == (2, 2)
    old = config_of(folder)
    with old.unlocked():
        del old["loader"]
    read = experiment.loader(old, experiment.meshed(old)).batches
    assert (read.threads, read.workers) == (8, 0)
    with pytest.raises(ValueError, match="config.loader has no 'worker'; did you mean 'workers'"):
        loaded(("loader", "{'worker': 2}"))
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        loaded(folder, ("loader.workers", "-1"))


def test_how_a_run_reads_may_change_when_it_goes_on():
    assert "loader" in experiment.FREE


def test_a_fingerprint_names_the_data_and_is_the_same_at_every_opening(places):
    marks = {name: loaded(part_of(places, name)).fingerprint for name in places}
    assert marks == {name: loaded(part_of(places, name)).fingerprint for name in places}
    assert [marks[name]["data"] for name in places] == ["folder", "shards"]
    assert marks["folder"]["sha256"] == marks["shards"]["sha256"]  # of what is in them
    assert all(marks["folder"][name] == marks["shards"][name] for name in ("examples", "seed", "batch"))


def test_a_run_goes_on_with_the_data_that_it_began_with(places):
    folder, shards = (loaded(part_of(places, name)).fingerprint for name in ("folder", "shards"))
    assert checkpoint.store._differences(folder, shards) == [("data", "folder", "shards")]
    before = {name: value for name, value in folder.items() if name != "data"}  # as older runs have it
    assert not checkpoint.store._differences(before, folder)


def test_both_forms_give_the_same_batches(places):
    one, other = (next(data.batches(getattr(data, name)(places[name]), batch=5, seed=3)(2)) for name in places)
    for name in ("image", "label"):
        np.testing.assert_array_equal(one[name], other[name])
