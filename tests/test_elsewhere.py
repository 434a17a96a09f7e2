"""Images of anyone: `jaxdiff evaluate --images`, and `jaxdiff reference`, which makes what they are compared with."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxdiff import metrics, workdir
from jaxdiff.main import main

RNG = np.random.default_rng(0)
REAL, MADE = (RNG.integers(low, high, (n, 16, 16, 3), np.uint8) for low, high, n in ((0, 256, 40), (40, 200, 30)))


def folder(path, images):
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03}.png")
    return path


@pytest.fixture
def real(tmp_path):
    return folder(tmp_path / "real", REAL)


@pytest.fixture
def made(tmp_path):
    return folder(tmp_path / "made", MADE)


def judge(images, reference, *words, out):
    """Judges by pixels, and returns the status and the rows."""
    status = main(["evaluate", f"--images={images}", f"--reference={reference}", "--features=pixels", f"--out={out}",
                   *words])
    return status, list(workdir.rows(out))


def pixels(images):
    return metrics.moments(images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1)


def test_a_folder_an_archive_and_a_file_of_statistics_give_one_distance(real, made, tmp_path, capsys):
    np.savez(tmp_path / "made.npz", arr_0=MADE)
    np.savez(tmp_path / "real.npz", arr_0=REAL)
    stats = tmp_path / "stats.npz"
    assert main(["reference", f"--images={real}", "--features=pixels", f"--out={stats}", "--split=train"]) == 0
    assert "stats.npz: pixels (signed) of 40 images of 16x16" in capsys.readouterr().out
    want = metrics.frechet(pixels(REAL), pixels(MADE))
    for images in (made, tmp_path / "made.npz"):
        for reference in (real, tmp_path / "real.npz", stats):
            status, rows = judge(images, reference, out=tmp_path / "rows.jsonl")
            assert status == 0
            assert rows[-1]["metrics"]["fd_pixels"] == pytest.approx(want, rel=1e-5)
            assert rows[-1]["n"] == {"made": 30, "real": 40} and rows[-1]["shape"] == [16, 16, 3]
    assert rows[-1]["reference"]["split"] == "train" and len(rows[-1]["reference"]["file_sha256"]) == 64
    assert f"{tmp_path / 'made.npz'}: 30 images against 40" in capsys.readouterr().out


def test_features_and_protocol_follow_the_file(made, real, tmp_path, capsys):
    """Nobody has to repeat what the file says."""
    stats = tmp_path / "stats.npz"
    assert main(["reference", f"--images={real}", "--features=pixels", f"--out={stats}"]) == 0
    assert main(["evaluate", f"--images={made}", f"--reference={stats}", f"--out={tmp_path / 'rows.jsonl'}"]) == 0
    row, = workdir.rows(tmp_path / "rows.jsonl")
    assert row["extractors"] == {"pixels": {"name": "pixels", "protocol": "signed", "sha256": ""}}


def test_moments_alone_serve_a_distance_and_nothing_that_reads_features(made, real, tmp_path, capsys):
    stats = tmp_path / "stats.npz"
    assert main(["reference", f"--images={real}", "--features=pixels", f"--out={stats}", "--moments_only"]) == 0
    assert judge(made, stats, out=tmp_path / "rows.jsonl")[0] == 0
    assert judge(made, stats, "--metrics=kid", out=tmp_path / "rows.jsonl")[0] == 2
    assert "--metrics=kid" in (err := capsys.readouterr().err) and "has no features of pixels, only moments" in err


def test_metrics_of_two_sets_and_of_pairs(made, real, tmp_path):
    words = "--metrics=fid,kid,precision_recall,density_coverage,vendi,fid_infinity"
    (row,) = judge(made, real, words, out=tmp_path / "sets.jsonl")[1]
    for name in ("fd_pixels", "kid_pixels", "precision_pixels", "recall_pixels", "density_pixels", "coverage_pixels",
                 "vendi_pixels", "fd_infinity_pixels"):
        assert np.isfinite(row["metrics"][name]), name
    blurred = folder(tmp_path / "blurred", (REAL // 2 + np.roll(REAL, 1, 2) // 2).astype(np.uint8))
    (pairs,) = judge(blurred, real, "--metrics=psnr,ssim", out=tmp_path / "pairs.jsonl")[1]
    want = metrics.psnr(REAL // 2 + np.roll(REAL, 1, 2) // 2, REAL).mean()
    assert pairs["metrics"]["psnr_pixels"] == pytest.approx(want, rel=1e-6)
    assert 0 < pairs["metrics"]["ssim_pixels"] < 1
    assert judge(made, real, "--metrics=psnr", out=tmp_path / "uneven.jsonl")[0] == 2


def test_a_row_is_appended_each_time_and_both_are_one_cell(made, real, tmp_path):
    for count in (1, 2):
        rows = judge(made, real, out=tmp_path / "rows.jsonl")[1]
        assert len(rows) == count
    assert rows[0]["cell"] == rows[1]["cell"] and rows[0]["metrics"] == rows[1]["metrics"]


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda path: (path / "005.png").write_bytes(b"none"), "005.png"),
    (lambda path: Image.fromarray(MADE[0, :8]).save(path / "005.png"), "005.png"),
    (lambda path: [file.unlink() for file in path.iterdir()], "no images"),
], ids=["broken", "another size", "empty"])
def test_bad_images_are_named(made, real, tmp_path, capsys, spoil, message):
    spoil(made)
    assert judge(made, real, out=tmp_path / "rows.jsonl")[0] == 2
    assert message in capsys.readouterr().err and not (tmp_path / "rows.jsonl").exists()


def test_what_was_made_in_another_way_is_not_compared(made, real, tmp_path, capsys):
    """A file of features of a larger image, or of another extractor, would give a number that means nothing."""
    large, other = tmp_path / "large.npz", tmp_path / "other.npz"
    wide = folder(tmp_path / "wide", np.repeat(REAL, 2, 2))
    assert main(["reference", f"--images={wide}", "--features=pixels", f"--out={large}"]) == 0
    metrics.references.save(other, metrics.references.Reference(
        40, {"features": pixels(REAL)}, {}, {"extractor": "lite0", "protocol": "clean", "sha256": "0" * 64}))
    for reference, message in ((large, "is of images of 16x32"), (other, "lite0")):
        assert judge(made, reference, out=tmp_path / "rows.jsonl")[0] == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["evaluate", "--images={made}"], "--images needs --reference"),
    (["evaluate", "--images={made}", "--reference={real}", "--steps=3"], "--steps is for the samples of a run"),
    (["evaluate", "--images={made}", "--reference={real}", "--features=pixels", "--config.batch=3"],
     "evaluate takes no config"),
    (["evaluate", "--images=nowhere", "--reference={real}", "--features=pixels"], "nowhere"),
    (["evaluate", "--images={made}", "--reference=nowhere.npz", "--features=pixels"], "no such file"),
    (["evaluate", "--images={made}", "--reference={real}", "--features=pixels", "--metrics=memorisation"],
     "not trained on, and there are none"),
    (["evaluate", "--images={made}", "--reference={real}", "--features=pixels", "--metrics=inception_score"],
     "--metrics=inception_score reads logits, which none of the features gives: pixels has"),
    (["reference", "--images={real}", "--features=pixels,digits", "--out=x.npz"], "is of one extractor"),
    (["reference", "--images={real}", "--features=pixels", "--out={real}/x.pkl"], "written as .npz"),
])
def test_what_makes_no_sense_is_one_line(made, real, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(made=made, real=real) for word in words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("jaxdiff: ") == 1
    assert not (tmp_path / "eval").exists()


def test_a_part_of_the_data_is_a_reference_too(tmp_path, capsys):
    out = tmp_path / "digits.npz"
    part = json.dumps({"name": "digits", "split": "train"}).replace('"', "'")
    assert main(["reference", f"--data={part}", "--features=digits", f"--out={out}"]) == 0
    held = metrics.references.load(out, "digits")
    assert held.moments["features"].mean.shape == (64,) and held.protocol["extractor"] == "digits"
    assert held.n == len(held.arrays["features"])
