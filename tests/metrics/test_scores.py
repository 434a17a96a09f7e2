"""The Inception score and CLIP's: torch-fidelity's and ADM's values, and what they are of plain cases."""

import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs

from jaxdiff.metrics import clip_score, inception_score
from jaxdiff.metrics.scores import cosines

*_, LOGITS = inputs.clouds()


def one_split(logits, **more):
    return inception_score(logits, splits=1, shuffle=False, **more)["inception_score"]


def test_the_inception_score_is_torch_fidelitys():
    found = inception_score(LOGITS, splits=4)
    assert found["inception_score"] == pytest.approx(3.825260643502961, rel=1e-12)
    assert found["inception_score_std"] == pytest.approx(0.2508569757904617, rel=1e-12)
    assert inception_score(jnp.asarray(LOGITS), splits=4) == found


def test_the_inception_score_in_blocks_as_adm_has_it():
    blocks = [one_split(LOGITS[start:start + 20]) for start in range(0, 43, 20)]
    assert np.mean(blocks) == pytest.approx(3.532509985814651, rel=1e-12)
    equal = inception_score(LOGITS[:40], splits=2, shuffle=False)
    assert equal["inception_score"] == pytest.approx(np.mean(blocks[:2]), rel=1e-14)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_it_is_the_number_of_classes_where_each_is_sure_and_all_are_as_many(classes):
    assert one_split(np.eye(classes) * 2000) == pytest.approx(classes, rel=1e-12)


def test_it_is_one_where_nothing_is_known_or_all_is_alike():
    assert one_split(np.zeros((9, 5))) == pytest.approx(1, rel=1e-14)
    assert one_split(np.tile([[3.0, -1, 900]], (9, 1))) == pytest.approx(1, rel=1e-14)


def test_two_sure_kinds_of_unequal_number_by_hand():
    """exp of the entropy of (1/4, 3/4)."""
    logits = np.array([[500.0, 0], [0, 500], [0, 500], [0, 500]])
    assert one_split(logits) == pytest.approx(4 / 3**0.75, rel=1e-12)


def test_a_probability_of_zero_is_no_nan():
    """improved-gan#29: 0·log 0; float64 holds exp(-2000) as 0."""
    assert np.isfinite(one_split(np.array([[0.0, 2000, -2000], [0, -2000, 2000]], np.float32)))


def test_what_is_added_to_all_logits_of_an_image_is_nothing():
    moved = LOGITS.astype(np.float64) + np.arange(43)[:, None] * 1000
    assert one_split(moved) == pytest.approx(one_split(LOGITS), rel=1e-9)


def test_of_one_split_it_is_free_of_the_order_and_of_several_of_the_seed_alone():
    order = np.random.default_rng(0).permutation(43)
    assert one_split(LOGITS[order]) == pytest.approx(one_split(LOGITS), rel=1e-12)
    assert inception_score(LOGITS, splits=1)["inception_score"] == pytest.approx(one_split(LOGITS), rel=1e-12)
    seeds = [inception_score(LOGITS, splits=4, seed=seed)["inception_score"] for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_every_row_is_in_one_split():
    """43 rows in 4 parts: 10, 11, 11 and 11; none is dropped."""
    sizes = [10, 11, 11, 11]
    parts = np.split(LOGITS, np.cumsum(sizes)[:-1])
    found = inception_score(LOGITS, splits=4, shuffle=False)
    assert found["inception_score"] == pytest.approx(np.mean([one_split(part) for part in parts]), rel=1e-13)


def test_what_the_inception_score_refuses():
    for splits in (0, 44):
        with pytest.raises(ValueError, match=f"43 rows of logits are cut into 1 to 43 splits, got {splits}"):
            inception_score(LOGITS, splits=splits)
    with pytest.raises(ValueError, match="1 of 2 rows of given features are not finite"):
        one_split(np.array([[1.0, np.inf], [0, 0]]))


# CLIP's.


def test_clip_scores_of_angles():
    images = np.array([[1.0, 0], [1, 0], [0, 3], [2, 2]])
    texts = np.array([[1.0, 0], [-1, 0], [7, 0], [0, 0.5]])
    np.testing.assert_allclose(cosines(images, texts), [1, -1, 0, 0.5**0.5], atol=1e-15)
    np.testing.assert_allclose(clip_score(images, texts), [100, 0, 0, 100 * 0.5**0.5], atol=1e-12)
    np.testing.assert_allclose(clip_score(images, texts, scale=2.5), [2.5, 0, 0, 2.5 * 0.5**0.5], atol=1e-13)


def test_clip_scores_are_of_directions_alone():
    real, fake, _ = inputs.clouds()
    plain = clip_score(fake, real[:50])
    np.testing.assert_allclose(clip_score(fake * 9, real[:50] / 7), plain, rtol=1e-6)
    assert plain.shape == (50,) and plain.dtype == np.float64


def test_what_clip_scores_refuse():
    with pytest.raises(ValueError, match=r"as many rows of one dimension on each side, got \(2, 3\) and \(3, 3\)"):
        clip_score(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="1 of 2 pairs have an embedding of length 0"):
        clip_score(np.eye(2), [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="1 of 2 rows of text features are not finite"):
        clip_score(np.eye(2), [[0, np.nan], [0, 1]])
