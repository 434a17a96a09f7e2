"""Kernels of attention: each is `xla` to 1e-5, and each says beforehand what it cannot do."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.layers import kernels


def qkv(n, m, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, length, 2, 24)).astype(dtype)
            for key, length in zip(keys, (n, m, m), strict=True)]


@pytest.mark.parametrize(("n", "m", "masked"), [(128, 128, False), (77, 77, False), (288, 77, True)])
def test_splash_is_xla(n, m, masked):
    q, k, v = qkv(n, m)
    mask = (jnp.arange(m) < jnp.array([[40], [77]]))[:, None, None] if masked else None
    got = jax.jit(lambda *given: kernels.splash(*given, interpret=True))(q, k, v, mask)
    assert got.shape == q.shape and got.dtype == q.dtype
    np.testing.assert_allclose(got, kernels.xla(q, k, v, mask), atol=1e-5)


def test_splash_in_bfloat16():
    q, k, v = qkv(77, 77, jnp.bfloat16)
    got = jax.jit(lambda *given: kernels.splash(*given, interpret=True))(q, k, v)
    assert got.dtype == jnp.bfloat16
    want = kernels.xla(*(a.astype(jnp.float32) for a in (q, k, v)))
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=2e-2)


def test_the_gradient_of_splash():
    q, k, v = qkv(77, 77)
    loss = lambda attend: jax.jit(jax.grad(lambda q, k, v: (attend(q, k, v) ** 2).sum(), argnums=(0, 1, 2)))
    got = loss(lambda *given: kernels.splash(*given, interpret=True))(q, k, v)
    for one, other in zip(got, loss(kernels.xla)(q, k, v), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_only_a_kernel_that_says_so_has_a_jvp():
    q, k, v = qkv(16, 16)
    jax.eval_shape(lambda q: jax.jvp(lambda q: kernels.xla(q, k, v), (q,), (q,)), q)
    assert [name for name, kernel in kernels.KERNELS.items() if kernel.jvp] == ["xla"]
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda q: kernels.splash(q, k, v, interpret=True), (q,), (q,))


def test_splash_takes_masks_of_keys_alone():
    q, k, v = qkv(8, 8)
    with pytest.raises(ValueError, match=r"a mask of keys, \[b, 1, 1, 8\], got \[1, 1, 8, 8\]"):
        kernels.splash(q, k, v, jnp.ones((1, 1, 8, 8), bool), interpret=True)


def test_splash_compiles_for_a_tpu():
    """Its lowering alone: no TPU is needed, and no libtpu."""
    q, k, v = qkv(256, 77, jnp.bfloat16)
    lowered = jax.jit(kernels.splash).trace(q, k, v).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


def test_splash_on_a_mesh(run_python):
    """It is cut by batch and heads, for the compiler cannot; the slope too."""
    run_python("""
        import jax, jax.numpy as jnp, numpy as np
        from jaxdiff import mesh
        from jaxdiff.layers import kernels
        q, k, v = jax.random.normal(jax.random.key(0), (3, 4, 16, 4, 8))
        loss = lambda attend: jax.value_and_grad(lambda q: (attend(q) ** 2).sum())
        want = jax.jit(loss(lambda q: kernels.xla(q, k, v)))(q)
        splash = lambda q: kernels.splash(q, k, v, interpret=True)
        with jax.set_mesh(mesh.make_mesh(data=2, fsdp=2, tensor=2)):
            got = jax.jit(loss(splash))(q)
            jax.jit(loss(lambda q: kernels.splash(q, k, v))).trace(q).lower(lowering_platforms=("tpu",))
        for one, other in zip(got, want):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    """)


@pytest.mark.parametrize(("name", "given", "chosen"), [
    ("xla", dict(platform="cpu", mask="any", jvp=True), "xla"),
    ("splash", dict(platform="tpu", mask="keys", dtype="bfloat16"), "splash"),
    ("cudnn", dict(platform="gpu", mask="any", dtype="bfloat16"), "cudnn"),
])
def test_a_kernel_that_can_is_taken(name, given, chosen, caplog):
    assert kernels.choose(name, **given) == chosen
    assert not caplog.records


def test_a_kernel_of_another_platform_falls_back_with_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        assert kernels.choose("splash", platform="gpu", mask="any") == "xla"
        assert kernels.choose("cudnn", platform="tpu", dtype="float32") == "xla"
    assert [record.getMessage() for record in caplog.records] == [
        "attention kernel splash is for tpu, not gpu: using xla",
        "attention kernel cudnn is for gpu, not tpu: using xla",
    ]


@pytest.mark.parametrize(("name", "given", "message"), [
    ("flash", dict(platform="tpu"), "no attention kernel 'flash'; it may be xla, splash, cudnn"),
    ("splash", dict(platform="tpu", jvp=True), "'splash' has no JVP, which this objective needs; use xla"),
    ("cudnn", dict(platform="cpu", jvp=True), "'cudnn' has no JVP"),
    ("cudnn", dict(platform="gpu"), "'cudnn' has no dtype 'float32'; it may be bfloat16"),
    ("splash", dict(platform="tpu", mask="any"), "'splash' has no mask 'any'; it may be none, keys"),
])
def test_a_kernel_that_cannot_is_refused_by_name(name, given, message):
    with pytest.raises(ValueError, match=message):
        kernels.choose(name, **given)
