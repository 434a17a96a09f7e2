"""Wheel and sdist, installed away from the checkout; and what a newcomer types, rightly and wrongly."""

import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.engines
ROOT = Path(__file__).resolve().parents[2]
ENV = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR")} | {
    "JAX_PLATFORMS": "cpu"}


def run(*words, cwd, status=0, env=ENV):
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What git has of the project, and nothing else."""
    folder = tmp_path_factory.mktemp("newcomer") / "jaxdiff"
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


@pytest.fixture(scope="module")
def built(clone):
    run(sys.executable, "-m", "build", "--outdir", clone / "dist", ".", cwd=clone)
    return sorted((clone / "dist").iterdir())


def test_wheel_and_sdist_hold_what_each_is_for(built):
    wheel, = (path for path in built if path.suffix == ".whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "jaxdiff/metrics/digits_classifier.npz" in names
    assert any(name.endswith("share/jaxdiff/configs/digits.py") for name in names)
    assert any(name.endswith("share/jaxdiff/configs/parents/images.py") for name in names)
    assert not [name for name in names if re.match("(tests|launch|benchmarks|configs)/", name)]
    sdist, = (path for path in built if path.name.endswith(".tar.gz"))
    kept = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert {"launch/run.py", "launch/engines/handback.sh", "configs/digits.py", "tests/laws.py", "Makefile",
            "docs/tpu.md", ".ci/run"} <= kept


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel in an environment of its own; what it depends on it sees through ours, which has it already."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    ours = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    theirs = next((folder / "env").glob("lib/python*/site-packages"))
    wheel, = (path for path in built if path.suffix == ".whl")
    run(folder / "env" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    (theirs / "ours.pth").write_text(f"{ours}\n")
    return folder


def test_the_wheel_makes_the_demo_away_from_the_checkout(installed):
    jaxdiff = installed / "env" / "bin" / "jaxdiff"
    where = run(installed / "env" / "bin" / "python", "-c", "import jaxdiff; print(jaxdiff.__file__)", cwd=installed)
    assert where.startswith(str(installed / "env"))
    assert re.match(r"jaxdiff \d+\.\d+", run(jaxdiff, "--version", cwd=installed))
    run(jaxdiff, "train", "--config=configs/digits.py:tiny", "--workdir=runs/digits", cwd=installed)
    run(jaxdiff, "sample", "--workdir=runs/digits", "--num=4", "--label=3", cwd=installed)
    assert "fd_pixels" in run(jaxdiff, "evaluate", "--workdir=runs/digits", cwd=installed)
    run(jaxdiff, "report", "--workdir=runs/digits", cwd=installed)
    run(jaxdiff, "train", "--config=configs/dit.py:tiny", "--workdir=runs/dit", cwd=installed)  # a config with a parent


VERBS = ("train", "sample", "evaluate", "reference", "convert", "encode", "export", "data", "plan", "report")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example(verb, clone):
    assert "Example: jaxdiff" in run(sys.executable, "-m", "jaxdiff", verb, "--help", cwd=clone)


@pytest.fixture(scope="module")
def digits(clone):
    """A run of two steps in the clone."""
    run(sys.executable, "-m", "jaxdiff", "train", "--config=configs/digits.py:tiny", "--workdir=runs/digits", cwd=clone)
    (clone / "empty").mkdir()
    (clone / "file").write_text("")
    mixed = "from PIL import Image; [Image.new('RGB', (n, n)).save(f'mixed/{n}.png') for n in (8, 9)]"
    (clone / "mixed").mkdir()
    run(sys.executable, "-c", mixed, cwd=clone)
    return clone


@pytest.mark.parametrize(("line", "said"), [
    ("train --config=digits.py --workdir=runs/a", "no config file 'digits.py' in"),
    ("train --config=configs/digits.py --workdir=runs/a --config.bach=3", "did you mean 'batch'"),
    ("train --config=configs/digits.py --workdir=runs/digits", "--workdir=runs/digits holds a run with"),
    ("train --config=configs/digits.py:tiny --workdir=runs/b --config.data=\"{'name': 'folder', 'path': 'empty'}\"",
     "no image"),
    ("evaluate --images=mixed --reference=mixed --features=pixels", "9x9"),
    ("train --config=configs/digits.py:tiny --workdir=runs/c --config.network.num_classes=3", "label 9"),
    ("sample --workdir=runs/digits --ema=decay_0.9", "decay_0.995"),
    ("sample --workdir=runs/digits --checkpoint=77", "77"),
    ("plan --config=configs/digits.py --topology=v5e:5x5", "v5e"),
    ("train --config=configs/digits.py:tiny --workdir=file/run", "file is a file, not a folder"),
    ("sample --workdir=runs/digits --label=12", "12"),
    ("trian --config=configs/digits.py", "train"),
])
def test_a_newcomers_mistake_is_one_line_that_says_what_to_do(line, said, digits):
    out = run(sys.executable, "-m", "jaxdiff", *shlex.split(line), cwd=digits, status=2)
    told = [text for text in out.splitlines() if text.startswith("jaxdiff: ")]
    assert len(told) == 1, out
    assert said in told[0]
    assert "Traceback" not in out


def commands():
    """The commands of README and docs, in their order, that are shown for a shell."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["jaxdiff"] or (words[:1] == ["python"] and words[1].startswith("launch/")):
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_flag_that_the_docs_show_is_known(words, clone):
    """By what refuses a flag it does not know before it does anything: the command itself, asked for its help."""
    if words[0] == "jaxdiff":
        shown = run(sys.executable, "-m", "jaxdiff", words[1], "--help", cwd=clone)
    else:
        shown = run(sys.executable, words[1], "--help", cwd=clone)
    ours = words[:words.index("--")] if "--" in words else words
    for word in ours:
        flag = word.partition("=")[0]
        if flag.startswith("--") and not flag.startswith("--config."):
            assert flag in shown, f"{flag} of {' '.join(words)}"
