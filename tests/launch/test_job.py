"""No value is changed on its way into a job: what a shell or an engine could read is one quoted file."""

import json
import os
import subprocess
import sys

import pytest
from jobs import job, of

from launch import accelerators
from launch.engines import MODULES, engine
from launch.job import script

VALUES = ("plain", "with blank", "it's", 'say "hi"', "a;b", "$(touch hurt)", "$(A)", "`touch hurt`", "*", "?[a-z]", "~",
          "-leading", "--config=x", "grün und 日本", "{'name': 'heun', \"s\": '$HOME'}", "\\", "a\\nb", "!x",
          "# no comment", "", "%s %j", "&& false", "<in >out", "$$", "${A}", "'; exit 3; '")


@pytest.mark.parametrize("on", MODULES)
def test_every_value_arrives_byte_for_byte_and_no_engine_sees_one(on, tmp_path):
    env = tuple((f"V{number}", value) for number, value in enumerate(VALUES))
    show = ("import json, os, sys; names = [f'V{n}' for n in range(len(sys.argv) - 1)]; "
            "json.dump([sys.argv[1:], [os.environ[name] for name in names]], open('out', 'w'))")
    one = of(on, argv=(sys.executable, "-c", show, *VALUES), env=env)
    text = script(one, "commit")
    made = engine(on).render(one, str(tmp_path))
    seen = json.dumps([made.files, made.submit, made.status, made.logs, made.stop])
    assert not any(mark in seen for mark in ("hurt", "日本", "heun", "V0", "json.dump"))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "dit.sh").write_text(text, encoding="utf-8")
    subprocess.run(["bash", "jobs/dit.sh"], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"], "A": "wrong"})
    assert json.loads((tmp_path / "out").read_text()) == [list(VALUES), list(VALUES)]
    assert not (tmp_path / "hurt").exists()


def test_the_command_takes_the_place_of_bash_so_that_signals_reach_it():
    assert script(job(), "c").splitlines()[-1] == "exec python -m jaxdiff train"


def test_a_setup_comes_first_and_its_failure_is_the_jobs(tmp_path):
    (tmp_path / "jobs").mkdir()
    both = "echo \"it's\" > first && echo $A >> first"
    for setup, status, lines in ((both, 0, ["it's", "a b"]), ("exit 42", 1, None)):
        text = script(job(argv=("cp", "first", "second"), setup=setup, env=(("A", "a b"),)), "c")
        (tmp_path / "jobs" / "dit.sh").write_text(text)
        done = subprocess.run(["bash", "jobs/dit.sh"], cwd=tmp_path, check=False)
        assert done.returncode == status
        if lines:
            assert (tmp_path / "second").read_text().splitlines() == lines


@pytest.mark.parametrize("value", ["two\nlines", "tab\t", "bell\a", "cut\0short", "escape\x1b[0m", "del\x7f", "cr\r"])
def test_control_characters_are_refused_wherever_they_stand(value):
    with pytest.raises(ValueError, match="control character"):
        job(argv=("python", value))
    with pytest.raises(ValueError, match="--env=A.*control character"):
        job(env=(("A", value),))
    with pytest.raises(ValueError, match="control character"):
        job(workdir=value)


@pytest.mark.parametrize(("name", "hint"), [
    ("DiT_B", "--name=dit-b"), ("-x", "--name=x"), ("x-", "--name=x"), ("9lives", "--name=lives"), ("", "--name=run"),
    ("a" * 36, f"--name={'a' * 35}"), ("a b", "--name=a-b"), ("größe", "--name=gr-e")])
def test_a_name_that_an_engine_would_refuse_comes_with_one_that_it_takes(name, hint):
    with pytest.raises(ValueError, match="lower-case letters") as refused:
        job(name=name)
    assert hint in str(refused.value)
    job(name=hint.removeprefix("--name="))


@pytest.mark.parametrize("changed", [{"env": (("1A", "x"),)}, {"env": (("A-B", "x"),)}, {"secrets": ("TOKEN=abc",)}])
def test_variables_have_names_and_secrets_nothing_else(changed):
    with pytest.raises(ValueError, match="variable"):
        job(**changed)


def test_numbers_below_one_are_refused():
    for word in ("slices", "nodes"):
        with pytest.raises(ValueError, match=f"--{word} must be at least 1, got 0"):
            job(**{word: 0})


def test_processes_are_the_hosts_of_all_slices_or_the_nodes():
    assert job(slices=2).processes == 8
    assert job(accelerator=accelerators.gpu("H100:8"), nodes=3).processes == 3
    assert job(accelerator=None, nodes=2).processes == 2
