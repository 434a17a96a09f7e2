"""Copies of training images are found, and a model that makes none is not accused."""

import numpy as np
import pytest

from jaxdiff.metrics import duplicates, memorisation, pairwise


def rows(n, seed=0, d=6):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


TRAIN, HELD_OUT = rows(2000), rows(1000, 1)


@pytest.mark.parametrize("quantile", [0.01, 0.1])
def test_fresh_images_of_the_law_are_copied_as_often_as_held_out_ones(quantile):
    found = memorisation(rows(1000, 2), TRAIN, HELD_OUT, quantile=quantile)
    assert found["copied"] == pytest.approx(quantile, abs=4 * np.sqrt(quantile / 1000))
    assert found["median_ratio"] == pytest.approx(1, abs=0.08)
    assert found["exact"] == 0


def test_copies_are_counted():
    fresh = rows(900, 2)
    copies = TRAIN[:100] + 1e-3 * rows(100, 3)
    found = memorisation(np.concatenate([fresh, copies]), TRAIN, HELD_OUT)
    alone = memorisation(fresh, TRAIN, HELD_OUT)
    assert found["copied"] == pytest.approx(0.1 + 0.9 * alone["copied"])
    assert found["copied_threshold"] == alone["copied_threshold"] and found["exact"] == 0
    exactly = memorisation(np.concatenate([fresh, TRAIN[:100]]), TRAIN, HELD_OUT)
    assert (exactly["exact"], exactly["copied"]) == (0.1, found["copied"])


def test_a_model_that_repeats_its_training_set_is_all_copies():
    found = memorisation(TRAIN[::-1], TRAIN, HELD_OUT)
    assert (found["copied"], found["exact"], found["median_ratio"]) == (1, 1, 0)


def test_samples_off_the_data_are_no_copies():
    found = memorisation(rows(200, 2) + 10, TRAIN, HELD_OUT)
    assert found["copied"] == 0 and found["median_ratio"] > 5


def test_the_threshold_by_hand():
    """Held-out points at 1, 2, 3, 4 and 5 of the one training point; the 0.25 quantile of these is 2."""
    found = memorisation([[1.5], [-2], [8]], [[0.0]], [[1.0], [-2], [3], [4], [5]], quantile=0.25)
    assert found == {"copied": 1 / 3, "copied_threshold": 2, "exact": 0, "median_ratio": 2 / 3}


def test_a_held_out_set_that_was_trained_on_has_no_ratio():
    assert memorisation(rows(9, 2), TRAIN, TRAIN[:50])["median_ratio"] == np.inf


def test_what_memorisation_refuses():
    with pytest.raises(ValueError, match="a quantile is 0 to 1, got 1.5"):
        memorisation(HELD_OUT, TRAIN, HELD_OUT, quantile=1.5)
    with pytest.raises(ValueError, match="given features need at least 1 rows"):
        memorisation(HELD_OUT, TRAIN, HELD_OUT[:0])
    with pytest.raises(ValueError, match="features of 6 and of 3 dimensions"):
        memorisation(HELD_OUT[:, :3], TRAIN, HELD_OUT)


# Within one set.


@pytest.mark.parametrize("threshold", [0, 0.5, 1.5])
@pytest.mark.parametrize("shift", [0, 50])
def test_duplicates_are_the_pairs_of_all_distances(threshold, shift):
    x = np.concatenate([rows(60), rows(60)[[3, 3, 17]], rows(5, 1)]) + np.float32(shift)
    apart = np.sqrt(((x[:, None].astype(float) - x) ** 2).sum(-1))
    right = np.argwhere(np.triu(apart <= threshold, 1))
    found = duplicates(x, threshold=threshold)
    np.testing.assert_array_equal(found, right)
    assert len(found) >= 4 and found.dtype == np.int64  # 3-60, 3-61, 60-61, 17-62


def test_a_distance_of_the_threshold_is_near_enough():
    x = np.array([[0.0], [3], [6.5]])
    assert duplicates(x, threshold=3).tolist() == [[0, 1]]
    assert duplicates(x, threshold=2.999).shape == (0, 2)


def test_the_block_makes_no_difference(monkeypatch):
    whole = duplicates(HELD_OUT[:80], threshold=1.5).tolist()
    assert len(whole) > 5
    monkeypatch.setattr(pairwise, "CELLS", 80 * 7)
    assert duplicates(HELD_OUT[:80], threshold=1.5).tolist() == whole


def test_what_duplicates_refuse():
    with pytest.raises(ValueError, match="a threshold is >= 0, got -1"):
        duplicates(TRAIN, threshold=-1)
    with pytest.raises(ValueError, match="2000 of 2000 rows of given features are not finite"):
        duplicates(TRAIN * np.nan, threshold=1)
