"""Every network takes a label where it has classes, and nothing else; labels of no class change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks

UNET = {"channels": 8, "mults": (1,), "blocks": 1, "dropout": 0.0}
TOKENS = {"width": 16, "heads": 2, "depth": 3}
SMALL = {"SongUNet": UNET, "ADM": UNET, "EDM2": UNET, "MLP": {"width": 16}, "DiT": TOKENS, "UViT": TOKENS,
         "JiT": {**TOKENS, "start": 1, "bottleneck": 4, "patch": 2}}
SHAPES = {name: (2,) if name == "MLP" else (4, 4, 1) for name in SMALL}
TEXT = {"MMDiT", "StableUNet", "Conditioned"}  # read text, and no label
OTHER = {"Autoencoder", "PatchDiscriminator", "TextTransformer"}  # of a latent, an image, a text: no noise level


def make(name, **options):
    return getattr(networks, name)(**SMALL[name], **options)


def inputs(name, b=3):
    return jax.random.normal(jax.random.key(0), (b, *SHAPES[name])), jnp.linspace(-1, 1, b)


def test_every_network_is_here():
    assert set(SHAPES) | TEXT | OTHER == {name for name in networks.__all__ if callable(getattr(networks, name))}


@pytest.mark.parametrize("name", SHAPES)
def test_conditions_that_do_not_fit_are_refused(name):
    x, c_noise = inputs(name)
    label = jnp.zeros(3, int)
    for classes, cond, message in (
        (0, {"label": label}, "the condition has label, but a network with num_classes=0 reads none"),
        (4, None, "num_classes=4 reads 'label' .* got none; 4 is the label of no class"),
        (4, {"tokens": label}, "got tokens"),
        (4, {"label": label, "tokens": label}, "got label, tokens"),
        (4, {"label": jnp.zeros(3)}, "labels are integers from 0 to 4 .* got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(make(name, num_classes=classes).init, jax.random.key(0), x, c_noise, cond)
    jax.eval_shape(make(name).init, jax.random.key(0), x, c_noise, {})  # an empty condition is none


@pytest.mark.parametrize("name", ["SongUNet", "ADM", "EDM2", "MLP"])
def test_the_null_label_is_the_zero_vector(name):
    network, (x, c_noise) = make(name, num_classes=4), inputs(name)
    like = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, {"label": jnp.zeros(3, int)})
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), like)
    apply = jax.jit(lambda params, label: network.apply(params, x, c_noise, {"label": jnp.full(3, label)}))
    null, first = apply(params, 4), apply(params, 0)
    assert jnp.abs(null - first).max() > 1e-3
    inner = params["params"]
    linear, leaf = (inner["emb_label"], "weight") if name == "EDM2" else (inner["map_label"]["linear"], "kernel")
    linear[leaf] = jnp.zeros_like(linear[leaf])
    np.testing.assert_allclose(apply(params, 0), null, atol=1e-6)
    np.testing.assert_allclose(apply(params, 4), null, atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_choices_that_do_not_exist_are_refused_when_built(name):
    with pytest.raises(ValueError, match=f"{name} has no dtype 'float8'; it may be float32 or bfloat16"):
        make(name, dtype="float8")
