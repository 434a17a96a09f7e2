"""DiT, JiT, MMDiT and U-ViT give what their torch peers give with the same weights, and have the published sizes.

`tests/golden/make_transformers.py` ran the peers; here their weights are drawn again from their names.
"""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import shown

from jaxdiff import convert, flops, layers, objective, parameterization, process, train
from jaxdiff.convert import joint, transformers
from jaxdiff.networks import dit, jit, mmdit, uvit

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "networks_transformers.npz")
KEY = jax.random.key(0, impl="rbg")  # quicker to compile
SMALL = dict(width=32, heads=2, depth=3)
CASES = {  # network, its table of names, its images [size, size, channels]
    "dit": (dit.DiT(**SMALL, num_classes=5, learned_variance=True), transformers.diffusers_dit_rules(2), (8, 8, 4)),
    "jit": (jit.JiT(**SMALL, patch=4, num_classes=5, bottleneck=8, start=1, class_tokens=3),
            transformers.jit_rules(4, 1), (16, 16, 3)),
    "mmdit": (mmdit.MMDiT(**SMALL, qk_norm=True, grid=7, base=4), joint.mmdit_rules(2, 3), (8, 8, 4)),
    "uvit": (uvit.UViT(**dict(SMALL, depth=5), num_classes=5), joint.uvit_rules(2), (8, 8, 4)),
}


def inputs(case, batch=2):
    size, _, channels = CASES[case][2]
    x = jnp.asarray(shown.patched(channels, size).transpose(0, 2, 3, 1))[:batch]
    c_noise = jnp.asarray(shown.TIMES[case], jnp.float32)[:batch]
    if case != "mmdit":
        return x, c_noise, {"label": jnp.asarray(shown.LABELS)[:batch]}
    text, pooled = shown.text()
    return x, c_noise, {"text": jnp.asarray(text)[:batch], "pooled": jnp.asarray(pooled)[:batch]}


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def params_of(case):
    """The peer's weights in our tree."""
    network, rules, _ = CASES[case]
    like = jax.eval_shape(network.init, jax.random.key(0), *inputs(case))
    peer = json.loads(str(GOLDEN[f"{case}/peer"]))
    source = {name: shown.drawn(name, tuple(shape)) for name, (shape, _) in peer.items()}
    made = convert.convert(source, rules, convert.shapes(like))
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(made[path]) for path in paths(like)])


def options(case):
    return {"variance": True} if case == "dit" else {}


@pytest.mark.parametrize("case", CASES)
def test_a_network_is_its_peer_weight_for_weight(case):
    network, params, (x, c_noise, cond) = CASES[case][0], params_of(case), inputs(case)
    want = GOLDEN[f"{case}/out"]
    got = jax.jit(lambda params, x: network.apply(params, x, c_noise, cond, **options(case)))(params, x)
    assert got.dtype == jnp.float32
    assert np.abs(got - want).max() < 5e-5 * want.std()
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, tree)
        wide = network.clone(dtype="float64")
        got = jax.jit(lambda *given: wide.apply(*given, **options(case)))(*double((params, x, c_noise, cond)))
        assert got.dtype == jnp.float64
        assert np.abs(got - want).max() < (5e-6 if case == "dit" else 2e-6) * want.std()


@pytest.mark.parametrize("case", CASES)
def test_every_leaf_starts_at_its_size(case):
    """As in the peer where that is the authors' code; as in the papers where it is diffusers', which says nothing."""
    network, rules, _ = CASES[case]
    params = paths(jax.jit(network.init)(KEY, *inputs(case)))
    if case in ("dit", "mmdit"):
        want = {path: papers_std(path, leaf.shape) for path, leaf in params.items()}
    else:
        peer = json.loads(str(GOLDEN[f"{case}/peer"]))
        source = {name: np.full(shape, std) for name, (shape, std) in peer.items()}
        shapes = {path: leaf.shape for path, leaf in params.items()}
        want = {path: value.flat[0] for path, value in convert.convert(source, rules, shapes).items()}
    assert set(want) == set(params)
    for path, leaf in params.items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf.std(), want[path], rtol=4 / np.sqrt(leaf[0].size), err_msg=path)
        if path.endswith(("scale", "bias")) and want[path] == 0:
            assert (leaf == path.endswith("scale")).all(), path


def papers_std(path, shape):
    """DiT: Xavier's √(2/(fan_in + fan_out)) on flat kernels, 0.02 for embeddings, zero for adaLN and the last layer."""
    if path.endswith(("bias", "scale")) or re.match(r"(.*/)?modulation/|out/", path):
        return 0.0
    if re.match("noise|label|pooled", path):
        return 0.02
    shape = shape[1:] if path.startswith("blocks") else shape
    if "qkv" in path:
        fans = shape[0], np.prod(shape[1:])
    elif path.endswith("out/kernel"):
        fans = np.prod(shape[:-1]), shape[-1]
    else:
        fans = shape
    return np.sqrt(2 / sum(fans))


def shapes(network, side, channels):
    """Shapes of parameters and inputs for one image."""
    cond = {"label": jnp.zeros(1, int)}
    if isinstance(network, mmdit.MMDiT):
        cond = {"text": jnp.zeros((1, 154, 4096)), "pooled": jnp.zeros((1, 2048))}
    given = (jnp.zeros((1, side, side, channels)), jnp.zeros(1), cond)
    return jax.eval_shape(network.init, jax.random.key(0), *given), *given


def dits(patch, **fields):
    return [dit.DiT(size=size, patch=patch, num_classes=1000, **fields) for size in dit.SIZES]


PUBLISHED = [  # networks, their input, our exact counts, the published millions, and the published GMAC ("Gflops")
    # Peebles & Xie 2023, table 1 and figure 9: without the table of positions, with null class and variance rows.
    (dits(2, learned_variance=True), (32, 4), (32_865_056, 130_315_808, 457_840_672, 674_834_720),
     (33, 130, 458, 675), (6.06, 23.01, 80.71, 118.64)),
    (dits(4, learned_variance=True), (32, 4), (32_920_448, 130_426_496, 457_988_224, 675_000_704),
     (33, 130, 458, 675), (1.41, 5.56, 19.70, 29.05)),
    (dits(8, learned_variance=True), (32, 4), (33_142_016, 130_869_248, 458_578_432, 675_664_640),
     (33, 131, 459, 676), (0.36, 1.42, 5.01, 7.39)),
    # Ma et al. 2024 (SiT), as DiT; here with four channels out.
    (dits(2), (32, 4), (32_858_896, 130_303_504, 457_824_272, 674_816_272), (33, 130, 458, 675), None),
    # Li & He 2025: 16 x 16 tokens of 16 or 32 pixels.
    ([jit.JiT(size=size, num_classes=1000) for size in jit.SIZES], (256, 3),
     (131_123_712, 458_877_664, 952_514_368), (131, 459, 953), (25, 88, 182)),
    ([jit.JiT(size=size, num_classes=1000, patch=32) for size in jit.SIZES], (512, 3),
     (133_190_400, 461_534_176, 956_055_616), (133, 462, 956), (26, 89, 183)),
    # Bao et al. 2023: M, L and H with 1,001 classes; S and S-deep were published for CIFAR-10 and ImageNet-256.
    ([uvit.UViT(size=size, num_classes=1000) for size in ("M", "L", "H")], (32, 4),
     (130_891_940, 286_763_172, 500_832_164), (131, 287, 501), (None, 77, 133)),
    ([uvit.UViT(size="S-deep", num_classes=1000)], (32, 4), (58_425_508,), (58,), None),
    # Esser et al. 2024: SD3 medium has 2 B, the largest 8 B.
    ([mmdit.MMDiT(size=size) for size in mmdit.SIZES], (128, 16), (2_028_328_000, 8_056_617_792), (2028, 8057), None),
]


@pytest.mark.parametrize(("nets", "image", "exact", "millions", "gmac"), PUBLISHED)
def test_sizes_and_costs_are_the_published_ones(nets, image, exact, millions, gmac):
    for i, network in enumerate(nets):
        given = shapes(network, *image)
        count = sum(leaf.size for leaf in jax.tree.leaves(given[0]))
        assert (count, round(count / 1e6)) == (exact[i], millions[i])
        if gmac and gmac[i]:
            np.testing.assert_allclose(flops.count(network.apply, *given) / 1e9, gmac[i],
                                       rtol=0.005, atol=0.5 if isinstance(gmac[i], int) else 0.006)


TINY = dict(width=32, heads=2, depth=2, num_classes=5)


def random(tree):
    """Parameters of one size everywhere: at the start the network is zero, and a test would see nothing."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype), tree)


def random_of(network, *given):
    return random(jax.eval_shape(network.init, jax.random.key(0), *given))


@functools.cache
def sloped(remat):
    """Parameters, the gradient by x of the mean square of their output, this output, and its slope along cos(x)."""
    x, c_noise, cond = inputs("dit")
    network = dit.DiT(**TINY, remat=remat)
    params = random_of(network, x, c_noise, cond)
    apply = lambda params, x: network.apply(params, x, c_noise, cond)

    def run(params, x):
        gradient = jax.grad(lambda x: (apply(params, x) ** 2).mean())(x)
        return gradient, *jax.jvp(lambda x: apply(params, x), (x,), (jnp.cos(x),))

    return params, *jax.jit(run)(params, x)


@pytest.mark.parametrize("remat", ["full", "dots", "all_dots"])
def test_remat_changes_neither_tree_nor_output_nor_slope(remat):
    got, want = sloped(remat), sloped("none")
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max() + 1e-9)


def test_the_slope_is_that_of_central_differences():
    x, c_noise, cond = inputs("dit")
    params, _, y, slope = sloped("none")
    apply = jax.jit(lambda x: dit.DiT(**TINY).apply(params, x, c_noise, cond))
    np.testing.assert_allclose(y, apply(x), atol=1e-5)
    step = 1e-2
    central = (apply(x + step * jnp.cos(x)) - apply(x - step * jnp.cos(x))) / (2 * step)
    np.testing.assert_allclose(slope, central, atol=2e-3 * np.abs(central).max())


@pytest.mark.parametrize("case", ["dit", "mmdit", "uvit"])
def test_bfloat16_is_inside_alone(case):
    """A noise level that bfloat16 would round is seen, parameters and output are float32, and the peer is near."""
    (x, c_noise, cond), want = inputs(case), GOLDEN[f"{case}/out"]
    network, params = CASES[case][0].clone(dtype="bfloat16"), params_of(case)
    like = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(like)} == {jnp.dtype("float32")}
    only = {"capture_intermediates": lambda module, _: module.name == "noise1"}
    run = jax.jit(lambda c_noise: network.apply(params, x, c_noise, cond, **only, **options(case)))
    got, seen = run(c_noise)
    assert got.dtype == jnp.float32
    assert np.abs(got - want).max() < 0.1 * want.std()
    if case != "uvit":
        _, near = run(c_noise * (1 - 2**-10))  # the same number in bfloat16
        (seen,), (near,) = (tree["intermediates"]["noise1"]["__call__"] for tree in (seen, near))
        assert seen.dtype == jnp.float32
        assert (seen != near).mean() > 0.9


def test_the_lowered_train_step_does_not_grow_with_depth():
    """DiT-XL/2's step as it trains, loss, gradient, AdamW and average, as the text that XLA is given."""
    batch = {"x0": jax.ShapeDtypeStruct((2, 32, 32, 4), "float32"), "cond": {"label": jax.ShapeDtypeStruct((2,), int)}}
    key = jax.eval_shape(lambda: jax.random.key(0))

    def size(depth):
        network = dit.DiT(size="XL", depth=depth, num_classes=1000, remat="dots", dtype="bfloat16")
        loss = objective.denoising(network, process.Discrete(), parameterization.eps())
        optimizer = optax.adamw(1e-4)
        state = train.shapes(loss, optimizer, batch)
        return len(jax.jit(train.make_step(loss, optimizer)).lower(state, batch, key).as_text())

    shallow, deep = size(4), size(28)
    assert abs(deep - shallow) < 0.02 * shallow


def test_the_options_of_dit():
    x, c_noise, cond = inputs("dit")
    plain = dit.DiT(**TINY)
    full = dit.DiT(**TINY, position="learned", rope=True, norm="rms", qk_norm=True, mlp="swiglu", registers=2,
                   class_tokens=3, learned_variance=True)
    params = random_of(full, x, c_noise, cond)
    assert set(params["params"]) == {"patch", "noise0", "noise1", "label", "position", "registers", "class_position",
                                     "blocks", "norm", "modulation", "out"}
    assert set(params["params"]["blocks"]) == {"modulation", "norm0", "attention", "norm1", "mlp0", "mlp1"}
    assert params["params"]["blocks"]["attention"]["q_norm"]["scale"].shape == (2, 16)
    assert params["params"]["blocks"]["mlp0"]["kernel"].shape == (2, 32, 2 * 85)
    both = jax.jit(lambda: [full.apply(params, x, c_noise, cond, variance=choice) for choice in (False, True)])
    mean, y = both()
    assert y.shape == (2, 8, 8, 8)
    np.testing.assert_allclose(mean, y[..., :4], atol=1e-5)
    assert set(random_of(plain, x, c_noise, cond)["params"]) == {"patch", "noise0", "noise1", "label", "blocks",
                                                                 "modulation", "out"}
    wide = x[:, :4]  # images need not be square
    assert jax.eval_shape(plain.init_with_output, jax.random.key(0), wide, c_noise, cond)[0].shape == (2, 4, 8, 4)


def test_the_span_of_an_average_velocity_changes_no_checkpoint():
    x, c_noise, cond = inputs("dit")
    network, with_span = dit.DiT(**TINY), dit.DiT(**TINY, span=True)
    params = random_of(with_span, x, c_noise, cond)
    span1 = jax.jit(with_span.init)(KEY, x, c_noise, cond)["params"]["span1"]
    fresh = {"params": {**params["params"], "span1": span1}}
    old = {"params": {name: leaf for name, leaf in params["params"].items() if not name.startswith("span")}}
    apply = jax.jit(lambda params, span: with_span.apply(params, x, c_noise, {**cond, "span": span}))
    want = jax.jit(network.apply)(old, x, c_noise, cond)
    span = jnp.array([0.2, 0.9])
    np.testing.assert_allclose(apply(fresh, span), want, atol=1e-5)
    assert np.abs(apply(params, span) - apply(params, 0 * span)).max() > 1e-2


def test_masked_text_is_no_text():
    network, params, (x, c_noise, cond) = CASES["mmdit"][0], params_of("mmdit"), inputs("mmdit")
    apply = jax.jit(lambda cond: network.apply(params, x, c_noise, cond))
    few = apply({**cond, "text": cond["text"][:, :3]})
    seen = lambda number: apply({**cond, "mask": jnp.broadcast_to(jnp.arange(5) < number, (2, 5))})
    np.testing.assert_allclose(seen(3), few, atol=1e-5)
    np.testing.assert_allclose(seen(5), GOLDEN["mmdit/out"], atol=1e-4)
    assert np.abs(few - seen(5)).max() > 1e-3
    assert np.isfinite(seen(0)).all()  # the image sees itself


def test_sharded_is_unsharded(run_python):
    """DiT's output, its parameters cut over fsdp and its heads over tensor."""
    run_python("""
        import jax, jax.numpy as jnp, numpy as np
        from jaxdiff import mesh
        from jaxdiff.networks.dit import DiT
        network = DiT(width=32, heads=2, depth=2, num_classes=5, remat="dots")
        x, c_noise = jax.random.normal(jax.random.key(0), (8, 4, 4, 4)), jnp.linspace(0, 999, 8)
        cond = {"label": jnp.arange(8) % 6}
        like = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, cond)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), jnp.float32), like)
        apply = jax.jit(lambda params, x: network.apply(params, x, c_noise, cond))
        want = apply(params, x)
        grid = mesh.make_mesh(data=2, fsdp=2, tensor=2)
        rules = (("blocks/attention/qkv/kernel", (None, "fsdp", None, "tensor")),
                 ("blocks/attention/out/kernel", (None, "tensor", None, "fsdp")),
                 ("blocks/mlp0/kernel", (None, "fsdp", "tensor")), ("blocks/mlp1/kernel", (None, "tensor", "fsdp")))
        params = jax.device_put(params, mesh.specs(grid, params, rules))
        with jax.set_mesh(grid):
            got = apply(params, mesh.put(grid, {"x": np.asarray(x)})["x"])
        assert got.sharding.shard_shape(got.shape)[0] == 2
        np.testing.assert_allclose(got, want, atol=1e-5)
    """)


@pytest.mark.parametrize("case", ["dit", "jit", "uvit"])
def test_no_class_is_a_row_of_its_own(case):
    network, params, (x, c_noise, _) = CASES[case][0], params_of(case), inputs(case)
    apply = jax.jit(lambda params: network.apply(params, x, c_noise, {"label": jnp.array([5, 0])}))
    table = params["params"]["label"]["embedding"]
    assert len(table) == 6
    moved = {"params": {**params["params"], "label": {"embedding": table.at[5].add(1.0)}}}
    difference = np.abs(apply(moved) - apply(params)).max((1, 2, 3))
    assert difference[0] > 1e-2 and difference[1] < 1e-6


@pytest.mark.parametrize(("make", "message"), [
    (lambda: dit.DiT(size="G"), "DiT has no size 'G'; it may be S or B or L or XL"),
    (lambda: dit.DiT(remat="some"), "no remat 'some'; it may be none or full or dots or all_dots"),
    (lambda: jit.JiT(kernel="flash"), "JiT has no kernel 'flash'; it may be xla or splash or cudnn"),
    (lambda: mmdit.MMDiT(dtype="float8"), "MMDiT has no dtype 'float8'"),
    (lambda: dit.DiT(class_tokens=4), "4 class tokens need classes"),
    (lambda: jit.JiT(start=12), "at 1 to 11, got start=12"),
    (lambda: uvit.UViT(depth=4), "depth is odd and at least 3, .* got 4"),
    (lambda: mmdit.MMDiT(depth=1), "depth is at least 2, .* got 1"),
    (lambda: shapes(dit.DiT(num_classes=5), 9, 4), "9x9 does not divide into patches of 2x2"),
    (lambda: shapes(mmdit.MMDiT(grid=4), 16, 4), "8x8 patches is larger than the 4x4"),
    (lambda: jax.eval_shape(lambda x: dit.DiT(depth=1).init(jax.random.key(0), x, x[:, 0, 0, 0], None, variance=True),
                            jnp.zeros((1, 4, 4, 4))), "learns no variance"),
    (lambda: jax.eval_shape(mmdit.MMDiT(depth=2).init, jax.random.key(0), jnp.zeros((1, 4, 4, 4)), jnp.zeros(1),
                            {"text": jnp.zeros((1, 2, 3))}), r"'pooled' \[b, p\] .* got text"),
])
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_jit_drops_in_the_middle_half_of_its_blocks():
    """Li & He 2025, appendix A; of three blocks (3 // 4 = 0) none is in the middle, of four the second and third."""
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    given = (x, jnp.array([0.2, 0.7]), {"label": jnp.array([0, 1])})
    for depth, drops in ((3, False), (4, True)):
        network = jit.JiT(width=32, heads=2, depth=depth, patch=4, bottleneck=8, start=1, class_tokens=2, num_classes=3,
                          dropout=0.5)
        params = random_of(network, *given)
        plain = network.apply(params, *given)
        rngs = {"dropout": jax.random.key(1)}
        one, again = (network.clone(remat=remat).apply(params, *given, train=True, rngs=rngs)
                      for remat in ("none", "dots"))
        np.testing.assert_allclose(one, again, atol=1e-5)
        assert (np.abs(one - plain).max() > 1e-3) == drops
        np.testing.assert_array_equal(network.apply(params, *given, rngs=rngs), plain)


def test_what_is_dropped_keeps_its_mean():
    h = layers.dropped(jnp.ones((400, 400)), jnp.float32(0.2), jax.random.key(0))
    np.testing.assert_allclose(jnp.unique(h), [0, 1.25])
    assert abs(h.mean() - 1) < 5 * 0.5 / 400
