"""What a sweep tries, and by what name it is found again."""

import random

import pytest

from launch import trials
from launch.job import LONGEST, checked_name

SPACE = trials.Space()


def test_a_grid_is_every_combination_the_last_key_fastest():
    assert SPACE.grid({"a": (1, 2), "b": "xy"}) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"},
                                                    {"a": 2, "b": "y"}]


def test_zip_pairs_and_refuses_what_has_no_partner():
    assert SPACE.zip({"a": (1, 2), "b": (3, 4)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(ValueError, match="there are a 2, b 1"):
        SPACE.zip({"a": (1, 2), "b": (3,)})


def test_more_draws_begin_with_the_same_ones():
    draws = {"rate": SPACE.log_uniform(1e-4, 1e-2), "drop": SPACE.uniform(0, 1), "name": SPACE.choice(("a", "b"))}
    few, many = (SPACE.random(number, draws, seed=3) for number in (4, 200))
    assert many[:4] == few
    assert all(1e-4 <= row["rate"] <= 1e-2 for row in many)
    assert 60 < sum(row["rate"] < 1e-3 for row in many) < 140  # as many below the middle factor as above
    assert SPACE.random(1, draws, seed=4) != few[:1]


def test_products_merge():
    assert SPACE.product(SPACE.grid({"a": (1, 2)}), SPACE.seeds(2)) == [
        {"a": 1, "seed": 0}, {"a": 1, "seed": 1}, {"a": 2, "seed": 0}, {"a": 2, "seed": 1}]


def test_names_say_what_varies_and_fit_every_engine():
    part = [{"optimizer": {"name": "adam", "learning_rate": rate}, "batch": 64} for rate in (5e-4, 0.002, 1.0)]
    made = trials.listed("configs/dit.py:b_2", part, {})
    assert [trial.name[:-7] for trial in made] == ["dit-b-2-5e-4", "dit-b-2-2e-3", "dit-b-2-1"]
    long = trials.listed("configs/dit.py", [{"x": "ü" * 80}, {"x": "y" * 80}, {"x": "-"}, {"x": ""}], {})
    for trial in (*made, *long):
        assert len(checked_name(trial.name)) <= LONGEST
        assert trial.name.endswith(trial.key)


def test_a_grid_that_grew_does_not_rename_what_has_run():
    before = trials.listed("c.py", [{"a": 1}, {"a": 2}], {})
    after = trials.listed("c.py", [{"a": 1, }, {"a": 2}, {"a": 3}], {trial.key: trial.name for trial in before})
    assert [trial.name for trial in after[:2]] == [trial.name for trial in before]
    once = trials.listed("c.py", [{"a": 1}], {})[0]
    assert trials.listed("c.py", [{"a": 1}, {"a": 2}], {once.key: once.name})[0].name == once.name


def test_changes_become_flags_a_part_whole():
    changes = {"sampler": {"name": "ddim", "eta": 0.5}, "seed": 1, "tag": "it's", "clip": None}
    made = trials.listed("c.py", [changes], {})
    assert made[0].flags() == ["--config.sampler={'name': 'ddim', 'eta': 0.5}", "--config.seed=1", "--config.tag=it's",
                               "--config.clip=None"]


@pytest.mark.parametrize(("found", "said"), [([], "is empty"), ([{"a": 1}, {"a": 1}], "are the same"),
                                             ([3], "yields mappings")])
def test_what_is_no_sweep_is_refused(found, said):
    with pytest.raises(ValueError, match=said):
        trials.listed("c.py", found, {})


def test_a_config_without_a_sweep_is_refused_with_those_that_have_one(tmp_path):
    (tmp_path / "configs" / "sweeps").mkdir(parents=True)
    (tmp_path / "configs" / "sweeps" / "a.py").write_text("def sweep(s):\n    return s.seeds(2)\n")
    (tmp_path / "configs" / "b.py").write_text("")
    assert trials.loaded("configs/sweeps/a.py:arg", tmp_path, "sweep")(SPACE) == [{"seed": 0}, {"seed": 1}]
    with pytest.raises(ValueError, match=r"no `def sweep\(...\)`; configs/sweeps/a.py have"):
        trials.loaded("configs/b.py", tmp_path, "sweep")
    with pytest.raises(ValueError, match="no such file"):
        trials.loaded("configs/c.py", tmp_path, "sweep")
    assert isinstance(SPACE.uniform(1, 2)(random.Random(0)), float)
