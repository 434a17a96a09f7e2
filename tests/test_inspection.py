"""`jaxdiff data check`: what the data are, which are broken, and whether they come fast enough."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff import inspection, overrides
from jaxdiff.main import main

DIGITS = "configs/digits.py:tiny"


def png(value, extent=(8, 8)):
    out = io.BytesIO()
    Image.new("L", extent, value).save(out, "png")
    return out.getvalue()


def images(root, broken=(), extents=None):
    """Two classes of four gray images, some of them broken."""
    for n in range(8):
        path = root / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<html>404</html>" if n in broken else png(n, (extents or {}).get(n, (8, 8))))
    return {"name": "folder", "path": str(root)}


def shard(path, broken=(), extents=None):
    with tarfile.open(path, "w") as archive:
        for n in range(8):
            content = b"<html>404</html>" if n in broken else png(n, (extents or {}).get(n, (8, 8)))
            for name, part in ((f"{n}.png", content), (f"{n}.cls", b"%d" % (n % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    return {"name": "shards", "path": str(path), "channels": 1}


SOURCES = pytest.mark.parametrize("make", [images, shard])


def checked(part, *flags, capsys):
    """The status, what was printed, and the words to the user."""
    status = main(["data", "check", f"--config={DIGITS}", f"--config.data={part}", "--seconds=0.05", *flags])
    told = capsys.readouterr()
    return status, told.out, told.err


@SOURCES
def test_sound_data_are_described(make, tmp_path, capsys):
    status, out, err = checked(make(tmp_path / "set.tar"), "--needs=1", capsys=capsys)
    assert status == 0 and not err
    assert f"data         {'folder' if make is images else 'shards'} {tmp_path / 'set.tar'}\n" in out
    assert "examples     8: image uint8 [8, 8, 1], label int32 []\n" in out
    assert "classes      2: 0 4, 1 4\n" in out and "problems     none\n" in out
    assert "examples 8, seed 0, batch 16, sha256 " in out
    assert "img/s, the step can take 1\n" in out


@SOURCES
def test_all_that_is_broken_is_named(make, tmp_path, capsys):
    status, out, err = checked(make(tmp_path / "set.tar", broken=(0, 3, 7)), capsys=capsys)
    assert status == 1 and not err and "problems     3\n" in out
    for name in ("0.png", "3.png", "7.png") if make is images else ("'0'", "'3'", "'7'"):
        assert name in out
    assert "speed" not in out and "fingerprint" not in out


def test_as_json_all_problems_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspection, "NAMED", 2)
    part = shard(tmp_path / "set.tar", broken=range(5))
    out = checked(part, capsys=capsys)[1]
    assert out.endswith("  and 3 more; --json names all\n") and "'1' in" in out and "'2' in" not in out
    told = json.loads(checked(part, "--json", capsys=capsys)[1])
    assert len(told["problems"]) == 5 and told["examples"] == 8 and told["classes"] == {"0": 1, "1": 2}


def test_images_of_several_sizes_are_a_problem(tmp_path, capsys):
    status, out, _ = checked(shard(tmp_path / "set.tar", extents={5: (9, 9)}), capsys=capsys)
    assert status == 1
    assert "examples differ: 0 has image uint8 [8, 8, 1] and 5 has image uint8 [9, 9, 1]; images need one size" in out


def test_labels_beyond_the_network_are_a_problem(tmp_path, capsys):
    status, out, _ = checked(shard(tmp_path / "set.tar"), "--config.network.num_classes=1", capsys=capsys)
    assert status == 1
    assert "label 1 of 4 examples: the network has classes 0 to 0; set --config.network.num_classes=2" in out


def test_some_examples_are_spread_evenly(tmp_path, capsys):
    part = shard(tmp_path / "set.tar", broken=(3, 7))
    status, out, _ = checked(part, "--examples=2", capsys=capsys)
    assert status == 1 and "8 (2 looked at)" in out and "problems     1\n" in out and "'7' in" in out


def test_many_classes_are_summed_up():
    told = {"data": {"name": "mock"}, "examples": 300, "looked_at": 300, "columns": {}, "problems": [],
            "classes": {str(i): 10 + (i == 7) - (i == 8) for i in range(30)}}
    assert "classes      30, of 9 (label 8) to 11 examples (label 7)" in inspection.lines(told)


def test_a_slow_loader_is_held_against_the_step():
    loader = {"images_per_second": 510.0, "threads": 8, "workers": 0}
    told = {"data": {"name": "mock"}, "problems": [], "loader": loader}
    said = inspection.lines(told, 2036.0)[-1]
    assert "the loader gives 510 img/s, the step can take 2,036: training waits for data 75% of the time" in said
    assert "--config.loader.workers=2" in said
    assert inspection.lines(told, 400.0)[-1].endswith("the loader gives 510 img/s, the step can take 400")


def test_a_run_s_log_tells_what_its_step_takes_without_the_wait_for_data(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"batch": 64}))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has logged no speed yet; --needs=IMG_PER_S says it, --steps=N measures it"):
        inspection.pace_of(tmp_path)
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "images_per_second": 64.0, "time/data": 0.75},
            {"step": 3, "images_per_second": 128.0, "time/data": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert inspection.pace_of(tmp_path) == pytest.approx(256)  # a quarter of a second a step


def test_the_step_can_be_measured(capsys):
    status, out, _ = checked({"name": "digits"}, "--steps=1", capsys=capsys)
    assert status == 0 and "the step can take" in out


def test_a_step_that_cannot_be_taken_is_a_problem_beside_the_data(tmp_path, capsys):
    part = {"name": "mock", "shape": (8, 8, 1)}  # no labels to drop
    status, out, _ = checked(part, "--steps=1", capsys=capsys)
    assert status == 1 and "no step can be taken: drop=0.1 needs a condition" in out and "examples     64" in out


@pytest.mark.parametrize(("words", "message"), [
    (["--examples=0"], "--examples must be at least 1, got 0"),
    (["--needs=1", "--steps=1"], "not allowed with argument"),
    (["--workdir=nowhere"], "no run in nowhere"),
    (["--exmples=3"], r"data has no flag '--exmples=3'; did you mean '--examples'"),
    (["--config.data=digitz"], "unknown data 'digitz'; did you mean 'digits'"),
])
def test_what_the_user_can_mend_is_one_line(words, message, capsys):
    pair = [words.pop().replace("=digitz", "={'name': 'digitz'}")] if "digitz" in words[0] else []
    assert main(["data", "check", f"--config={DIGITS}", *words, *pair]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_workdir_and_columns_of_latents(tmp_path, capsys):
    np.save(tmp_path / "moments.npy", np.zeros((6, 4, 4, 6), np.float16))
    config = overrides.apply(overrides.load(DIGITS), [("data", str({"name": "latents", "path": str(tmp_path)}))])
    told = inspection.check(config, seconds=0)
    assert told["columns"] == {"moments": "float16 [4, 4, 6]"} and "loader" not in told and not told["problems"]
