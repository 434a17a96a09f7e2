"""A row says what its figures are of, and a finished one is known again."""

import json

import numpy as np
import pytest

from jaxdiff import evaluate, workdir
from jaxdiff.evaluate import Side


def side(n=12, d=3, seed=0, **arrays):
    return Side(n, {"features": np.random.default_rng(seed).standard_normal((n, d)), **arrays})


def test_rows_are_appended_whole_and_found_by_their_cell(tmp_path):
    path = tmp_path / "eval" / "results.jsonl"
    for cell, n in (("a", 3), ("b", 4), ("a", 5)):
        evaluate.append(path, {"cell": cell, "n": n})
    assert [row["n"] for row in workdir.rows(path)] == [3, 4, 5]
    assert {cell: row["n"] for cell, row in evaluate.finished(path).items()} == {"a": 5, "b": 4}
    assert evaluate.finished(tmp_path / "none.jsonl") == {}


def test_a_broken_off_line_is_no_row(tmp_path):
    path = tmp_path / "results.jsonl"
    evaluate.append(path, {"cell": "a"})
    with open(path, "a") as file:
        file.write(json.dumps({"cell": "b"})[:6])
    evaluate.append(path, {"cell": "c"})
    assert set(evaluate.finished(path)) == {"a", "c"}


def test_equal_values_are_one_cell_and_others_are_others():
    about = {"sampler": {"name": "heun"}, "num": 50_000, "ema": None}
    assert evaluate.identity(about) == evaluate.identity(dict(reversed(about.items())))
    others = [{**about, "num": 10_000}, {**about, "sampler": {"name": "ddim"}}, {**about, "ema": "decay_0.9"}]
    assert len({evaluate.identity(one) for one in [about, *others]}) == 4


@pytest.mark.parametrize(("metric", "extractor", "name"), [
    ("fid", "inception", "fid"), ("sfid", "inception", "sfid"), ("fid", "lite0", "fd_lite0"),
    ("fid", "dinov2", "fd_dinov2"), ("kid", "dinov2", "kid_dinov2"), ("fid_infinity", "lite0", "fd_infinity_lite0"),
    ("fid:3", "inception", "fid:3"), ("fid:3", "digits", "fd_digits:3"),
])
def test_only_inceptions_distance_is_called_fid(metric, extractor, name):
    assert evaluate.key_of(metric, extractor) == name


def test_a_criterion_passes_over_what_its_extractor_has_not():
    criteria = {"fid": evaluate.criteria.fid, "inception_score": evaluate.criteria.inception_score}
    found = evaluate.measured(criteria, side(), side(seed=1), "pixels")
    assert set(found) == {"fd_pixels"}
    with_logits = side(logits=np.random.default_rng(2).standard_normal((12, 5)))
    assert set(evaluate.measured(criteria, with_logits, side(seed=1), "pixels")) == {
        "fd_pixels", "inception_score_pixels", "inception_score_std_pixels"}


def test_memorisation_needs_images_that_were_not_trained_on():
    criteria = {"memorisation": evaluate.criteria.memorisation}
    with pytest.raises(ValueError, match="not trained on, and there are none: config.held_out"):
        evaluate.measured(criteria, side(), side(seed=1), "pixels")
    assert "copied_pixels" in evaluate.measured(criteria, side(), side(seed=1), "pixels", held_out=side(seed=2))


def test_a_users_own_criterion_needs_no_marks():
    mine = lambda made, real: {"apart": float(abs(made["features"].mean() - real["features"].mean()))}
    assert evaluate.needs(mine) == evaluate.Needs(("features",), rows=True, held_out=False, alone=False)
    assert set(evaluate.measured({"mine": mine}, side(), side(seed=1), "pixels")) == {"apart_pixels"}


def test_moments_of_a_file_are_taken_before_those_of_its_features():
    """G20's kind: ADM's moments are of the whole data set, its images a part of it."""
    whole, part = side(200), side(20, seed=5)
    file = Side(20, part.arrays, {"features": whole.moments_of("features")}, where="adm.npz")
    assert file.moments_of("features").n == 200
    with pytest.raises(ValueError, match="adm.npz: no 'logits' there, only features, moments of features"):
        file["logits"]


def test_a_side_is_cut_to_the_number_of_the_other():
    cut = evaluate.cut(side(12), 5)
    assert cut.n == 5 and len(cut["features"]) == 5
    assert evaluate.cut(side(12), 20).n == 12
    with pytest.raises(ValueError, match="only moments"):
        evaluate.cut(Side(50, {}, {"features": side().moments_of("features")}, where="stats.npz"), 10)
