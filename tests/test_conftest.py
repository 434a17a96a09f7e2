"""The fixtures do what they say."""

import jax.numpy as jnp
import jaxtyping
import pytest

pytestmark = pytest.mark.smoke


def test_x64_lasts_for_one_test(x64):
    assert jnp.ones(2).dtype == jnp.float64


def test_float32_otherwise():
    assert jnp.ones(2).dtype == jnp.float32


def test_devices_in_a_process_of_their_own(run_python):
    assert run_python("import jax; print(jax.device_count(), jax.default_backend())", devices=3) == "3 cpu\n"


def test_a_snippet_that_fails_shows_why(run_python):
    with pytest.raises(pytest.fail.Exception, match=r"exit status 1\n(.|\n)*ValueError: no such thing"):
        run_python("raise ValueError('no such thing')")


def test_a_snippet_that_hangs_is_ended_and_shows_where(run_python):
    with pytest.raises(pytest.fail.Exception, match=r"still running after 2 s\n(.|\n)*line 2 in asleep"):
        run_python("def asleep():\n    __import__('time').sleep(600)\nasleep()", timeout=2)


def test_shapes_are_checked():
    from jaxdiff import build

    with pytest.raises(jaxtyping.TypeCheckError):
        build.nearest("heun", 3)
