"""What every test has: a CPU, a compilation cache, checked shapes, and subprocesses that end."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# JAX reads these when it is imported, here and in every process a test starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["JAXDIFF_CACHE"] = ""  # folders of tests are not to be remembered

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("jaxdiff", "checking.checked")
hypothesis.settings.register_profile("jaxdiff", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jaxdiff")


MAPPINGS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Forgets compiled programs when they are many: each takes mappings of memory, of which a process has 65,530."""
    yield
    if not MAPPINGS.exists() or MAPPINGS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def run_python():
    """`run_python(code, devices=8, env=None, timeout=300)` -> what a Python of its own printed."""
    return _run_python


def _run_python(code, *, devices=8, env=None, timeout=300):
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "PYTHONFAULTHANDLER": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env={**os.environ, **settings, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        ending = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # the fault handler prints where it hung
        out, err = _last_words(process)
        ending = f"still running after {timeout} s"
    if process.returncode:
        pytest.fail(f"{ending}\n{out[-2_000:]}\n{err[-8_000:]}", pytrace=False)
    return out


def _last_words(process):
    try:
        return process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()
