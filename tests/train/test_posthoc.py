"""An average of any length is a sum of stored ones: Karras et al. 2024, section 3 and appendix C."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from jaxdiff.train import averages, posthoc
from jaxdiff.train.posthoc import Profile

STEPS = 1024
LENGTHS = (0.05, 0.1)


@pytest.fixture(scope="module")
def iterates():
    """Parameters [steps, 32] of gradient descent on a noisy quadratic, far from 0, all of them kept."""
    rng = np.random.default_rng(0)
    curvature, x = np.geomspace(0.003, 0.3, 32), np.full(32, 6.0)
    path = []
    for _ in range(STEPS):
        x = x - 0.1 * (curvature * (x - 5.0) + 0.3 * rng.standard_normal(32))
        path.append(x)
    return np.array(path)


def direct(path, profile):
    """The average as `averages.advance` makes it, step by step."""
    decay, kept = averages.decay_of(f"power_{profile.length}"), path[0]
    for k in range(1, int(profile.step) + 1):
        kept = kept + (1 - float(decay(k))) * (path[k - 1] - kept)
    return kept


def summed(path, profile):
    """The same, by the weight of every step."""
    power = averages.power_exponent(profile.length) + 1
    j = np.arange(1, profile.step + 1.0)
    return (j**power - (j - 1) ** power) / profile.step**power @ path[:int(profile.step)]


def stored(count, lengths=LENGTHS):
    """Profiles of `count` snapshots, of every length."""
    return [Profile(int(step), length) for step in np.linspace(STEPS / count, STEPS, count) for length in lengths]


def off(path, profiles, wanted):
    """How far a reconstruction is from the average itself, in parts of how far parameters move around it."""
    weights, error = posthoc.mix(profiles, wanted)
    true = summed(path, wanted)
    made = weights @ np.stack([summed(path, profile).astype(np.float32) for profile in profiles])
    return np.linalg.norm(made - true) / np.linalg.norm(path[:int(wanted.step)].std(0)), error


@pytest.mark.parametrize(("one", "other"), [
    (Profile(10, 0.05), Profile(7, 0.1)), (Profile(7, 0.05), Profile(10, 0.1)), (Profile(3, 0.1), Profile(3, 0.25)),
])
def test_products_are_the_integrals_of_the_profiles(one, other):
    def height(profile, at):
        gamma = averages.power_exponent(profile.length)
        return (gamma + 1) * at**gamma / profile.step ** (gamma + 1) if at <= profile.step else 0.0

    end = min(one.step, other.step)
    whole, _ = quad(lambda at: height(one, at) * height(other, at), 0, end, epsabs=1e-13)
    assert posthoc.products([one], [other])[0, 0] == pytest.approx(whole, rel=1e-9)
    assert posthoc.products([other], [one])[0, 0] == pytest.approx(whole, rel=1e-9)


def test_a_profile_is_what_training_averages(iterates):
    for profile in (Profile(200, 0.05), Profile(STEPS, 0.1)):
        np.testing.assert_allclose(direct(iterates, profile), summed(iterates, profile), rtol=1e-5)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.2])
def test_a_third_length_is_nearer_the_more_snapshots_there_are(iterates, length):
    found = [off(iterates, stored(count), Profile(STEPS, length)) for count in (4, 8, 16, 32)]
    print(length, [f"{error:.1e} (profile {profile:.1e})" for error, profile in found])
    errors, profiles = zip(*found, strict=True)
    assert all(later < earlier for earlier, later in itertools.pairwise(profiles))
    assert errors[-1] < 0.1 * errors[0] and errors[-1] < 0.01
    assert all(error < 2 * profile for error, profile in found)  # the profile's error says how good it is


def test_an_average_in_the_middle_of_training_can_be_made_too(iterates):
    wanted = Profile(704, 0.15)
    error, _ = off(iterates, [profile for profile in stored(64) if profile.step <= 704], wanted)
    assert error < 0.001


def test_snapshots_of_one_length_do_with_more_of_them(iterates):
    error, _ = off(iterates, stored(64, (0.05,)), Profile(STEPS, 0.1))
    assert error < 0.01


def test_what_is_stored_is_itself():
    profiles = stored(8)
    for number, wanted in enumerate(profiles):
        weights, error = posthoc.mix(profiles, wanted)
        assert error == 0 and np.array_equal(weights, np.eye(len(profiles))[number])


@pytest.mark.parametrize("count", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("length", [0.01, 0.08, 0.15, 0.28])
def test_weights_sum_to_one_and_stay_small(count, length):
    """Or a constant would not be kept, and float32 snapshots would not be enough."""
    weights, error = posthoc.mix(stored(count), Profile(STEPS, length))
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert np.abs(weights).sum() < 300 and np.isfinite(error)


def test_without_snapshots_there_is_no_average():
    with pytest.raises(ValueError, match="made of at least one snapshot"):
        posthoc.mix([], Profile(10, 0.1))


@pytest.mark.parametrize(("name", "length"), [("power_0.05", 0.05), ("decay_0.999", None), ("converted", None)])
def test_only_power_averages_have_a_length(name, length):
    assert averages.length_of(name) == length
