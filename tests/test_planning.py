"""`jaxdiff plan`: shapes without data, plans compiled in processes of their own, the cache, and what it refuses."""

import json
import math
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plan as table
from jaxdiff import experiment, hlo, overrides, plan, planning
from jaxdiff.main import main
from jaxdiff.planning import asking, telling

ROOT = Path(__file__).resolve().parent.parent
DIT = str(ROOT / "configs" / "dit.py")
needs_libtpu = pytest.mark.skipif(asking.libtpu() is None, reason="libtpu is not here; `make test` installs it where "
                                  "there is one: Linux on x86-64")


def dit(width, dtype):
    """Four blocks of DiT-XL/2, narrow; on few small latents, so that weights move and no activations."""
    return "network", str({"name": "DiT", "width": width, "depth": 4, "heads": 2, "patch": 2, "num_classes": 1000,
                           "learned_variance": True, "kernel": "xla", "remat": "dots", "dtype": dtype})


def config_of(spec, *pairs):
    return overrides.apply(overrides.load(spec), pairs)


def quiet(text):
    assert isinstance(text, str)


# Shapes without data.


def test_data_that_can_be_opened_are_asked():
    example, source = experiment.expected(config_of(f"{DIT}:tiny"))
    assert source == "the data" and example["moments"].shape == (8, 8, 8, 8)


def test_the_config_or_the_command_tell_the_shape_of_data_that_are_not_there():
    folder = ("data", "{'name': 'folder', 'path': '/nowhere', 'size': 48}")
    pixels, source = experiment.expected(config_of(str(ROOT / "configs/edm.py"), folder))
    assert source == "the config and the command"
    assert (pixels["image"].shape, pixels["image"].dtype) == ((512, 48, 48, 3), np.uint8)
    latents, _ = experiment.expected(config_of(f"{DIT}:xl_2"), (32, 32, 4))
    assert latents["moments"].shape == (256, 32, 32, 8) and latents["label"].shape == (256,)
    text, _ = experiment.expected(config_of(str(ROOT / "configs/stable.py")), (64, 64, 4), {"text": (77, 768)})
    assert text["text"].shape[1:] == (77, 768)


@pytest.mark.parametrize(("spec", "pairs", "image", "words"), [
    (f"{DIT}:xl_2", (), None, "no latents in .*; or say --image=H,W,C"),
    (f"{DIT}:xl_2", (), (32, 4), "--image must be three numbers above 0, H,W,C, got 32,4"),
    (str(ROOT / "configs/stable.py"), (), (64, 64, 4), "condition 'text' .* Say --condition=text="),
    (f"{DIT}:tiny", (("data", "{'name': 'folder', 'path': 'x', 'sise': 32}"),), None, "no option 'sise'"),
    (f"{DIT}:tiny", (("data", "{'name': 'foldr'}"),), None, "did you mean 'folder'"),
])
def test_a_shape_that_nobody_knows_is_asked_for(spec, pairs, image, words):
    with pytest.raises(ValueError, match=words):
        experiment.expected(config_of(spec, *pairs), image)


# Whole plans, compiled in processes of their own.


def test_weights_cut_over_fsdp_move_three_times_and_gradients_once():
    config = config_of(f"{DIT}:tiny", dit(256, "float32"), ("batch", "16"))  # float32, which a CPU leaves as it is
    told = planning.planned(config, "v5e:2x4", platform="cpu", programs=("train",), search=False, say=quiet)
    step = told["programs"]["train"]
    assert (told["devices"], step["mesh"]) == (8, {"data": 1, "fsdp": 8, "tensor": 1})
    assert step["fits"] and step["unknown_loops"] == []
    moved = sum(value["payload"] for value in step["collectives"].values())
    theory = 4 * (3 + 1) * step["parameters"]  # forward, again, backward; float32 gradients
    assert theory / 2 <= moved <= 2 * theory
    assert "all-gather" in step["collectives"]
    model = step["predicted"]["model_flops"]
    assert model <= step["flops"] <= 1.4 * model  # of a block, the attention's products are made again
    cut = [row for row in step["table"] if "fsdp" in row[2]]
    assert {"mlp0", "mlp1", "qkv", "out"} <= {row[0].split("/")[-2] for row in cut}
    assert all(size == 4 * math.prod(shape) // 8 for _, shape, _, size in cut)
    text = "\n".join(planning.lines(told))
    assert "no TPU compiler" in text and "params/blocks/mlp0/kernel" in text and "in steps" not in text


@needs_libtpu
def test_a_plan_for_a_tpu_says_what_moves():
    config = config_of(f"{DIT}:tiny", dit(128, "bfloat16"))
    told = planning.planned(config, "v5e:2x2", programs=("train",), search=False, say=quiet)
    step = told["programs"]["train"]
    assert (told["platform"], step["fits"], step["unknown_loops"]) == ("tpu", True, [])
    moved, params = sum(value["payload"] for value in step["collectives"].values()), step["parameters"]
    theory = 3 * 2 * params + 4 * params
    assert theory / 2 <= moved <= 2 * theory
    assert step["roofline"]["step_s"] > 0 and 0 < step["predicted"]["mfu"] < 1


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Keeps answers in a folder of this test, and counts what is compiled."""
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    started, run = [], asking.subprocess.run

    def counted(*args, **options):
        started.append(args)
        return run(*args, **options)

    monkeypatch.setattr(asking, "subprocess", types.SimpleNamespace(**vars(asking.subprocess) | {"run": counted}))
    return tmp_path / "plan", started


def test_nothing_is_compiled_twice_and_json_says_all_of_it(cached, capsys):
    folder, started = cached
    words = ["plan", f"--config={DIT}:tiny", "--topology=v5e:2x2", "--platform=cpu", "--only=sample", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(started) == len(list(folder.iterdir())) == 1
    assert main([*words, "--config.log_every_steps=7"]) == 0  # which no program has in it
    out, err = capsys.readouterr()
    second = json.loads(out)
    assert len(started) == 1 and "from the cache" in err
    assert first["programs"]["sample"].pop("cached") is False and second["programs"]["sample"].pop("cached") is True
    assert first == second == json.loads(json.dumps(first))
    assert first["programs"]["sample"]["flops"] > 0 and first["largest"] is None


def job_of(config, program="train", **changes):
    return {"config": experiment.as_json(config), "program": program, "batch": 8, "topology": "v5e:2x2", "slices": 1,
            "bounds": [2, 2, 1], "effort": -1.0, "platform": "cpu", "example": {}} | changes


def test_an_answer_is_another_one_for_all_that_it_depends_on():
    config = config_of(f"{DIT}:tiny")
    same = config_of(f"{DIT}:tiny", ("save_every_steps", "9"))
    steps, wider = config_of(f"{DIT}:tiny", ("times.steps", "3")), config_of(f"{DIT}:tiny", ("network.width", "64"))
    base = asking.digest(job_of(config))
    assert base == asking.digest(job_of(same)) == asking.digest(job_of(steps))
    others = [job_of(wider), job_of(config, "sample"), job_of(steps, "sample"), job_of(config, batch=16),
              job_of(config, topology="v5e:4x4"), job_of(config, slices=2), job_of(config, bounds=[1, 1, 1]),
              job_of(config, effort=0.0), job_of(config, example={"image": [[8, 8, 3], "uint8"]})]
    assert len({base, *map(asking.digest, others)}) == len(others) + 1


def test_a_damaged_answer_is_asked_again(cached, monkeypatch):
    folder, _ = cached
    job, answers = job_of(config_of(f"{DIT}:tiny")), iter([{"flops": 1}, {"flops": 2}, {"failed": "late"}])
    monkeypatch.setattr(asking, "_asked", lambda *args: next(answers))
    ask = lambda **options: asking.answered(job, devices=4, timeout=9.0, **options)
    assert ask() == {"flops": 1, "cached": False} and ask() == {"flops": 1, "cached": True}
    (path,) = folder.iterdir()
    path.write_text("{")
    assert ask()["flops"] == 2
    assert ask(again=True) == {"failed": "late", "cached": False}  # and is not kept
    assert ask() == {"flops": 2, "cached": True}


# What the command says of what cannot be.


@pytest.mark.parametrize(("words", "line"), [
    (("--topology=v5e:4x44x",), "no topology 'v5e:4x44x'; did you mean 'v5e:4x4'"),
    (("--slices=0",), "--slices must be at least 1"), (("--effort=2",), "--effort must be from -1 to 1, got 2"),
    (("--image=a",), "sizes are whole numbers, such as 32,32,3; got 'a'"),
    (("--condition=text",), "a condition has a name and sizes"),
    (("--config.batch=9", "--platform=cpu"), "a batch of 9 does not divide over 4 devices"),
])
def test_what_is_wrong_is_said_before_anything_compiles(capsys, words, line):
    assert main(["plan", f"--config={DIT}:tiny", "--topology=v5e:2x2", *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jaxdiff: ") and line in last


def test_libtpu_that_is_missing_is_said(capsys, monkeypatch):
    monkeypatch.setattr(asking, "libtpu", lambda: None)
    assert main(["plan", f"--config={DIT}:tiny", "--topology=v5e:2x2", "--platform=tpu"]) == 2
    assert "libtpu is not installed" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(asking, "answered", lambda job, **options: asked.append((job, options)) or {"failed": "so"})
    assert main(["plan", f"--config={DIT}:tiny", "--topology=v5e:2x2", "--slices=2"]) == 1
    assert all(job["platform"] == "cpu" and options["devices"] == 8 for job, options in asked)
    assert "no TPU compiler" in capsys.readouterr().out


def test_libtpu_is_found_where_python_looks_or_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(asking.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(asking.sys, "prefix", str(tmp_path))
    assert asking.libtpu() is None and "libtpu" not in asking.versions("tpu")
    (tmp_path / "tpu" / "libtpu").mkdir(parents=True)
    assert asking.libtpu() == tmp_path / "tpu" and asking.versions("tpu")["libtpu"] == "of no known version"
    assert asking._environment("tpu", 4)["PYTHONPATH"].endswith(str(tmp_path / "tpu"))


def test_a_compile_that_takes_too_long_is_stopped(capsys):
    assert main(["plan", f"--config={DIT}:tiny", "--topology=v5e:2x2", "--platform=cpu", "--compile_timeout=0.01"]) == 1
    out = capsys.readouterr().out
    assert "not compiled within 0.01 s and stopped; --compile_timeout=SECONDS gives it longer" in out


def test_a_compile_that_is_killed_says_so(monkeypatch):
    ended = types.SimpleNamespace(returncode=-9, stdout="", stderr="")
    monkeypatch.setattr(asking.subprocess, "run", lambda *args, **options: ended)
    told = asking.answered(job_of(config_of(f"{DIT}:tiny")), devices=4, timeout=9.0)
    assert "status -9; it was killed, as is a process that needs more memory" in told["failed"]


# What is printed.


def test_a_plan_is_printed_with_all_that_limits_it():
    moved = {"all-gather": {"times": 3, "payload": 2**30, "wire": 2.0**30},
             hlo.BETWEEN_SLICES: {"times": 1, "payload": 2**20, "wire": 2.0**20}}
    sizes = {"arguments": 2**30, "output": 2**30, "alias": 2**30, "temporaries": 2**31, "code": 0}
    made = {"program": "train", "batch": 64, "cached": True, "lower_s": 1.0, "compile_s": 2.0, "cpu_s": 3.0,
            "rss_gb": 1.5, "mesh": {"data": 2, "fsdp": 8, "tensor": 1}, "flops": 4e12, "macs": 10**9, "memory": sizes,
            "hbm_bytes": 2**33, "collectives": moved, "unknown_loops": ["while.7"]}
    step = planning.whole._judged(made, plan.CHIPS["tpu7x"], 16)
    large = {key: made[key] for key in ("program", "batch", "cached", "lower_s", "compile_s", "cpu_s", "rss_gb",
                                        "mesh", "flops")} | {"exhausted": plan._exhausted("RESOURCE_EXHAUSTED: no")}
    told = {"topology": "tpu7x:2x2x1", "chips": 8, "devices": 16, "slices": 2, "platform": "tpu", "effort": None,
            "versions": {"jax": "0"}, "chip": {"limit": 2.0**33, "verified": False}, "shapes_from": "the data",
            "programs": {"train": step, "sample": planning.whole._judged(large, plan.CHIPS["tpu7x"], 16)},
            "largest": {"batch": 0, "exact": True, "granule": 16, "tried": [[16, None]]}}
    text = "\n".join(telling.lines(told))
    for words in ("8 chips, 16 devices in 2 slices, mesh data 2 x fsdp 8 x tensor 1", "its maker's", "from the cache",
                  "fits: 3.00 GiB", "the compiler's own effort", "1.00 GiB a device: all-gather 1.00 GiB (3 x)",
                  "between-slices 1.00 MiB (1 x)", "turns not found of while.7", "does not fit: more than there is",
                  "none fits, not even 16", "img/s/chip, MFU"):
        assert words in text


def test_the_page_has_what_was_compiled():
    written = table.PAGE.read_text().splitlines()
    lines = table.read()
    for line in lines:
        assert set(table.printed(line)) <= set(written)
        assert not any(program["unknown_loops"] for program in line["programs"].values() if "memory" in program)
    steps = {(line["spec"], line["topology"]): line["programs"]["train"] for line in lines}
    largest = steps["configs/dit.py:xl_2", "v5e:4x4"]
    moved = sum(value["payload"] for value in largest["collectives"].values()) / 2**30
    assert 6.3 / 2 < moved < 10  # 675 M parameters three times in bfloat16, gradients in float32: 6.3 GiB
