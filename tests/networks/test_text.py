"""The text encoder sees what its mask and its order allow, and learns with the network that reads it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import data, layers, loop, networks, objective, parameterization, process, train
from jaxdiff.data import tokens
from jaxdiff.networks import text

KEY = jax.random.key(0, impl="rbg")  # quicker to compile
FAST = {"xla_backend_optimization_level": 0}
TINY = dict(length=8, width=16, depth=2, heads=2)
IDS, MASK = tokens.Tokenizer().encode(["cube", "a", ""], 8)
UNET = networks.StableUNet(channels=8, mults=(1,), blocks=1, transformers=(1,), heads=2)
NETWORKS = {
    "MMDiT": text.Conditioned(networks.MMDiT(patch=2, width=16, depth=2, heads=2), networks.TextTransformer(**TINY)),
    "StableUNet": text.Conditioned(UNET, networks.TextTransformer(**TINY), reads=("text", "mask")),
}


def random_of(module, *given):
    rng, like = np.random.default_rng(0), jax.eval_shape(module.init, jax.random.key(0), *given)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), like)


@functools.cache
def compiled(**options):
    encoder = networks.TextTransformer(**TINY, **options)
    return jax.jit(encoder.apply, compiler_options=FAST), random_of(encoder, IDS, MASK)


def encoded(ids=IDS, mask=MASK, **options):
    run, params = compiled(**dict({"norm": "pre", "pooling": "mean"}, **options))
    return run(params, ids, mask)


@pytest.mark.parametrize(("norm", "pooling"), [("pre", "first"), ("pre", "last"), ("post", "mean")])
def test_a_token_that_the_mask_hides_changes_nothing(norm, pooling):
    want = encoded(norm=norm, pooling=pooling)
    got = encoded(np.where(MASK, IDS, 77), norm=norm, pooling=pooling)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert not want["text"][~MASK].any() and (want["text"][MASK] != 0).all() and want["pooled"].all()
    shorter = encoded(IDS[:, :6], MASK[:, :6], norm=norm, pooling=pooling)
    np.testing.assert_allclose(shorter["text"], want["text"][:, :6], atol=1e-5)
    np.testing.assert_allclose(shorter["pooled"], want["pooled"], atol=1e-5)


def test_causal_sees_nothing_that_comes_later():
    later = np.array(IDS)
    later[:, 3:] = 99
    for causal in (True, False):
        moved = np.abs(encoded(later, None, causal=causal)["text"] - encoded(IDS, None, causal=causal)["text"])
        assert (moved[:, :3].max() == 0) == causal and moved[:, 3:].max() > 0.1


def test_what_stands_for_the_text():
    places = MASK.sum(1) - 1
    for pooling, want in (("first", 0 * places), ("last", places), ("eot", IDS.argmax(1))):
        out = encoded(pooling=pooling)
        np.testing.assert_array_equal(out["pooled"], out["text"][np.arange(3), want])
    out = encoded()
    np.testing.assert_allclose(out["pooled"], out["text"].sum(1) / MASK.sum(1)[:, None], atol=1e-6)
    np.testing.assert_allclose(encoded(mask=None)["text"], encoded(mask=np.ones_like(MASK))["text"], atol=1e-5)
    assert encoded(projection=5)["pooled"].shape == (3, 5)


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "eot"])
def test_a_text_without_tokens_is_zero(pooling):
    out = encoded(0 * IDS, np.zeros_like(MASK), pooling=pooling)
    assert not out["text"].any() and not out["pooled"].any() and not out["mask"].any()


def test_remat_and_dtype_change_neither_the_tree_nor_the_text():
    shapes = lambda **options: jax.tree.map(jnp.shape, random_of(networks.TextTransformer(**TINY, **options), IDS))
    assert set(shapes()["params"]["blocks"]) == {"attention", "mlp0", "mlp1", "norm0", "norm1"}
    assert shapes(remat="full") == shapes(remat="dots", dtype="bfloat16") == shapes()
    low = encoded(dtype="bfloat16", remat="full")
    assert low["text"].dtype == low["pooled"].dtype == jnp.float32
    np.testing.assert_allclose(low["text"], encoded()["text"], atol=0.1)


def test_a_post_norm_block_is_its_equations():
    block = layers.TransformerBlock(2, 16, mlp="quick_gelu", post_norm=True)
    x = jax.random.normal(KEY, (2, 5, 8))
    params = random_of(block, x)

    def equations(params, x):
        own = lambda name: {"params": params["params"][name]}
        dense = lambda name, x: x @ params["params"][name]["kernel"] + params["params"][name]["bias"]
        norm = lambda name, x: layers.LayerNorm(eps=1e-5).apply(own(name), x)
        x = norm("norm0", x + layers.SelfAttention(2).apply(own("attention"), x))
        h = dense("mlp0", x)
        return norm("norm1", x + dense("mlp1", h / (1 + jnp.exp(-1.702 * h))))

    got, want = jax.jit(lambda *given: (block.apply(*given)[0], equations(*given)), compiler_options=FAST)(params, x)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_null_tokens_are_zero_text_and_text_may_be_encoded_before(name):
    network, cond = NETWORKS[name], {"tokens": IDS, "token_mask": MASK}
    x, c_noise = jax.random.normal(jax.random.key(2), (3, 2, 2, 4)), jnp.ones(3)
    none = text.null(cond)
    assert {key: (value.shape, value.dtype) for key, value in none.items()} == {
        "tokens": ((8,), np.int32), "token_mask": ((8,), bool)}
    dropped = {key: np.stack([cond[key][0], value, value]) for key, value in none.items()}

    def both(params):
        ready = network.apply(params, dropped, method="encode")
        return ready, network.apply(params, x, c_noise, dropped), network.apply(params, x, c_noise, ready)

    ready, of_tokens, of_text = jax.jit(both, compiler_options=FAST)(random_of(network, x, c_noise, cond))
    assert set(ready) == set(network.reads) and np.isfinite(of_tokens).all()
    jax.tree.map(lambda leaf, zero: np.testing.assert_array_equal(leaf[1], zero), ready, text.null(ready))
    np.testing.assert_allclose(of_tokens, of_text, atol=1e-5)


class Reader(nn.Module):
    """A network as small as can be, which reads the pooled text."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None, *, train=False):
        return x * nn.Dense(x.shape[-1])(cond["pooled"])[:, None, None] + c_noise[:, None, None, None]


def test_a_network_and_its_encoder_train_together():
    texts, mask = tokens.Tokenizer().encode([f"cube {i}" for i in range(8)], 8)
    source = {**data.mock(shape=(2, 2, 4), num=8), "tokens": texts, "token_mask": mask}
    null = text.null({"tokens": texts, "token_mask": mask})
    network = text.Conditioned(Reader(), networks.TextTransformer(**TINY), reads=("pooled",))
    loss = objective.denoising(network, process.RectifiedFlow(), parameterization.velocity(), drop=0.5, null=null)
    batches = data.batches(source, batch=4)
    prepare = data.pixels.images(conditions=tuple(null))
    state = train.init(loss, optax.sgd(1.0), next(batches(0)), KEY, prepare=prepare)
    before = jax.tree.map(np.array, state.params["params"]["encoder"])
    step = train.make_step(loss, optax.sgd(1.0), prepare=prepare)
    state, stopped = loop.fit(step, state, batches, KEY, steps=2)
    assert stopped is None and int(state.step) == 2 and set(state.params["params"]) == {"network", "encoder"}
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params["params"]["encoder"], before)
    assert min(moved["token"]["embedding"], moved["blocks"]["mlp0"]["kernel"], moved["position"]) > 1e-5


def test_errors():
    for option, message in (({"norm": "rms"}, "no norm 'rms'; it may be pre or post"),
                            ({"pooling": "max"}, "no pooling 'max'; it may be first or last or mean or eot"),
                            ({"mlp": "relu"}, "no mlp 'relu'"), ({"dtype": "half"}, "no dtype 'half'")):
        with pytest.raises(ValueError, match=message):
            networks.TextTransformer(**option)
    with pytest.raises(ValueError, match=r"n at most length=8, got int32 \[1, 9\]"):
        encoded(np.zeros((1, 9), np.int32), None)
    with pytest.raises(ValueError, match=r"got float32 \[1, 2\]"):
        encoded(np.zeros((1, 2), np.float32), None)
    with pytest.raises(ValueError, match=r"have one shape, got \[3, 8\] and \[3, 2\]"):
        encoded(IDS, MASK[:, :2])
    with pytest.raises(ValueError, match="reads are some of text, pooled, mask, got .'words',."):
        text.Conditioned(UNET, networks.TextTransformer(**TINY), reads=("words",))
    for cond, given in ((None, "none"), ({"label": IDS[:, 0]}, "label"), ({"tokens": IDS}, "tokens")):
        with pytest.raises(ValueError, match=f"or the 'text' of `encode`, got {given}"):
            NETWORKS["MMDiT"].apply({}, jnp.zeros((3, 4, 4, 4)), jnp.zeros(3), cond)
