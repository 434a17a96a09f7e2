"""What extractors see of an image depends on the image alone."""

import jax
import numpy as np
import pytest

from jaxdiff import data, evaluate, metrics
from jaxdiff.metrics import features


def digits(n):
    test = data.digits(split="test")
    return {name: test[name][:n] for name in ("image", "label")}


def looked(source, *, batch=8, outputs=("features", "logits"), **how):
    parts = list(evaluate.look({"digits": features.digits()}, evaluate.pictures.examples(source), batch=batch,
                               outputs=outputs, **how))
    assert all(len(array) == count for count, arrays in parts for array in arrays.values())
    return {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in parts[0][1]}


@pytest.mark.parametrize("n", [16, 17, 15, 1])  # of batches of 8: whole ones, one image over, one missing, one alone
def test_every_image_counts_once_in_whatever_batch_it_is(n):
    found = looked(digits(n))
    exact = features.digits().outputs(digits(n)["image"])
    for name in ("features", "logits"):
        assert len(found[f"digits/{name}"]) == n
        np.testing.assert_allclose(found[f"digits/{name}"], exact[name], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found["label"], digits(n)["label"])


@pytest.mark.parametrize("batch", [1, 7, 64, 512])
def test_the_distance_is_the_same_whatever_the_batch(batch):
    moments = lambda n, batch: metrics.moments(looked(digits(n), batch=batch)["digits/features"])
    found, usual = (metrics.frechet(moments(40, batch=size), moments(30, batch=size)) for size in (batch, 8))
    assert found == pytest.approx(usual, rel=1e-5)


def test_the_distance_is_the_same_whatever_the_order():
    found = looked(digits(60))["digits/features"]
    shuffled = found[np.random.default_rng(0).permutation(60)]
    other = metrics.moments(looked(digits(30))["digits/features"])
    assert metrics.frechet(metrics.moments(shuffled), other) == pytest.approx(
        metrics.frechet(metrics.moments(found), other), rel=1e-9)


def test_only_what_is_wanted_is_kept():
    assert set(looked(digits(3), outputs=("features",))) == {"digits/features", "label"}


def test_a_users_own_extractor_may_be_a_function_of_images():
    brightness = lambda images: images.mean((1, 2))
    (count, arrays), = evaluate.look({"brightness": jax.tree_util.Partial(brightness)},
                                     evaluate.pictures.examples(digits(5)))
    assert count == 5
    np.testing.assert_allclose(arrays["brightness/features"], digits(5)["image"].mean((1, 2)), rtol=1e-5)
    assert evaluate.marks(brightness) == {"name": "", "protocol": "", "sha256": ""}


def test_samples_and_files_are_seen_alike():
    """The sampler's program ends in the extractor: its features are those of the samples in a file."""
    images = digits(6)["image"]
    decode = lambda x: ((x + 1) * 127.5).round().astype("uint8")
    seeing = evaluate.Seeing(decode, ("features",))
    found = evaluate.flat(jax.device_get(seeing(images / 127.5 - 1, {"digits": features.digits()})))
    np.testing.assert_allclose(found["digits/features"], looked(digits(6), outputs=("features",))["digits/features"],
                               rtol=1e-4, atol=1e-4)


def test_devices_see_alike(run_python):
    out = run_python("""
        import numpy as np
        from jaxdiff import data, evaluate, mesh, metrics
        from jaxdiff.metrics import features

        source = {"image": data.digits(split="test")["image"][:40]}
        on = mesh.make_mesh()
        extractors = {"digits": features.digits()}
        def looked(extractors, mesh):
            return np.concatenate([arrays["digits/features"] for _, arrays in evaluate.look(
                extractors, evaluate.pictures.examples(source), batch=16, mesh=mesh)])
        one, eight = looked(extractors, None), looked(evaluate.placed(extractors, on), on)
        assert on.size == 8 and one.shape == eight.shape == (40, 64), one.shape
        np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-4)
        print("alike")
    """)
    assert "alike" in out
