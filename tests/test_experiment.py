"""A config is the whole experiment; a stranger's part needs no edit here."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import denoiser, experiment, objective, overrides, workdir
from jaxdiff.main import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
DIGITS = str(ROOT / "configs" / "digits.py")


def tiny(*pairs):
    return overrides.apply(overrides.load(f"{DIGITS}:tiny"), pairs)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_and_takes_two_steps(path, tmp_path):
    assert main(["train", f"--config={path}:tiny", f"--workdir={tmp_path}"]) == 0
    lines = [row for row in workdir.rows(tmp_path / "metrics.jsonl") if "event" not in row]
    assert [line["step"] for line in lines] == [1, 2] and not any(line["skipped"] for line in lines)
    config = overrides.load(f"{path}:tiny")
    draws = "process" in config  # an autoencoder does not
    assert main(["sample", f"--workdir={tmp_path}", "--num=2"]) == (0 if draws else 2)
    judged = draws and config.prepare.name != "latents"  # latents need an autoencoder first: tests/test_latents.py
    assert main(["evaluate", f"--workdir={tmp_path}"]) == (0 if judged else 2)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_what_it_reaches_and_how(path):
    header = path.read_text().split('"""')[1]
    assert "Reaches:" in header and f"jaxdiff train --config=configs/{path.name}" in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_locked_and_survives_json(path):
    config = overrides.load(str(path))
    assert config.is_locked
    values = experiment.as_json(config)
    again = experiment.from_json(json.loads(json.dumps(values)))
    assert experiment.as_json(again) == values and again.is_locked
    assert again.network.to_dict() == config.network.to_dict()  # tuples, or Flax cannot hash the module


def test_guidance_at_scale_one_is_left_out():
    """G25: scale 1 costs one evaluation, not two."""
    example = experiment.loader(tiny(), experiment.meshed(tiny())).example
    for scale, evaluations in (("1.0", 1), ("2.0", 2), ("0.0", 2)):
        config = tiny(("guidance.classifier_free.scale", scale))
        made = experiment.generation(config, experiment.model(config, example))
        assert made.evaluations == evaluations and made.scale == float(scale)


@pytest.mark.parametrize("changes", [
    ("objective={'name': 'vlb', 'bins': None}", "process={'name': 'LearnedGamma', 'width': 8, 'learn_ends': True}",
     "parameterization={'name': 'v'}"),
    ("objective={'name': 'balanced', 'levels': {'name': 'logit_normal'}}", "process={'name': 'RectifiedFlow'}",
     "parameterization={'name': 'velocity'}"),
    ("objective={'name': 'denoising', 'weighting': {'name': 'sigmoid', 'bias': -1.0}, 'importance': True}",
     "process={'name': 'Shift', 'factor': 2.0, 'process': {'name': 'Cosine'}}", "parameterization={'name': 'v'}",
     "times={'name': 'uniform', 'steps': 2}"),
    ("process={'name': 'ZeroTerminalSNR', 'process': {'name': 'Discrete', 'schedule': 'scaled_linear'}}",
     "parameterization={'name': 'v'}", "times={'name': 'trailing', 'steps': 2}",
     "sampler={'name': 'ddim', 'eta': 1.0}"),
], ids=["learned process", "uncertainty", "shifted cosine", "zero terminal snr"])
def test_processes_and_objectives_of_papers_are_a_few_words_of_a_config(changes, tmp_path):
    # points in the plane and a small network: what compiles is not what this is about
    plane = ("data={'name': 'mixture'}", "prepare={'name': 'as_is'}", "network={'name': 'MLP', 'width': 8}",
             "objective={'name': 'denoising'}")
    pairs = [f"--config.{change}" for change in (*plane, *changes)]
    assert main(["train", f"--config={DIGITS}:tiny", f"--workdir={tmp_path}", *pairs]) == 0
    losses = [row["loss"] for row in workdir.rows(tmp_path / "metrics.jsonl") if "event" not in row]
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    assert main(["sample", f"--workdir={tmp_path}", "--num=2"]) == 0
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (2, 2)


LIMITED = ("{'chain': ('classifier_free', 'interval', 'rescale', 'dynamic_threshold'), "
           "'classifier_free': {'scale': 3.0}, 'interval': {'low': 0.1, 'high': 5.0}, 'rescale': {}, "
           "'dynamic_threshold': {}}")
MANIFOLD = "{'chain': ('cfg_plus_plus', 'static_threshold'), 'cfg_plus_plus': {'weight': 0.6}, 'static_threshold': {}}"
NESTED = "{'chain': ('projected', 'classifier_free'), 'projected': {'scale': 4.0}, 'classifier_free': {'scale': 2.0}}"
NEGATIVE = "{'chain': ('negative',), 'negative': {'scale': 2.0, 'away': {'label': 3}}}"
OFF = ("{'chain': ('classifier_free', 'interval', 'rescale'), 'classifier_free': {'scale': 1.0}, "
       "'interval': {'low': 0.1}, 'rescale': {}}")


@pytest.mark.parametrize(("chain", "evaluations", "scale", "parts"), [
    (LIMITED, 2, 3.0, 4), (MANIFOLD, 2, 1.0, 2), (NESTED, 4, 4.0, 2), (NEGATIVE, 2, 2.0, 1), (OFF, 1, 1.0, 0),
])
def test_chains_of_guidance_are_built_in_order_and_their_cost_is_counted(chain, evaluations, scale, parts):
    config = tiny(("guidance", chain), ("sampler", "{'name': 'ddim'}"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    found = experiment.generation(config, made)
    assert (found.evaluations, found.scale, len(found.chain)) == (evaluations, scale, parts)
    plain = denoiser.from_function(lambda x, t, cond: 0.5 * x, made.process)
    cond = {"label": np.zeros(2, np.int32)}
    x0 = found.guided(plain)(jnp.ones((2, *made.shape)), jnp.float32(found.times.t[0]), cond)
    assert x0.shape == (2, *made.shape)


def test_cfg_plus_plus_is_refused_with_a_sampler_that_asks_within_a_step():
    config = tiny(("guidance", MANIFOLD), ("sampler", "{'name': 'dpm_solver'}"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    with pytest.raises(ValueError, match="'cfg_plus_plus' is for 'ddim' and 'euler', got sampler 'dpm_solver'"):
        experiment.generation(config, made)


def test_a_scale_that_is_no_number_is_refused_when_it_is_built():
    config = tiny(("guidance", "{'chain': ('classifier_free',), 'classifier_free': {'scale': 'high'}}"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    with pytest.raises(ValueError, match="option 'scale' of 'classifier_free' must be float, got 'high'"):
        experiment.generation(config, made)


def test_the_unconditional_is_one_index_past_the_classes():
    config = tiny()
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    assert made.null["label"] == 10 and made.objective.null is made.null and made.shape == (8, 8, 1)


def test_a_network_without_a_null_class_refuses_what_needs_one():
    part = {"name": "ADM", "layout": "openai", "channels": 32, "mults": (1,), "blocks": 1, "attention": (),
            "num_classes": 10}
    adm = ("network", repr(part))
    example = experiment.loader(tiny(), experiment.meshed(tiny())).example
    with pytest.raises(ValueError, match="drop=0.1 needs a condition to drop"):
        experiment.model(tiny(adm), example)
    config = tiny(adm, ("objective.drop", "0.0"), ("guidance.classifier_free.scale", "2.0"))
    made = experiment.model(config, example)
    assert made.classes == 10 and made.null is None
    with pytest.raises(ValueError, match="guidance scale 2.0: this model has no condition to be guided by"):
        experiment.generation(config, made)


def test_a_kernel_of_another_platform_becomes_xla_with_one_line(caplog):
    config = tiny(("network", "{'name': 'DiT', 'size': 'S', 'depth': 1, 'kernel': 'splash', 'num_classes': 10}"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    assert made.objective.network.kernel == "xla"
    assert [line for line in caplog.messages if "kernel" in line] == [
        "attention kernel splash is for tpu, not cpu: using xla"]


@pytest.mark.parametrize(("change", "words"), [
    (("sampler", "{'name': 'unipc', 'order': 5}"), "unipc has orders 1, 2 and 3, got 5"),
    (("sampler", "{'name': 'restart', 'intervals': ((0.1, 900.0, 2, 1),)}"), "low < high <= 80"),
])
def test_what_a_sampler_refuses_is_found_before_training(change, words):
    config = tiny(change)
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    with pytest.raises(ValueError, match=words):
        experiment.generation(config, made)


@pytest.mark.parametrize(("change", "words"), [
    (("process", "{'name': 'Shift'}"), "'Shift' still needs 'process'"),
    (("process", "{'name': 'LearnedGamma'}"), "LearnedGamma has parameters of its own.*use 'vlb'"),
])
def test_a_process_that_lacks_something_says_what(change, words):
    config = tiny(change)
    example = experiment.loader(config, experiment.meshed(config)).example
    with pytest.raises(ValueError, match=words):
        experiment.model(config, example)


def test_labels_go_through_the_classes_in_turn():
    config = tiny()
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    np.testing.assert_array_equal(experiment.conditions_of((), made)(np.arange(12))["label"], [*range(10), 0, 1])
    np.testing.assert_array_equal(experiment.conditions_of((7, 2), made)(np.arange(3))["label"], [7, 2, 7])


def test_building_twice_gives_equal_samplers_that_share_a_trace():
    config = tiny(("sampler", "{'name': 'ddim', 'eta': 0.5}"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    one, two = experiment.generation(config, made), experiment.generation(config, made)
    assert one.sampler == two.sampler and hash(one.sampler) == hash(two.sampler) and one.times == two.times


PARTS = '''
"""A stranger's parts."""
import flax.linen as nn
import jax.numpy as jnp
from jaxdiff import samplers


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, c_noise, cond=None, *, train=False):
        return nn.Conv(x.shape[-1], (3, 3), name="conv")(x) * jnp.cos(c_noise)[:, None, None, None]


def half(logsnr, *, height: float = 0.5):
    return jnp.full_like(logsnr, height)


def lazy(denoiser, x, times, key=None, *, cond=None, walk=None, twice: bool = False):
    return samplers.ddim(denoiser, x, times, key, cond=cond)
'''


def test_a_users_own_parts_plug_in_by_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    words = ["--config.network={'name': 'my_lab:Net', 'width': 3}", "--config.objective.drop=0.0",
             "--config.objective.weighting={'name': 'my_lab:half'}", "--config.sampler={'name': 'my_lab:lazy'}"]
    assert main(["train", f"--config={DIGITS}:tiny", f"--workdir={tmp_path / 'run'}", *words]) == 0
    assert main(["sample", f"--workdir={tmp_path / 'run'}", "--num=2"]) == 0
    sys.modules.pop("my_lab", None)


def test_what_is_built_is_frozen():
    config = tiny()
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.accumulate = 2


def test_bfloat16_networks_keep_their_state_in_float32():
    """G09: weights kept in bfloat16 do not move at small learning rates."""
    config = tiny(("network.dtype", "bfloat16"), ("ema", "('decay_0.9', 'power_0.1')"))
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(made.shapes(experiment.meshed(config)))}
    assert kinds <= {np.dtype("float32"), np.dtype("int32")}


def test_a_kernel_without_jvp_is_refused_where_the_objective_needs_one(monkeypatch, caplog):
    part = {"name": "DiT", "width": 16, "depth": 1, "heads": 2, "num_classes": 10, "kernel": "splash"}
    config = tiny(("network", repr(part)))
    example = experiment.loader(config, experiment.meshed(config)).example
    assert experiment.model(config, example).objective.network.kernel == "xla"  # of another platform
    assert "splash is for tpu, not cpu" in caplog.text
    monkeypatch.setattr(objective.denoising, "jvp", True, raising=False)
    with pytest.raises(ValueError, match="'splash' has no JVP, which this objective needs; use xla"):
        experiment.model(config, example)


def test_the_kernel_of_a_network_inside_another_is_chosen_too(caplog):
    """A text encoder around MMDiT: the TPU's kernel would not run here."""
    inner = {"name": "MMDiT", "width": 16, "depth": 2, "heads": 2, "kernel": "splash"}
    part = {"name": "Conditioned", "network": inner,
            "encoder": {"name": "TextTransformer", "length": 4, "width": 8, "depth": 1, "heads": 2}}
    config = tiny(("network", repr(part)), ("prepare", "{'name': 'images', 'conditions': ('tokens', 'token_mask')}"))
    example = experiment.loader(config, experiment.meshed(config)).example | {
        "tokens": jax.ShapeDtypeStruct((16, 4), "int32"), "token_mask": jax.ShapeDtypeStruct((16, 4), "bool")}
    made = experiment.model(config, example)
    assert made.objective.network.network.kernel == "xla" and "splash is for tpu, not cpu" in caplog.text


def test_forced_weight_normalization_is_the_last_link():
    """EDM2, sec. 2.3: whatever the optimizer did, weights leave it with unit mean square."""
    config = overrides.load(f"{ROOT / 'configs' / 'edm2.py'}:tiny")
    optimizer = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example).optimizer
    params = {"params": {"enc": {"weight": 3 * jnp.ones((4, 5))}, "out_gain": jnp.ones(())}}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(jnp.square(moved["params"]["enc"]["weight"]).mean(0), 1, rtol=1e-3)


def test_an_objective_that_needs_a_process_says_so():
    config = overrides.load(f"{ROOT / 'configs' / 'autoencoder.py'}:tiny")
    config = overrides.apply(config, [("objective", "{'name': 'denoising'}")])
    with pytest.raises(ValueError, match="objective 'denoising' still needs 'process', 'parameterization'"):
        experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
