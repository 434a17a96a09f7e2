"""HLO texts as a reader sees them: turns of loops, collectives by kind, bytes of memory; of a TPU's and of a CPU's."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import hlo

GOLDEN = Path(__file__).resolve().parent / "golden" / "hlo"
MIB = 2**20

# As the TPU's compiler writes: no trip count anywhere, tiles and memory spaces in the layouts.
LOOP = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[64,128], s32[])) -> (s32[], bf16[64,128], s32[]) {{
  %p = (s32[]{{:T(128)}}, bf16[64,128]{{1,0:T(8,128)(2,1)}}, s32[]) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  %copy.1 = s32[]{{:T(128)}} copy(%i)
  %step = s32[] constant({step})
  %next = s32[] add(%copy.1, %step)
  %x = bf16[64,128]{{1,0:T(8,128)(2,1)}} get-tuple-element(%p), index=1
  %n = s32[] get-tuple-element(%p), index=2
  %s = (bf16[64,128], bf16[64,128], u32[]{{:S(2)}}) collective-permute-start(%x), channel_id=7, \
source_target_pairs={{{{0,1}},{{1,0}}}}
  %d = bf16[64,128]{{1,0:T(8,128)(2,1)}} collective-permute-done(%s)
  %strange = bf16[64,128]{{1,0:T(8,128)(2,1)}} an-op-of-tomorrow(%d), newly={{yes}}
  ROOT %t = (s32[], bf16[64,128], s32[]) tuple(%next, %strange, %n)
}}

%cond (q: (s32[], bf16[64,128], s32[])) -> pred[] {{
  %q = (s32[], bf16[64,128], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %limit = {limit}
  ROOT %lt = pred[] compare(%j, %limit), direction={direction}
}}

ENTRY %main (a: bf16[64,128], b: s32[]) -> bf16[64,128] {{
  %a = bf16[64,128]{{1,0:T(8,128)(2,1)}} parameter(0)
  %b = s32[] parameter(1)
  %zero = s32[] constant({start})
  %many = s32[] constant(40)
  %in = (s32[], bf16[64,128], s32[]) tuple(%zero, %a, %{third})
  %while.1 = (s32[], bf16[64,128], s32[]) while(%in), condition=%cond, body=%body
  ROOT %out = bf16[64,128] get-tuple-element(%while.1), index=1
}}
"""
ELEMENT = "s32[] get-tuple-element(%q), index=2"


def loop(limit="s32[] constant(12)", start=0, step=1, direction="LT", third="b"):
    return hlo.costs(LOOP.format(limit=limit, start=start, step=step, direction=direction, third=third))


@pytest.mark.parametrize(("options", "turns"), [
    ({}, 12), ({"step": 2}, 6), ({"step": 5}, 3), ({"start": 4}, 8), ({"direction": "LE"}, 13), ({"start": 12}, 0),
    ({"limit": ELEMENT, "third": "many"}, 40),
])
def test_a_loop_turns_from_its_start_to_its_limit_by_its_step(options, turns):
    told = loop(**options)
    assert told.unknown == ()
    permuted = told.moved["collective-permute"]
    assert (permuted.times, permuted.payload, permuted.wire) == (turns, turns * 64 * 128 * 2, turns * 64 * 128 * 2)


@pytest.mark.parametrize("options", [{"limit": ELEMENT}, {"direction": "NE"}, {"step": 0}])
def test_a_loop_that_is_not_understood_is_named_and_counts_once(options):
    told = loop(**options)
    assert told.unknown == ("while.1",)
    assert told.moved["collective-permute"].times == 1


def test_a_start_and_its_done_are_one_and_an_unknown_op_reads_and_writes():
    once = loop(limit="s32[] constant(1)")
    tile = 64 * 128 * 2
    assert once.moved["collective-permute"].payload == tile
    scalars = 512 + 512 + 4 + 512 + 4  # copy.1 and the counter, tiled; next
    assert 4 * tile <= once.memory <= 4 * tile + 2 * scalars  # the permute's two, and the two of what nobody knows


@pytest.mark.parametrize(("layout", "size"), [
    ("{1,0}", 3 * 200 * 4), ("{1,0:T(8,128)}", 8 * 256 * 4), ("{0,1:T(8,128)}", 200 * 128 * 4),
    ("{1,0:T(8,128)S(1)}", 0), ("{1,0:T(1024)}", 3 * 1024 * 4), ("", 3 * 200 * 4),
])
def test_memory_is_counted_as_tiles_lie_and_only_in_hbm(layout, size):
    lines = ("ENTRY %m (p: f32[3,200]) -> f32[3,200] {", f"  %p = f32[3,200]{layout} parameter(0)",
             f"  ROOT %n = f32[3,200]{layout} negate(%p)", "}")
    text = "\n".join(lines)
    assert hlo.costs(text).memory == 2 * size


@pytest.mark.parametrize(("groups", "devices"), [
    ("{{0,1,2,3},{4,5,6,7}}", 4), ("[2,4]<=[8]", 4), ("[4,2]<=[2,4]T(1,0)", 2),
    ("mesh['axis_0'=8,'axis_1'=2] {'axis_0'}", 8), ("mesh['a'=4,'b'=2] {'a','b'}", 8), ("{{0}}", 1),
])
def test_what_is_sent_depends_on_how_many_take_part(groups, devices):
    lines = [f"  %c{i} = f32[100] {kind}(%p), channel_id={i}, replica_groups={groups}, dimensions={{0}}\n"
             for i, kind in enumerate(("all-gather", "all-reduce", "reduce-scatter"))]
    text = "ENTRY %m (p: f32[100]) -> f32[100] {\n  %p = f32[100] parameter(0)\n" + "".join(lines) + "}\n"
    moved = hlo.costs(text).moved
    assert moved["all-gather"].payload == 400 * devices
    assert moved["all-reduce"].payload == moved["reduce-scatter"].payload == 400
    assert moved["all-gather"].wire == pytest.approx(400 * (devices - 1))
    assert moved["all-reduce"].wire == pytest.approx(800 * (devices - 1) / devices)
    assert moved["reduce-scatter"].wire == pytest.approx(400 * (devices - 1) / devices)


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("HloModule nothing\n")


# The same five layers x + gelu(x W) V, W [1024, 4096], x [2048, 1024] bfloat16, forward and backward, with weights cut
# over fsdp: the compiler gathers x, which is smaller, three times a layer and scatters two sums of its size.


def test_a_collective_that_the_compiler_spread_over_fusions_counts_once():
    told = hlo.costs((GOLDEN / "v5e_async.txt").read_text())  # v5e:2x4, fsdp 8, effort 0
    assert told.unknown == ()
    whole = 2048 * 1024 * 2
    assert told.moved["all-gather"] == hlo.Moved(15, 15 * whole, 15 * whole * 7 / 8)
    assert told.moved["reduce-scatter"] == hlo.Moved(10, 10 * whole, 10 * whole * 7 / 8)
    assert told.moved["all-reduce"].times == 0  # the two that are there stand in reduce-scatters


def test_what_crosses_slices_is_apart_from_what_stays_inside():
    told = hlo.costs((GOLDEN / "v5e_slices.txt").read_text())  # two slices v5e:2x2, data 2, fsdp 4
    part = 1024 * 1024 * 2
    assert told.moved["between-slices"] == hlo.Moved(10, 10 * part, 10.0 * part)
    assert told.moved["all-gather"].payload == 15 * part


# Programs compiled here, against closed forms.


def compiled(f, *shapes, **options):
    return jax.jit(f, **options).lower(*shapes).compile()


def test_memory_of_a_product_is_its_three_matrices():
    a, b = jax.ShapeDtypeStruct((300, 200), jnp.float32), jax.ShapeDtypeStruct((200, 500), jnp.float32)
    told = hlo.costs(compiled(jnp.matmul, a, b).as_text())
    assert told.memory == 4 * (300 * 200 + 200 * 500 + 300 * 500)


def test_memory_of_a_scan_is_read_as_often_as_it_turns_and_of_stacked_weights_the_slice():
    x, w = jax.ShapeDtypeStruct((256, 512), jnp.float32), jax.ShapeDtypeStruct((9, 512, 512), jnp.float32)
    made = compiled(lambda x, w: jax.lax.scan(lambda c, m: (jnp.tanh(c @ m), None), x, w)[0], x, w)
    told = hlo.costs(made.as_text())
    least = 9 * 4 * (512 * 512 + 2 * 256 * 512)  # a layer's weights, its input and its output
    assert told.unknown == ()
    assert least <= told.memory <= 3 * least  # the slice is copied, the hyperbolic tangent reads and writes again
    counted = made.cost_analysis()["bytes accessed"]  # XLA's own, which has the loop once
    assert told.memory == pytest.approx(9 * counted, rel=0.2)


def test_collectives_of_a_scan_on_eight_devices_count_as_often_as_it_turns(run_python):
    out = run_python("""
        import json, jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jaxdiff import hlo, mesh
        on = mesh.make_mesh(data=1, fsdp=8)
        put = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(on, P(*spec)))
        rows = NamedSharding(on, P(("data", "fsdp")))
        def f(x, w):
            turn = lambda c, m: (jax.lax.with_sharding_constraint(jnp.tanh(c @ m), rows), None)
            return jax.lax.scan(turn, x, w)[0]
        x, w = put((4096, 64), ("data", "fsdp")), put((5, 64, 64), None, "fsdp")
        with jax.set_mesh(on):
            told = hlo.costs(jax.jit(f).lower(x, w).compile().as_text())
        print(json.dumps([told.unknown, told.moved["all-gather"].times, told.moved["all-gather"].payload]))
    """)
    unknown, times, payload = json.loads(out.splitlines()[-1])
    assert unknown == []
    assert times == 5
    assert payload == 5 * 64 * 64 * 4


def test_a_loop_whose_end_depends_on_the_data_is_named():
    made = compiled(lambda x: jax.lax.while_loop(lambda v: v.sum() < 1e3, lambda v: v * 2 + 1, x),
                    jax.ShapeDtypeStruct((128, 128), jnp.float32))
    told = hlo.costs(made.as_text())
    assert len(told.unknown) == 1 and told.unknown[0].startswith("while")
    assert np.isfinite(told.memory) and told.memory > 128 * 128 * 4
    assert told.moved["all-reduce"] == hlo.Moved()
