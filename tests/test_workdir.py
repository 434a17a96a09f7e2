"""A run's folder lies on a disk or in a bucket; what is written there is whole."""

import json

import fsspec
import jax
import pytest
from etils.epath import gpath
from fsspec.implementations.memory import MemoryFileSystem

from jaxdiff import hooks, workdir


@pytest.fixture
def bucket(monkeypatch):
    """A bucket in memory, where gs:// would be."""
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # fsspec's backend then

    class Bucket(MemoryFileSystem):
        protocol = ("gs", "gcs")
        store, pseudo_dirs = {}, [""]

    fsspec.register_implementation("gs", Bucket, clobber=True)
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    return workdir.located("gs://lab/runs/digits")


def test_values_and_lines_lie_in_a_bucket_as_on_a_disk(bucket, tmp_path):
    for folder in (tmp_path / "digits", bucket):
        workdir.refuse_file(folder)
        workdir.write(folder, "config.json", {"seed": 1})
        assert workdir.read(folder, "config.json") == {"seed": 1}
        workdir.append(folder / "run.jsonl", {"event": "start"})
        workdir.append(folder / "run.jsonl", {"event": "end"})
        assert [row["event"] for row in workdir.rows(folder / "run.jsonl")] == ["start", "end"]
        assert list(workdir.rows(folder / "none.jsonl")) == []
        with pytest.raises(ValueError, match="no run in .*digits"):
            workdir.read(folder, "other.json")


def test_lines_in_a_bucket_are_written_anew_now_and_then_and_at_the_end(bucket):
    lines = workdir.Lines(bucket / "metrics.jsonl", seconds=1000)
    for step in range(3):
        lines.write({"step": step})
    assert len(list(workdir.rows(bucket / "metrics.jsonl"))) == 1  # the first, at once
    lines.flush()
    assert len(list(workdir.rows(bucket / "metrics.jsonl"))) == 3
    lines.write({"step": 3})
    lines.close()
    journal = hooks.Journal(bucket / "metrics.jsonl")  # a second attempt goes on
    journal.write_event("start", 3, {})
    journal.close()
    assert [row["step"] for row in workdir.rows(bucket / "metrics.jsonl")] == [0, 1, 2, 3, 3]


def test_a_line_cut_short_by_a_kill_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    workdir.append(path, {"step": 2})
    assert list(workdir.rows(path)) == [{"step": 1}, {"step": 2}]


def test_a_bucket_without_its_slashes_is_named():
    with pytest.raises(ValueError, match="named gs://BUCKET/FOLDER"):
        workdir.refuse_file(workdir.Path("gs:/lab/runs"))


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_run(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    workdir.probe(folder)
    assert list(folder.iterdir()) == []

    def refused(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(folder), "write_text", refused)
    with pytest.raises(ValueError, match=r"run cannot be written to .*Permission denied.*objectAdmin"):
        workdir.probe(folder)


def test_a_snapshot_without_history_says_whose_code_it_is(monkeypatch):
    monkeypatch.setenv("JAXDIFF_COMMIT", "abc+changes")
    assert workdir.environment(jax.devices()[0], 1)["commit"] == "abc+changes"
