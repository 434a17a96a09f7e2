"""Optimizers, remat, accumulation and ZeRO are a few words of a config."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiff import experiment, mesh, overrides

DIGITS = str(Path(__file__).parents[2] / "configs" / "digits.py") + ":tiny"
PLANE = (("data", "{'name': 'mixture'}"), ("prepare", "{'name': 'as_is'}"), ("network", "{'name': 'MLP', 'width': 8}"),
         ("objective", "{'name': 'denoising'}"))
OPTIMIZERS = {
    "adam": "{'name': 'adam', 'learning_rate': 1e-3}",
    "adamw": "{'name': 'adamw', 'learning_rate': 1e-3, 'weight_decay': 0.01}",
    "lion": "{'name': 'lion', 'learning_rate': 1e-4}",
    "adafactor": "{'name': 'adafactor', 'learning_rate': 1e-3}",
    "sgd": "{'name': 'sgd', 'learning_rate': 1e-3, 'momentum': 0.9}",
    "muon": "{'name': 'optax.contrib:muon', 'learning_rate': 1e-3}",
    "edm2": "{'name': 'adam', 'b2': 0.99, 'learning_rate': "
            "{'name': 'configs.parents.rates:inverse_root', 'peak': 0.01, 'rise': 2, 'hold': 4}}",
}


def built(*changes):
    """Mesh, loader and model of a config."""
    config = overrides.apply(overrides.load(DIGITS), changes)
    on = experiment.meshed(config)
    loader = experiment.loader(config, on)
    return on, loader, experiment.model(config, loader.example)


def losses(*changes, steps=2):
    """The losses of a few steps of a config."""
    on, loader, made = built(*changes)
    state, step, seen = made.init(jax.random.key(0), on), jax.jit(made.step()), []
    with jax.set_mesh(on):
        for batch, _ in zip(loader.batches(0), range(steps), strict=False):
            state, metrics = step(state, mesh.put(on, batch), jax.random.key(1))
            assert metrics["skipped"] == 0
            seen.append(float(metrics["loss"]))
    return seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_a_name_and_its_options(name):
    first, second = losses(*PLANE, ("optimizer", OPTIMIZERS[name]))
    assert np.isfinite([first, second]).all() and first != second


def test_forced_normalization_is_one_word_more():
    assert np.isfinite(losses(*PLANE, ("optimizer", OPTIMIZERS["edm2"]), ("clip_norm", "1.0"))).all()
    config = overrides.load(str(Path(DIGITS).parent / "edm2.py") + ":tiny")
    assert config.project == "weight" and config.optimizer.learning_rate.name == "configs.parents.rates:inverse_root"


def test_an_optimizer_that_is_none_is_refused():
    with pytest.raises(ValueError, match="unknown optax 'adm'; did you mean 'adam'"):
        losses(*PLANE, ("optimizer", "{'name': 'adm', 'learning_rate': 1e-3}"))
    with pytest.raises(ValueError, match="optimizer 'adam' still needs an option, such as 'learning_rate'"):
        losses(*PLANE, ("optimizer", "{'name': 'adam'}"))
    with pytest.raises(ValueError, match="'optax.contrib' has no 'muno'; did you mean 'muon'"):
        losses(*PLANE, ("optimizer", "{'name': 'optax.contrib:muno', 'learning_rate': 1e-3}"))


def test_micro_batches_change_nothing_but_the_rounding():
    """MLPs draw nothing of their own; a network with dropout draws anew for every part."""
    np.testing.assert_allclose(losses(*PLANE, ("accumulate", "4")), losses(*PLANE), rtol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_remat_is_a_policy_by_name(remat):
    """That it changes nothing but rounding: tests/networks/test_transformers.py."""
    part = {"name": "DiT", "width": 16, "depth": 2, "heads": 2, "num_classes": 10, "remat": remat}
    _, _, made = built(("network", repr(part)))
    traced = str(jax.make_jaxpr(made.step())(made.shapes(None), made.example, jax.random.key(0)))
    assert ("checkpoint" in traced or "remat" in traced) == (remat != "none")


def test_zero_on_one_device_is_the_run_without_it():
    whole = overrides.load(DIGITS).mesh.to_dict()
    assert losses(*PLANE, ("mesh", repr(whole | {"zero": True}))) == losses(*PLANE)
