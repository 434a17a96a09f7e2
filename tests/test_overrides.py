"""What the command line changes in a config, and what it refuses."""

import math
import sys

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxdiff import overrides


def config():
    made = ConfigDict({"lr": 1e-3, "train_images": 100, "name": "a", "flip": False, "mults": (1, 2),
                       "sampler": {"name": "heun", "s_churn": 0.0}})
    made.clip = placeholder(float)
    made.steps = made.get_ref("train_images") // 10
    return made.lock()


def applied(*words):
    rest, pairs = overrides.split(words)
    assert rest == []
    return overrides.apply(config(), pairs)


@pytest.mark.parametrize(("word", "key", "value"), [
    ("lr=1e-5", "lr", 1e-5),  # G13: no dot, and elsewhere it stayed a string
    ("lr=2", "lr", 2.0),
    ("train_images=2e8", "train_images", 200_000_000),
    ("train_images=200000000", "train_images", 200_000_000),
    ("name=b", "name", "b"),
    ("name=1e5", "name", "1e5"),
    ("flip=true", "flip", True),
    ("flip=False", "flip", False),
    ("mults=1,2,2", "mults", (1, 2, 2)),
    ("mults=(3,)", "mults", (3,)),
    ("mults=[3, 4]", "mults", (3, 4)),
    ("mults=3", "mults", (3,)),
    ("clip=1.5", "clip", 1.5),
    ("clip=1", "clip", 1.0),
    ("clip=None", "clip", None),
    ("sampler.s_churn=3", "sampler.s_churn", 3.0),
])
def test_a_value_takes_the_type_of_what_it_replaces(word, key, value):
    made = applied(f"--config.{word}")
    for name in key.split("."):
        made = made[name]
    assert made == value and type(made) is type(value)


@pytest.mark.parametrize(("word", "message"), [
    ("lr=1e-5x", "--config.lr must be a number, got '1e-5x'"),
    ("lr=nan", "--config.lr must be a number, got 'nan'"),
    ("lr=True", "must be a number"),
    ("train_images=1.5", "--config.train_images must be a whole number, got '1.5'"),
    ("train_images=inf", "must be a whole number"),
    ("train_images=None", "cannot be unset"),
    ("flip=maybe", "must be True or False"),
    ("sampler=ddim", "must be a dict such as"),
    ("trian_images=5", "config has no 'trian_images'; did you mean 'train_images'?"),
    ("sampler.s_chrun=1", "config.sampler has no 's_chrun'; did you mean 's_churn'?"),
    ("sampler.eta=1", "replace it whole: --config.sampler=\"{'name': 'heun', ...}\""),
    ("lr.peak=1", "config.lr has no parts"),
])
def test_a_wrong_key_or_value_is_one_line_that_names_it(word, message):
    with pytest.raises(ValueError, match="^--config") as caught:
        applied(f"--config.{word}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_is_replaced_whole():
    assert applied("--config.sampler={'name': 'ddim', 'eta': 0.5}").sampler.to_dict() == {"name": "ddim", "eta": 0.5}


def test_derived_values_follow():
    assert applied("--config.train_images=500").steps == 50


def test_flags_and_separate_values():
    made = applied("--config.flip", "--config.lr", "0.5")
    assert made.flip is True and made.lr == 0.5
    assert applied("--config.flip", "--noconfig.flip").flip is False


def test_other_flags_pass_by():
    assert overrides.split(["--workdir=x", "--config=a.py", "--config.lr=1"]) == (
        ["--workdir=x", "--config=a.py"], [("lr", "1")])


def test_what_comes_out_is_locked_and_the_original_untouched():
    original = config()
    made = overrides.apply(original, [("lr", "5")])
    assert original.lr == 1e-3 and math.isclose(made.lr, 5)
    with pytest.raises(AttributeError):
        made.nothing = 1


def test_files_that_are_not_configs_are_named(tmp_path):
    good = tmp_path / "good.py"
    good.write_text("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})\n")
    (tmp_path / "empty.py").write_text("")
    assert overrides.load(str(good)).a == 1
    with pytest.raises(ValueError, match="takes no argument, got 'tiny'"):
        overrides.load(f"{good}:tiny")
    with pytest.raises(ValueError, match=r"no config file '.*goood.py' .*did you mean '.*good.py'"):
        overrides.load(str(tmp_path / "goood.py"))
    with pytest.raises(ValueError, match="defines no get_config"):
        overrides.load(str(tmp_path / "empty.py"))


def test_differences_name_every_key_by_its_path():
    old = {"a": 1, "b": {"c": (1, 2), "d": 3}, "gone": 0}
    new = {"a": 1, "b": {"c": (1, 3), "d": 3}, "new": 0}
    assert overrides.differences(old, new) == [("b.c", (1, 2), (1, 3)), ("gone", 0, "unset"), ("new", "unset", 0)]


def test_installed_configs_are_found_from_anywhere_and_ones_of_here_first(tmp_path, monkeypatch):
    shipped = tmp_path / "share"
    (shipped / "configs").mkdir(parents=True)
    text = "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'where': %r})\n"
    (shipped / "configs" / "x.py").write_text(text % "shipped")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(overrides, "SHIPPED", shipped)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert overrides.load("configs/x.py").where == "shipped"
    (tmp_path / "here" / "configs").mkdir()
    (tmp_path / "here" / "configs" / "x.py").write_text(text % "here")
    assert overrides.load("configs/x.py").where == "here"
