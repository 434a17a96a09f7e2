"""Files of statistics: ours say how they were made, published ones are read as their tools write them."""

import pickle

import numpy as np
import pytest
from etils import epath

from jaxdiff import foreign
from jaxdiff.metrics import frechet, moments, references
from jaxdiff.metrics.references import Reference, check, load, save

D = 6
PROTOCOL = {"extractor": "inception", "sha256": "6726825d", "protocol": "tf1", "resolution": "32x32", "split": "train",
            "data": "cifar10"}


def rows(n=20, d=D, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def statistics(d=D, seed=0):
    made = moments(rows(4 * d, d, seed))
    return made.mean, made.cov


def published(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def own(**changes):
    x = rows()
    return Reference(len(x), {"features": moments(x), "spatial": moments(x[:, :3])}, {"features": x},
                     {**PROTOCOL, **changes})


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new folder" / "real.npz"
    save(path, own())
    found, wanted = load(path), own()
    for name in ("features", "spatial"):
        assert found.moments[name].n == 20
        np.testing.assert_array_equal(found.moments[name].mean, wanted.moments[name].mean)
        np.testing.assert_array_equal(found.moments[name].cov, wanted.moments[name].cov)
    np.testing.assert_array_equal(found.arrays["features"], rows())
    assert (found.n, found.protocol, found.images) == (20, PROTOCOL, False)
    assert (found.source, found.sha256) == (str(path), foreign.sha256(path))
    assert frechet(found.moments["features"], moments(rows())) < 1e-10


def test_every_tool_that_reads_mu_and_sigma_reads_ours(tmp_path):
    save(tmp_path / "real.npz", own())
    with np.load(tmp_path / "real.npz", allow_pickle=False) as file:
        assert file["mu"].dtype == file["sigma"].dtype == np.float64
        assert (file["mu"].shape, file["sigma"].shape, file["mu_s"].shape) == ((D,), (D, D), (3,))


def test_moments_may_stand_alone(tmp_path):
    save(str(tmp_path / "real.npz"), Reference(None, {"features": moments(rows())}))
    found = load(tmp_path / "real.npz")
    assert (found.n, found.arrays, found.protocol, list(found.moments)) == (None, {}, {}, ["features"])


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save(tmp_path / "real.npz", own())
    before = (tmp_path / "real.npz").read_bytes()

    def full(path, data):
        with open(path, "wb") as file:
            file.write(data[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "real.npz", own(split="test"))
    assert (tmp_path / "real.npz").read_bytes() == before
    with pytest.raises(ValueError, match=r"written as \.npz, got 'real\.pkl'"):
        save("real.pkl", own())


# Published files.


@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")], ids=["pytorch-fid, EDM", "MeanFlow"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_moments_are_read_under_either_name(tmp_path, names, dtype):
    mu, sigma = (array.astype(dtype) for array in statistics())
    found = load(published(tmp_path / "fid.npz", **dict(zip(names, (mu, sigma), strict=True))))
    assert (found.n, found.protocol, found.arrays) == (None, {}, {})
    assert found.moments["features"].mean.dtype == found.moments["features"].cov.dtype == np.float64
    np.testing.assert_array_equal(found.moments["features"].mean, mu)
    np.testing.assert_array_equal(found.moments["features"].cov, sigma)


def test_adm_has_moments_of_all_its_data_and_images_beside_them(tmp_path):
    """FID.md, fault 20: moments of the 10,000 images in their place put FID far off."""
    (mu, sigma), (mu_s, sigma_s) = statistics(), statistics(3, 1)
    path = published(tmp_path / "VIRTUAL_imagenet256_labeled.npz", arr_0=np.zeros((5, 4, 4, 3), np.uint8),
                     arr_1=np.arange(5), mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    found = load(path)
    assert (found.images, found.n, found.arrays) == (True, None, {})
    np.testing.assert_array_equal(found.moments["features"].cov, sigma)
    np.testing.assert_array_equal(found.moments["spatial"].mean, mu_s)
    np.testing.assert_array_equal(found.moments["spatial"].cov, sigma_s)


def test_images_are_no_statistics(tmp_path):
    path = published(tmp_path / "samples.npz", arr_0=np.zeros((5, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds images and no statistics: --images=.*samples\.npz judges them"):
        load(path)


def test_clean_fids_features_for_kid_have_moments(tmp_path):
    found = load(published(tmp_path / "cifar10_clean_train_32_kid.npz", feats=rows()))
    assert found.n == 20
    np.testing.assert_array_equal(found.arrays["features"], rows())
    np.testing.assert_array_equal(found.moments["features"].cov, moments(rows()).cov)


@pytest.mark.parametrize(("extractor", "key"), [("inception", "fid"), ("dinov2", "fd_dinov2"), ("fid", "fid")])
def test_edm2_has_two_detectors_in_one_pickle(tmp_path, extractor, key):
    path = tmp_path / "img512.pkl"
    held = {"num_images": 1_281_167, **{name: dict(zip(("mu", "sigma"), statistics(seed=seed), strict=True))
                                        for seed, name in enumerate(("fid", "fd_dinov2"))}}
    path.write_bytes(pickle.dumps(held))
    found = load(path, extractor)
    assert (found.n, found.moments["features"].n, found.protocol) == (1_281_167, 1_281_167, {})
    np.testing.assert_array_equal(found.moments["features"].mean, held[key]["mu"])
    np.testing.assert_array_equal(found.moments["features"].cov, held[key]["sigma"])
    with pytest.raises(ValueError, match="has statistics of fid, fd_dinov2, and none of lite0"):
        load(path, "lite0")


class Program:
    """What a pickle may be in place of numbers."""

    def __reduce__(self):
        return print, ("this was run",)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"fid": Program()}))
    with pytest.raises(ValueError, match="asks for builtins.print.*nothing was run"):
        load(tmp_path / "bad.pkl")
    np.savez(tmp_path / "bad.npz", mu=np.array([Program()], object), sigma=np.eye(1), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged, or no .npz of numbers: Object arrays cannot be loaded"):
        load(tmp_path / "bad.npz")
    assert capsys.readouterr().out == ""


def test_other_files_are_refused(tmp_path):
    mu, sigma = statistics()
    with pytest.raises(ValueError, match="--reference=none.npz: no such file; `jaxdiff reference` makes one"):
        load("none.npz")
    (tmp_path / "a.txt").write_text("mu")
    with pytest.raises(ValueError, match=r"statistics are \.npz or \.pkl, got '\.txt'"):
        load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="has no mu and sigma, only mu, std"):
        load(published(tmp_path / "b.npz", mu=mu, std=mu))
    with pytest.raises(ValueError, match=r"moments of features should be finite .*, got \[6\] and \[3, 6\]"):
        load(published(tmp_path / "c.npz", mu=mu, sigma=sigma[:3]))
    with pytest.raises(ValueError, match="moments of spatial should be finite"):
        load(published(tmp_path / "d.npz", mu=mu, sigma=sigma, mu_s=np.full(D, np.nan), sigma_s=sigma))
    with pytest.raises(ValueError, match=r"features \[20, 5\] do not fit n = 20 and moments \[6\]"):
        load(published(tmp_path / "e.npz", mu=mu, sigma=sigma, features=rows(d=5)))
    (tmp_path / "f.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"f\.npz is damaged"):
        load(tmp_path / "f.npz")
    for held in ([1, 2], {"mu": mu}):
        (tmp_path / "g.pkl").write_bytes(pickle.dumps(held))
        with pytest.raises(ValueError, match="no statistics of EDM2's layout"):
            load(tmp_path / "g.pkl")
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({"fid": {"mu": mu}}))
    with pytest.raises(ValueError, match="no mu and sigma in 'fid'"):
        load(tmp_path / "h.pkl")


# A mismatch is an error, not a number.


def test_equal_protocols_compare():
    check(own(), PROTOCOL)
    check(own(), {"extractor": "inception", "protocol": "tf1", "sha256": ""})
    check(own(split=""), PROTOCOL, stated="tf1")


@pytest.mark.parametrize(("field", "other"), [
    ("extractor", "dinov2"), ("sha256", "0000"), ("protocol", "clean"), ("resolution", "256x256"), ("split", "test"),
])
def test_each_field_that_differs_is_named(field, other):
    assert field in references.FIELDS
    with pytest.raises(ValueError, match=f"has {field} {PROTOCOL[field]}, and the samples {other}: .* mean nothing"):
        check(own(), {**PROTOCOL, field: other})


def test_all_that_differ_are_named():
    with pytest.raises(ValueError, match=r"has protocol tf1, and the samples clean; split train, and the samples test"):
        check(own(), {**PROTOCOL, "protocol": "clean", "split": "test"})


def test_a_file_that_does_not_say_how_it_was_made_is_asked_for(tmp_path):
    found = load(published(tmp_path / "fid.npz", **dict(zip(("mu", "sigma"), statistics(), strict=True))))
    with pytest.raises(ValueError, match=r"fid\.npz does not say how .*--reference_protocol=tf1 .*half_pixel"):
        check(found, PROTOCOL)
    check(found, PROTOCOL, stated="tf1")
    with pytest.raises(ValueError, match="has protocol half_pixel, and the samples tf1"):
        check(found, PROTOCOL, stated="half_pixel")
    with pytest.raises(ValueError, match="--reference_protocol=clean: .*says that it was made with tf1"):
        check(own(), {**PROTOCOL, "protocol": "clean"}, stated="clean")
