"""The 26 known faults of other evaluators are none of ours: the right value, and that the faulty one would be seen.

Numbers are those of FID.md, section 6; a test is of the fault's kind.  Those that other files already catch:

     1  half-pixel resize     test_preparation: two_pixels_become_four; test_references: the protocol is asked for
     2  another Inception     test_inception: an_average_divides_.., another_network_.., a_fault_is_seen
     3  2x - 1                test_preparation: white_becomes_what_the_protocol_says
    11  the batch's size      evaluate/test_seeing: the_distance_is_the_same_whatever_the_batch; and here
    12  float64 in name only  test_inception, test_lite, test_vgg, test_vit: in_double_precision_nothing_is_left
    15  bias, 0 log 0         test_inception: features_are_those_of_the_tool (logits); test_scores: .._zero_is_no_nan
    19  floats, class scores  test_extractors: only_whole_bytes_are_judged; test_preparation: .._no_picture_is_refused
    20  a part's statistics   test_references: adm_has_moments_of_all_..; evaluate/test_rows: moments_of_a_file_..
    21  another layer's sFID  test_inception: the_wrong_layer_for_sfid_is_seen
    22  (w, h) for (h, w)     test_preparation, test_inception: 48x80 and others; and here

Every other fault is below, by its number.
"""

import ast
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs
from PIL import Image

import jaxdiff
from jaxdiff import evaluate, metrics
from jaxdiff.evaluate import Parts, Side, criteria
from jaxdiff.metrics import (
    Moments, Tally, blocks, cmmd, density_coverage, frechet, inception_score, kid, manifold, merge, moments,
    nearest_others, precision_recall, vendi,
)
from jaxdiff.metrics.features import preparation
from jaxdiff.metrics.kernel_distances import polynomial_mmd

X, Y = inputs.spread(12, 4), inputs.spread(10, 4, 0.37) + 0.25
RIGHT = 0.3519123588150994  # the Fréchet distance of X and Y
SORTED = np.repeat(np.eye(4) * 6, 5, 0)  # logits of 20 images that lie class by class
SURE = 3.7984664385644336  # their Inception score


def in_halves(x):
    return merge(moments(x[:len(x) // 2]), moments(x[len(x) // 2:]))


def in_threes(x):
    tally = Tally(x.shape[1], rows=5)
    for start in range(0, len(x), 3):
        tally.add(np.float32(x[start:start + 3]))
    return tally.moments()


every_way = pytest.mark.parametrize("ways", [moments, blocks, in_halves, in_threes], ids=lambda way: way.__name__)


def about(value):
    """To float32's rounding of the features."""
    return pytest.approx(value, rel=2e-6)


def side(**arrays):
    return Side(len(next(iter(arrays.values()))), arrays)


def parsed(folder="."):
    for path in sorted((Path(jaxdiff.__file__).parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.name, node


# Moments.


@every_way
def test_variables_are_the_columns_of_a_square_of_features(ways):
    """4, denoising-diffusion-pytorch#213: torch.cov of [n, d] is [n, n], which no shape betrays where n = d."""
    found = frechet(ways(X[:4]), ways(Y[:4]))
    assert found == pytest.approx(0.9287902809546441, rel=1e-4)  # of rank 3 in 4: float32's rounding has a root
    rows = frechet(*(Moments.exact(z.mean(0), np.cov(z)) for z in (X[:4], Y[:4])))
    assert rows == pytest.approx(0.823409537307704) and abs(rows - found) > 0.1


@every_way
def test_the_denominator_is_n_less_one(ways):
    """6, stylegan2-ada and stylegan3: n, so that their cached statistics differ from EDM's."""
    found = [ways(X), ways(Y)]
    assert frechet(*found) == about(RIGHT)
    n_below = [Moments(one.n, one.mean, one.cov * (one.n - 1) / one.n) for one in found]
    assert frechet(*n_below) == about(0.34873320471005287)


def test_two_points_a_side_by_hand():
    """6 and 8: (1 - 3)² + (√2 - √8)² = 6; with n in the denominator 5."""
    for ways in (moments, blocks):
        assert frechet(*(ways(np.array(points)) for points in ([[0.0], [2.0]], [[1.0], [5.0]]))) == pytest.approx(6)


@every_way
@pytest.mark.parametrize("mean", [100, -3000])
def test_a_mean_beside_which_the_spread_is_small_costs_no_digits(ways, mean):
    """9, torcheval#192, GenerativeModels#231: sums of squares in float32; a variance of 1.33 for 0.25, or NaN."""
    x = np.float32(mean) + np.tile(np.float32([-0.5, 0.5]), 5000)[:, None]
    assert ways(x).cov[0, 0] == pytest.approx(0.25 * 10_000 / 9_999, rel=1e-7)
    total, squares = (np.cumsum(values, dtype=np.float32)[-1] for values in (x, x * x))
    plain = (squares - total * total / np.float32(10_000)) / 9_999
    assert plain == pytest.approx(1.3265326) if mean == 100 else abs(plain) > 1


# The Fréchet distance.


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 30])
def test_nothing_is_added_to_a_diagonal_whatever_the_rank(n):
    """7, TTUR#4, pytorch-fid#13: with fewer samples than dimensions NaN, 1e114 i, or 1e-6 on every diagonal."""
    a, b = (moments(inputs.spread(n, 8, shift)) for shift in (0, 0.37))
    low = [Moments(n, 1e-4 * one.mean, 1e-8 * one.cov) for one in (a, b)]
    padded = [Moments(n, one.mean, one.cov + 1e-6 * np.eye(8)) for one in low]
    assert frechet(*low) == pytest.approx(1e-8 * frechet(a, b), rel=1e-9)
    assert abs(frechet(*padded) / frechet(*low) - 1) > 1e-2
    if n == 3:
        assert frechet(a, b) == pytest.approx(1.1822445752135389, rel=1e-11)
        assert abs(frechet(a, b) - 1.1822216387067375) > 2e-5


def test_no_root_of_a_matrix_is_scipys():
    """8, scipy#23278, MONAI#9076: releases of `sqrtm` differ in arguments, warnings and, of some matrices, values."""
    for name, node in parsed():
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            assert not any(module.split(".")[0] == "scipy" for module in modules), name
        assert not (isinstance(node, ast.Attribute) and node.attr == "sqrtm"), name


def test_a_set_is_at_no_distance_from_itself():
    """10, piq#283, torch-fidelity#44, pytorch-fid#105: 7.x, or -5e-5; here 6.9e-4 if the denominators differed."""
    a, n = moments(X), len(X)
    for other in (moments(X), moments(X[::-1]), in_halves(X)):
        assert 0 <= frechet(a, other) < 1e-12 and 0 <= frechet(other, a) < 1e-12
    assert 0 <= frechet(a, blocks(X)) < 1e-6 * np.trace(a.cov)
    assert frechet(a, Moments(n, a.mean, a.cov * (n - 1) / n)) == pytest.approx(0.0006931400138676658, rel=1e-9)


@pytest.mark.parametrize(("criterion", "figures"), [
    (criteria.fid, {"fid": 0}), (criteria.sfid, {"sfid": 0}), (criteria.cmmd, {"cmmd": 0}),
    (criteria.precision_recall, {"precision": 1, "recall": 1}), (criteria.psnr, {"psnr": np.inf}),
    (criteria.ssim, {"ssim": 1}), (criteria.per_class, {"fid:0": 0, "fid:1": 0}),
], ids=lambda value: getattr(value, "__name__", None))
def test_what_every_criterion_says_of_equal_sets(criterion, figures):
    """10: also those that are no Fréchet distance."""
    made, real = (side(features=X, spatial=X[:, :2], label=np.arange(12) % 2,
                       images=np.repeat(inputs.pattern(13, 12), 12, 0)) for _ in range(2))
    assert criterion(made, real) == pytest.approx(figures, abs=1e-9)


def test_all_of_a_set_is_covered_by_itself_and_copied_from_itself():
    """10: the shares of equal sets."""
    assert density_coverage(X, X)["coverage"] == 1
    assert metrics.memorisation(X, X, Y)["exact"] == 1
    assert np.all(metrics.perceptual([X.reshape(1, 4, 3, 4)], [X.reshape(1, 4, 3, 4)]) == 0)


# The last batch, and the order.


def table_of(rows, images):
    return rows[images[:, 0, 0, 0]]


@pytest.mark.parametrize("batch", [2, 5, 10, 3, 9, 4, 11, 64])  # 10 % batch: 0, 0, 0, 1, 1, 2, batch - 1, fewer
def test_the_last_batch_counts(batch, tmp_path):
    """5 and 26, TTUR, jax-fid, ddpm-torch#17: one that is not full is dropped; of whole ones an empty one follows."""
    extract = jax.tree_util.Partial(table_of, jnp.asarray(Y, jnp.float32))
    source = {"image": np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)}
    parts, tally, counts = Parts(tmp_path / "parts", seconds=0.0), Tally(4, rows=batch), []
    parts.read()
    for count, seen in evaluate.look({"own": extract}, evaluate.pictures.examples(source), batch=batch):
        counts.append(count)
        parts.add(seen)
        tally.add(seen["own/features"])
    assert counts == [batch] * (10 // batch) + [10 % batch] * (10 % batch > 0)
    taken = evaluate.whole(parts.taken(), "own")
    assert taken.n == 10 and criteria.fid(taken, side(features=X))["fid"] == about(RIGHT)
    assert frechet(moments(X), tally.moments()) == about(RIGHT)
    if batch == 4:
        assert criteria.fid(side(features=Y[:8]), side(features=X))["fid"] == about(0.314735136189239)


def test_no_image_is_no_batch():
    """26: a mean of nothing."""
    assert list(evaluate.look({"own": jax.tree_util.Partial(table_of, jnp.eye(3))}, [], batch=4)) == []
    with pytest.raises(ValueError, match="at least two rows"):
        Tally(3).moments()


def test_classes_one_after_the_other_are_no_single_class():
    """14, guided-diffusion#165: 62 for 298, as each split in the order of the file held few classes."""
    whole = lambda z, **how: inception_score(z, splits=1, **how)["inception_score"]
    assert whole(SORTED) == pytest.approx(SURE, rel=1e-12)
    assert whole(SORTED[::-1], shuffle=False) == pytest.approx(SURE, rel=1e-12)
    assert inception_score(SORTED, splits=4, shuffle=False)["inception_score"] == pytest.approx(1)  # if asked for
    many = np.repeat(SORTED, 100, 0)
    assert criteria.inception_score(side(logits=many), side(logits=many))["inception_score"] == pytest.approx(
        SURE, rel=0.01)


# Scores.


def test_the_inception_score_is_of_logits_without_bias_in_nats():
    """15, improved-gan#39: with its bias 10.95 for 11.23; in bits another number."""
    score = lambda z: inception_score(z, splits=1)["inception_score"]
    assert score(SORTED) == pytest.approx(SURE, rel=1e-12)
    assert SURE ** (1 / np.log(2)) == pytest.approx(6.858008368787368)
    assert score(SORTED + np.array([3.0, 0, 0, 0])) == pytest.approx(3.3696512703922425)
    assert score(np.pad(SORTED, ((0, 0), (0, 1004)), constant_values=-1e4)) == pytest.approx(SURE, rel=1e-12)


def test_the_order_of_the_vendi_score_is_passed_on():
    """23, Vendi-Score: `score_X(q=2)` is that of q = 1."""
    assert vendi(X, q=2) == criteria.vendi(side(features=X), side(features=Y), q=2)["vendi"]
    assert vendi(X, q=2) == pytest.approx(1.6550347491714308, rel=1e-12)
    assert vendi(X) == pytest.approx(2.2163912874528893, rel=1e-12)
    assert len({vendi(X, q=q) for q in (0, 0.5, 1, 1.5, 2, 3, np.inf)}) == 7


def test_cmmd_is_of_embeddings_of_length_one():
    """24, ports of CMMD: embeddings as they come, 3.14 for 0.116."""
    lengths = np.linspace(0.1, 9, 12)[:, None]
    for made, real in ((X, Y), (X * lengths, 7 * Y)):
        assert cmmd(made, real) == pytest.approx(0.11595240458883715, rel=1e-5)
    assert cmmd(X, Y) == criteria.cmmd(side(features=X), side(features=Y))["cmmd"]


def test_kid_may_be_below_zero():
    """18, clean-fid#36: taken for an error; 0 for equal sets, and .71 here, are those of the biased sum."""
    assert polynomial_mmd(X, Y) == pytest.approx(0.5871609086028968, rel=1e-12)
    assert polynomial_mmd(X, X) == pytest.approx(-0.08904807675634085, rel=1e-11)
    assert criteria.kid(side(features=X), side(features=X), subsets=3)["kid"] == pytest.approx(-0.08904807675634085)


def test_the_spread_of_kid_is_that_of_its_subsets():
    """18, GAN_Metrics-Tensorflow#11: divided by the root of their number, twice."""
    upto = [kid(X, Y, subsets=count, size=5) for count in range(1, 9)]
    each = np.diff([0, *((i + 1) * found["kid"] for i, found in enumerate(upto))])
    for i, found in enumerate(upto):
        assert found["kid_std"] == pytest.approx(each[:i + 1].std(), rel=1e-9, abs=1e-12)
    assert each.std() > 0


# Neighbours.


def test_a_collapsed_generator_has_precision_and_no_recall():
    """13, torch-fidelity#58: changed about, recall .99 for a generator of one image."""
    real, made = np.arange(20.0)[:, None], 7.25 + 1e-3 * np.arange(20)[:, None]
    for found in (precision_recall(made, real, k=3),
                  criteria.precision_recall(side(features=made), side(features=real))):
        assert found == {"precision": 1, "recall": 0}
    found = criteria.density_coverage(side(features=made), side(features=real))
    assert found["density"] > 1 and found["coverage"] < 0.5
    copied = criteria.memorisation(side(features=real[:1]), side(features=real), side(features=made))
    assert copied["exact"] == 1  # changed about 1/20


@pytest.mark.parametrize("value", [1, 0, 0.1, -3000])
def test_sets_of_one_and_the_same_point(value):
    """16, generative-evaluation-prdc#7: density and coverage 0, since published figures have `<`; P and R have `<=`."""
    same = np.full((8, 3), value, np.float32)
    assert density_coverage(same, same) == {"density": 0, "coverage": 0}
    assert precision_recall(same, same) == {"precision": 1, "recall": 1}


@pytest.mark.parametrize("k", range(1, 10))
def test_a_point_is_no_neighbour_of_itself(k):
    """17, off by one in any port: the radius of 0 among 0..9 is 3 for k = 3, not 2; a copy is another point."""
    line = np.arange(10.0)[:, None]
    assert manifold.radii(line, k)[0] == manifold.radii(line, k)[-1] == k
    assert manifold.radii(np.repeat(line, 2, 0), 2 * k - 1)[0] == k - 1
    assert np.all(nearest_others(line).distances == 1) and np.all(nearest_others(np.repeat(line, 2, 0)).distances == 0)


# Images and sources.


@pytest.mark.parametrize("protocol", [name for name, how in preparation.PROTOCOLS.items() if not how.rounds])
@pytest.mark.parametrize(("height", "width"), [(48, 80), (7, 41), (40, 20)])
def test_a_picture_on_its_side_is_resized_on_its_side(protocol, height, width):
    """22, clean-fid#7: (w, h) for (h, w), which is the same at 299x299 alone."""
    image = inputs.pattern(height, width)
    found, turned = (preparation.resized(given, protocol, 32) for given in (image, image.swapaxes(1, 2)))
    np.testing.assert_allclose(found, np.swapaxes(turned, 1, 2), rtol=0, atol=2e-4)
    assert np.abs(found - turned).max() > 20


def test_a_file_is_found_whatever_the_case_of_its_ending(tmp_path):
    """22, clean-fid#4: `.JPEG`, which is ImageNet's, was not looked for, and the rest was judged without a word."""
    names = ["a.JPEG", "b.jpg", "c.JPG", "d.Png", "e.webp"]
    for i, name in enumerate(names):
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(tmp_path / name)
    found = evaluate.pictures.examples(evaluate.pictures.opened(str(tmp_path)))
    np.testing.assert_allclose([example["image"][0, 0, 0] for example in found], 40.0 * np.arange(5), atol=3)


def test_every_product_on_a_device_asks_for_its_precision():
    """11, torch-fidelity#43, torchmetrics#1620: TF32, by which features depend on the batch they are in."""
    products = {"dot", "einsum", "matmul", "tensordot", "dot_general", "conv_general_dilated", "Conv", "Dense"}
    seen = 0
    for name, node in parsed("metrics"):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in products and (
                ast.unparse(node.func.value) in ("jnp", "lax", "jax.lax", "nn")):
            assert {"precision", "preferred_element_type"} & {word.arg for word in node.keywords}, (name, node.lineno)
            seen += 1
    assert seen > 15


def test_every_name_of_numpy_is_there():
    """25, torch-fidelity 0.4.0: `np.int`, in a branch that no test ran, and that numpy 1.24 no longer has."""
    modules = {"np": np, "np.random": np.random, "np.linalg": np.linalg}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of one that will go
        for name, node in parsed():
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
                assert hasattr(modules[ast.unparse(node.value)], node.attr), f"{name}: {node.attr}"
    assert not hasattr(np, "int")
