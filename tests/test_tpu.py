"""Programs for 16 TPU v5e compile ahead of time, with no TPU, and fit; `make networks-table` compiles all of them."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import networks_table
from jaxdiff import overrides

ROOT = Path(__file__).resolve().parent.parent
LIBTPU = Path(sys.prefix) / "tpu"  # where `make test` puts it, out of the way of all other tests
needs_libtpu = pytest.mark.skipif(
    not ((LIBTPU / "libtpu").is_dir() or importlib.util.find_spec("libtpu")),
    reason="libtpu is not here; `make test` installs it where there is one: Linux on x86-64")

# DDPM++ as EDM trains it, but narrow, of few blocks, on few small images: all that costs compile time, and no memory.
SMALL = (("network.channels", "32"), ("network.mults", "(1, 2)"), ("network.blocks", "1"), ("network.attention", "()"),
         ("batch", "64"), ("data", "{'name': 'tfds', 'dataset': 'cifar10', 'size': 16}"))
CASES = {
    "DiT-S/2": ("configs/dit.py:s_2", (), ("train", "sample")),
    "DDPM++": ("configs/edm.py:ddpmpp_cifar10", SMALL, ("train",)),
}


@needs_libtpu
@pytest.mark.parametrize("case", CASES)
def test_train_step_and_sampler_compile_for_a_tpu_and_fit(case, run_python):
    spec, changes, programs = CASES[case]
    paths = [str(ROOT), *([str(LIBTPU)] if LIBTPU.is_dir() else [])]
    out = run_python(f"""
        import json
        from benchmarks import networks_table
        from jaxdiff import overrides
        config = overrides.apply(overrides.load({str(ROOT / spec)!r}), {changes!r})
        print(json.dumps([networks_table.measure(config, program) for program in {programs!r}]))
    """, env={**networks_table.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": "0"})
    for program, line in zip(programs, json.loads(out.splitlines()[-1]), strict=True):
        gib = (line["arguments"] + line["temp"]) / 2**30
        print(f"{case} {program}: {gib:.2f} GiB a chip, {line['cpu_s']:.0f} s of CPU, {line['rss_gb']:.1f} GB")
        assert 0 < gib < networks_table.CHIP_GIB


def test_the_page_has_what_was_compiled_and_names_what_was_not():
    lines, written = networks_table.read(), networks_table.PAGE.read_text().splitlines()
    named = [(spec, program) for spec in networks_table.specs() for program in networks_table.PROGRAMS]
    there = [(line["spec"], line["program"]) for line in lines]
    assert there == [pair for pair in named if pair in there]  # in the order of the configs
    assert set(map(networks_table.row, lines)) <= set(written)
    assert [line for line in written if line.startswith("Not compiled")] == networks_table.pending(lines)
    for line in lines:
        assert "error" not in line, line
        assert (line["arguments"] + line["temp"]) / 2**30 < networks_table.CHIP_GIB, line


@pytest.mark.parametrize("line", [
    {"cpu_s": 41.2, "rss_gb": 1.52, "parameters": 2_028_328_000, "macs": 901_318_606_848, "arguments": 2**31,
     "temp": 3 * 2**29},
    {"error": "XlaRuntimeError: RESOURCE_EXHAUSTED"},
])
def test_a_row_says_what_was_measured_or_why_nothing_was(line):
    about = {"spec": "configs/mmdit.py:sd3_medium", "program": "train", "batch": 1024, "accumulate": 8, "mesh": "fsdp"}
    row = networks_table.row(about | line)
    assert row.count("|") == networks_table.HEAD.splitlines()[0].count("|")
    assert "`mmdit:sd3_medium`" in row and "1,024 in 8" in row
    if "error" in line:
        assert line["error"] in row
    else:
        assert "| 2,028,328,000 | 901.32 | train |" in row and "| 41 | 1.5 | 2.00 | 1.50 |" in row


def test_what_is_compiled_is_told_apart_by_its_digest():
    load = lambda *changes: overrides.apply(overrides.load(str(ROOT / "configs" / "dit.py") + ":s_2"), changes)
    same, batch, logging = load(), load(("batch", "512")), load(("log_every_steps", "7"))
    digests = [networks_table.digest(config) for config in (load(), same, logging, batch)]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert networks_table.example(batch)["moments"].shape == (512, 32, 32, 8)


def test_a_page_without_its_markers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(networks_table, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("# Page\n")
    with pytest.raises(ValueError, match="needs the lines"):
        networks_table.replace("<!-- a -->", "text")
    (tmp_path / "page.md").write_text("# Page\n\n<!-- a -->\nold\n<!-- until here -->\nMore.\n")
    networks_table.replace("<!-- a -->", "new")
    assert (tmp_path / "page.md").read_text() == "# Page\n\n<!-- a -->\nnew\n<!-- until here -->\nMore.\n"
