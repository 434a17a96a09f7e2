"""`{name, **options}` becomes a part, or one line that says what was wrong and what is near."""

import sys
import types

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxdiff import build as building
from jaxdiff import objective, parameterization, process, samplers, times
from jaxdiff.build import Bound, build, nearest, resolve


def test_a_name_alone_is_a_part():
    assert build("RectifiedFlow", process) == process.RectifiedFlow()
    assert build({"name": "VP", "beta_max": 10.0}, process) == process.VP(beta_max=10.0)


def test_a_name_with_a_colon_is_a_strangers_part():
    assert resolve("math:hypot", process)(3, 4) == 5
    assert build({"name": "jaxdiff.process:EDM", "sigma_max": 50.0}, times) == process.EDM(sigma_max=50.0)


def test_options_that_are_none_are_unset():
    assert build({"name": "VP", "beta_min": None, "beta_max": 10.0}, process) == process.VP(beta_max=10.0)
    assert build({"name": "karras", "steps": 5, "sigma_max": None}, times, process.VP()) == times.karras(
        process.VP(), steps=5)


def test_given_arguments_fill_the_slot():
    assert build({"name": "uniform", "steps": 4}, times, process.VP()) == times.uniform(process.VP(), steps=4)


def test_named_arguments_reach_the_parts_that_take_them():
    home = module(takes=lambda x, *, null=None: (x, null), leaves=lambda x: (x, "nothing"))
    assert build("takes", home, 1, null=2) == (1, 2)
    assert build("leaves", home, 1, null=2) == (1, "nothing")


def test_what_still_lacks_something_is_bound():
    heun = build({"name": "heun", "s_churn": 4.0}, samplers)
    assert heun == Bound(samplers.heun, (), (("s_churn", 4.0),))
    assert repr(heun) == "heun(s_churn=4.0)"
    home = module(add=lambda a, b, *, c=0, d=0: (a, b, c, d))
    bound = build({"name": "add", "c": 3}, home, 1)
    assert bound(2) == (1, 2, 3, 0)
    assert bound(2, c=4, d=5) == (1, 2, 4, 5)


def test_equal_parts_are_equal_and_compile_once():
    specs = [{"name": "heun", "s_churn": 4.0, "s_min": 0.1}, {"s_min": 0.1, "s_churn": 4.0, "name": "heun"},
             {"name": "heun", "s_churn": 4.0, "s_min": 0.2}]
    parts = [build(spec, samplers) for spec in specs]
    assert parts[0] == parts[1] != parts[2]
    assert hash(parts[0]) == hash(parts[1])
    traces = []

    def traced(x, part):
        traces.append(part)
        return x

    run = jax.jit(traced, static_argnames="part")
    for part in parts:
        run(1.0, part=part)
    assert len(traces) == 2


def module(name="home", **members):
    """A slot's own module."""
    home = types.ModuleType(name)
    vars(home).update(members, __all__=list(members))
    return home


def test_nested_parts_are_built_first():
    home = module(outer=lambda inner, *, size=1: (inner, size), inner=lambda *, depth=1: f"depth {depth}")
    assert build({"name": "outer", "inner": {"name": "inner", "depth": 3}, "size": 2}, home) == ("depth 3", 2)


def test_a_nested_part_comes_from_the_submodule_of_its_slot():
    loss = build({"name": "denoising", "levels": {"name": "lognormal", "mean": -0.4, "std": 1.0},
                  "weighting": {"name": "min_snr", "gamma": 3.0}}, objective, nn.Dense(1),
                 process.VP(), parameterization.v())
    assert loss.levels == Bound(objective.levels.lognormal, (), (("mean", -0.4), ("std", 1.0)))
    assert loss.weighting == Bound(objective.weighting.min_snr, (), (("gamma", 3.0),))
    with pytest.raises(ValueError, match="unknown weighting 'lognormal'"):
        build({"name": "denoising", "weighting": {"name": "lognormal"}}, objective, nn.Dense(1), process.VP(),
              parameterization.v())


def test_a_part_of_the_optimizers_home_is_built():
    spec = {"name": "adam", "learning_rate": {"name": "warmup_cosine_decay_schedule", "init_value": 0.0,
                                              "peak_value": 1e-3, "warmup_steps": 10, "decay_steps": 100}}
    assert isinstance(build(spec, optax), optax.GradientTransformation)


@pytest.mark.parametrize(("spec", "home", "words"), [
    ("huen", samplers, "unknown samplers 'huen'; did you mean 'heun'?"),
    ("walk", samplers, "unknown samplers 'walk'; it may be adaptive, ancestral, ddim, deis"),
    ("Times2", times, "unknown times 'Times2'; did you mean 'Times'"),
    ({"eta": 0.5}, samplers, "a part of 'samplers' needs a 'name'"),
    ({"name": 3}, samplers, "needs a 'name'"),
    ({"name": "heun", "s_chrun": 1.0}, samplers, "'heun' has no option 's_chrun'; did you mean 's_churn'?"),
    ({"name": "heun", "eta": 0.5}, samplers, "'heun' has no option 'eta'"),
    ({"name": "VP", "beta_min": "0.1"}, process, "option 'beta_min' of 'VP' must be float, got '0.1'"),
    ({"name": "VP", "beta_min": True}, process, "must be float, got True"),
    ({"name": "karras", "steps": 2.5}, times, "option 'steps' of 'karras' must be int, got 2.5"),
    ({"name": "ancestral", "variance": 1}, samplers, "option 'variance' of 'ancestral' must be str, got 1"),
    ({"name": "given", "t": 0.5}, times, "option 't' of 'given' must be tuple, got 0.5"),
    ("no_such_lab.parts:thing", samplers, "cannot import 'no_such_lab.parts' of part"),
    ("jaxdiff.process:EDN", samplers, "'jaxdiff.process' has no 'EDN'; did you mean 'EDM'?"),
])
def test_what_cannot_be_built_is_one_line_that_helps(spec, home, words):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        build(spec, home)
    assert words in str(error.value)


def test_an_int_may_stand_for_a_float():
    assert build({"name": "EDM", "sigma_max": 50}, process) == process.EDM(sigma_max=50.0)
    assert build({"name": "given", "t": (1, 0)}, times, process.VP()) == times.given(process.VP(), t=(1.0, 0.0))


def test_what_the_slot_fills_may_not_be_overridden():
    with pytest.raises(ValueError, match="'uniform' has no option 'process'"):
        build({"name": "uniform", "process": 1, "steps": 2}, times, process.VP())
    home = module(part=lambda x, *, null=None: null)
    with pytest.raises(ValueError, match="no option 'null'"):
        build({"name": "part", "null": 3}, home, 1, null=2)


def test_a_part_that_swallows_options_is_refused():
    home = module(part=lambda x, **options: x)
    with pytest.raises(ValueError, match=r"takes \*\*options; a part must name every option"):
        build("part", home, 1)


def test_what_is_not_public_is_not_a_part():
    home = module(part=lambda: 1)
    home.hidden = lambda: 2
    with pytest.raises(ValueError, match="unknown home 'hidden'"):
        build("hidden", home)


def test_the_nearest_word_or_all_words():
    assert nearest("heum", ["heun", "ddim"]) == "; did you mean 'heun'?"
    assert nearest("zzz", ["heun", "ddim"]) == "; it may be ddim, heun"
    assert nearest("zzz", []) == "; it may be nothing"


def test_a_part_is_never_evaluated_as_code(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_lab", module("my_lab", restart=lambda x: x))
    assert build("my_lab:restart", samplers, np.float64(2)) == 2
    for name in ("__import__('os')", "os.system", "builtins"):
        with pytest.raises(ValueError, match="unknown samplers"):
            build(name, samplers)
    assert building.__all__ == ["Bound", "build", "nearest", "resolve"]
