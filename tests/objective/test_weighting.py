"""Every recipe, published on whatever its paper predicts, is one w(λ) on the error of ε."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.objective import weighting

LOGSNR = np.linspace(-12, 12, 25)
SNR = np.exp(LOGSNR)
SIGMA = np.exp(-LOGSNR / 2)  # EDM's σ/α

# |δε|² = SNR |δx0|², and |δv|² = (1 + SNR) |δx0|² where α² + σ² = 1: a weight on x0 is SNR times that on ε.
ON_X0 = {
    "x0": np.ones(25),
    "eps": SNR,
    "v": SNR + 1,  # Salimans & Ho 2022, sec. 4
    "velocity": (1 + SNR**0.5) ** 2,  # Li & He 2025 (JiT): 1/(1 - t)² on x0, t of data, and (1 - t)² = σ² of the path
    "min_snr": np.minimum(SNR, 5),  # Hang et al. 2023, sec. 3.4
    "edm": (SIGMA**2 + 0.5**2) / (SIGMA * 0.5) ** 2,  # Karras et al. 2022, table 1
    "p2": SNR / (1 + SNR),  # Choi et al. 2022, eq. 8, on ε 1/(k + SNR)^γ
    "sigmoid": 1 / (1 + np.exp(-LOGSNR)),  # SiD2: e^b sigmoid(λ - b) on x0
    # k-diffusion, layers.Denoiser: (σ σ_d)²/(σ² + σ_d²)² on F, which has edm's weight on x0
    "soft_min_snr": (SIGMA * 0.5) ** 2 / (SIGMA**2 + 0.5**2) ** 2 * (SIGMA**2 + 0.5**2) / (SIGMA * 0.5) ** 2,
}


def test_lists_are_complete():
    assert set(ON_X0) | {"native"} == set(weighting.__all__)


@pytest.mark.parametrize("name", ON_X0)
def test_a_weight_is_the_published_one_on_x0(name):
    found = getattr(weighting, name)(jnp.asarray(LOGSNR, jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found * SNR, ON_X0[name], rtol=2e-5)


def test_min_snr_is_published_for_eps_and_v_too():
    # TiankaiHang/Min-SNR-Diffusion-Training, gaussian_diffusion.py: ε min(SNR, γ)/SNR, v min(SNR, γ)/(SNR + 1)
    found = np.asarray(weighting.min_snr(jnp.asarray(LOGSNR, jnp.float32), gamma=2.0))
    np.testing.assert_allclose(found, np.minimum(SNR, 2) / SNR, rtol=2e-5)
    on_v = found * SNR / (SNR + 1)
    np.testing.assert_allclose(on_v, np.minimum(SNR, 2) / (SNR + 1), rtol=2e-5)


@pytest.mark.parametrize(("snr", "weight"), [(0.1, 1), (5, 1), (10, 0.5), (50, 0.1)])
def test_min_snr_keeps_noisy_levels_and_damps_clean_ones(snr, weight):
    assert float(weighting.min_snr(jnp.log(jnp.float32(snr)))) == pytest.approx(weight, rel=1e-5)


def test_edms_weight_follows_the_datas_deviation():
    found = weighting.edm(jnp.asarray(LOGSNR, jnp.float32), sigma_data=1.7)
    np.testing.assert_allclose(found * SNR, (SIGMA**2 + 1.7**2) / (SIGMA * 1.7) ** 2, rtol=2e-5)


@pytest.mark.parametrize(("k", "gamma"), [(1.0, 0.5), (2.0, 1.0), (0.3, 0.0)])
def test_p2_has_its_two_options(k, gamma):
    np.testing.assert_allclose(weighting.p2(jnp.asarray(LOGSNR, jnp.float32), k=k, gamma=gamma), (k + SNR) ** -gamma,
                               rtol=2e-5)


def test_a_sigmoid_is_shifted_by_its_bias():
    found = weighting.sigmoid(jnp.asarray(LOGSNR, jnp.float32), bias=-3.0)
    np.testing.assert_allclose(found * SNR, np.exp(-3) / (1 + np.exp(-LOGSNR - 3)), rtol=2e-5)


def test_soft_min_snr_p2_and_sigmoid_are_one_family():
    at = jnp.asarray(LOGSNR, jnp.float32)
    soft = weighting.soft_min_snr(at, gamma=3.0)
    np.testing.assert_allclose(soft, 3 * weighting.p2(at, k=3.0), rtol=2e-5)
    np.testing.assert_allclose(soft, weighting.sigmoid(at, bias=float(np.log(3))), rtol=2e-5)


def test_native_multiplies_nothing():
    assert weighting.native(jnp.zeros(3)) is None


@pytest.mark.parametrize("name", ON_X0)
def test_weights_are_finite_where_the_logsnr_is_clipped(name):
    assert jnp.isfinite(getattr(weighting, name)(jnp.array([-20.0, 20.0]))).all()


@pytest.mark.parametrize(("recipe", "option"), [
    (weighting.edm, "sigma_data"), (weighting.min_snr, "gamma"), (weighting.soft_min_snr, "gamma")])
def test_options_that_would_turn_weights_negative_are_refused(recipe, option):
    with pytest.raises(ValueError, match=f"{option} > 0, got -1"):
        recipe(jnp.zeros(2), **{option: -1.0})


@pytest.mark.parametrize("options", [{"k": 0.0}, {"gamma": -0.5}])
def test_p2_refuses_weights_that_are_infinite_or_favour_the_clean(options):
    with pytest.raises(ValueError, match="k > 0 and gamma >= 0, got k="):
        weighting.p2(jnp.zeros(2), **options)
