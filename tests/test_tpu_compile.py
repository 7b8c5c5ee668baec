"""What the TPU benchmark reads from compiled programs, and its arithmetic, against numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import hlo, roofline

# A TPU's program in short: 64 channels stored as 128, a prefetch to the chip's memory, a loop, collectives.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %sum.1 = f32[]{:T(128)} add(%a.1, %b.1)
}

%fused (p.1: bf16[6,16,64]) -> f32[64] {
  %p.1 = bf16[6,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %inner.1 = f32[64]{0:T(128)} reduce(%p.1), dimensions={0,1}, to_apply=%add.1
}

%condition (c.1: (s32[], f32[64])) -> pred[] {
  %c.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  ROOT %less.1 = pred[]{:T(512)} custom-call(), custom_call_target="less"
}

%body (s.1: (s32[], f32[64])) -> (s32[], f32[64]) {
  %s.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %g.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  %g.2 = f32[64]{0:T(128)} get-tuple-element(%s.1), index=1
  %r.1 = f32[64]{0:T(128)S(1)} all-reduce(%g.2), channel_id=2, replica_groups={{0,1}}, to_apply=%add.1
  ROOT %t.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) tuple(%g.1, %r.1)
}

ENTRY %main (x.1: bf16[6,16,64], k.1: f32[3,3]) -> f32[64] {
  %x.1 = bf16[6,16,64]{2,1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="batch[\\'rgb\\']"}
  %k.1 = f32[3,3]{1,0:T(4,128)} parameter(1)
  %copy-start.1 = (f32[3,3]{1,0:T(4,128)S(1)}, f32[3,3]{1,0:T(4,128)}, u32[]{:S(2)}) copy-start(%k.1)
  %copy-done.1 = f32[3,3]{1,0:T(4,128)S(1)} copy-done(%copy-start.1)
  %f.1 = f32[64]{0:T(128)} fusion(%x.1, %copy-done.1), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/jvp(I3D)/Mixed_3b/Branch_0/conv_3d/dot_general" stack_frame_id=4}
  %i.1 = s32[]{:T(128)} constant(0)
  %t.2 = (s32[]{:T(128)}, f32[64]{0:T(128)}) tuple(%i.1, %f.1)
  %w.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%t.2), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"25"}}
  %g.3 = f32[64]{0:T(128)} get-tuple-element(%w.1), index=1
  %ar.1 = (f32[64]{0:T(128)}, bf16[6,16,64]{2,1,0:T(8,128)(2,1)}) all-reduce-start(%g.3, %x.1), to_apply=%add.1
  %ad.1 = (f32[64]{0:T(128)}, bf16[6,16,64]{2,1,0:T(8,128)(2,1)}) all-reduce-done(%ar.1)
  %ag.1 = (f32[64]{0:T(128)}, f32[512]{0:T(512)}) all-gather-start(%g.3), dimensions={0}
  %agd.1 = f32[512]{0:T(512)} all-gather-done(%ag.1)
  ROOT %last.1 = f32[64]{0:T(128)} negate(%g.3), metadata={op_name="jit(step)/transpose(jvp(I3D))/Mixed_3b/Branch_0/batch_norm/neg"}
}
"""  # noqa: E501 (as the compiler writes it)


def test_bytes_by_hand():
    operations = list(hlo.operations(hlo.parse(PROGRAM)))
    assert [operation.name for operation in operations[:2]] == ["copy-start.1", "f.1"]
    found = [tuple(operation)[:4] for operation in operations]
    kernel, wide = 4 * 128 * 4, 6 * 16 * 128 * 2
    one = 128 * 4
    assert found[:2] == [
        # Read in the large memory, written on the chip.
        ("copy-start", "", 2 * kernel, kernel),
        # The videos are filled up to 128 channels; the kernel lies on the chip by now.
        ("fusion", "forward Mixed_3b/Branch_0/conv_3d/dot_general", wide + kernel + one, wide + one),
    ]
    by_opcode = {operation[0]: operation[2:] for operation in found}
    # 25 times: 64 numbers read in the large memory, and their sum written on the chip.
    assert by_opcode["all-reduce"] == (25 * 2 * one, 25 * one)
    assert found[-1] == ("negate", "backward Mixed_3b/Branch_0/batch_norm/neg", 2 * one, 2 * one)
    assert not {"while", "tuple", "parameter", "reduce", "all-reduce-done"} & by_opcode.keys()


def test_collectives_by_hand():
    """In the loop 25 times 64 numbers; after it 64 and the 6144 of x in bfloat16; gathered, 512 of 64."""
    found = hlo.collectives(hlo.parse(PROGRAM))
    assert found == {"all-reduce": (26, 25 * 64 * 4 + 64 * 4 + 6 * 16 * 64 * 2), "all-gather": (1, 512 * 4)}


@pytest.mark.parametrize(
    ("text", "elements", "stored"),
    [
        ("bf16[6,32,28,28,192]{4,1,3,2,0:T(8,128)(2,1)}", 6 * 32 * 28 * 28 * 192 * 2, 6 * 32 * 28 * 28 * 256 * 2),
        # The axis of 28 lies second to last: 32 of them are stored.
        ("bf16[6,32,28,28,192]{4,3,2,1,0:T(8,128)(2,1)}", 6 * 32 * 28 * 28 * 192 * 2, 6 * 32 * 28 * 32 * 256 * 2),
        ("pred[3,5]{1,0}", 15, 15),
        ("f32[]{:T(128)}", 4, 4),
        ("u8[7]{0:T(1024)(128)(4,1)}", 7, 1024),
    ],
)
def test_arrays_fill_whole_tiles(text, elements, stored):
    (array,) = hlo.arrays(text)
    assert (array.bytes, array.bytes_in_memory) == (elements, stored)


def test_a_program_of_four_devices():
    """A mean over a batch that is split four ways, of 5 columns: one all-reduce of 5 numbers, and each row read."""
    mesh = Mesh(jax.devices()[:4], ("batch",))
    split, whole = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    mean = jax.jit(lambda x: x.mean(0), in_shardings=split, out_shardings=whole)
    program = hlo.parse(mean.lower(jax.ShapeDtypeStruct((4096, 5), jnp.float32)).compile().as_text())
    assert hlo.collectives(program) == {"all-reduce": (1, 20)}
    moved = sum(operation.bytes for operation in hlo.operations(program))
    # A quarter of the rows once; the rest is sums of 5 numbers.
    assert 1024 * 20 <= moved <= 1024 * 20 + 20 * 20


def test_roofline_by_hand():
    """Eight v5e: 394 TFLOP take 2 s, 819 GB 1 s, and 2 x 7/8 of 400 GB over links of 200 GB/s 3.5 s."""
    times = roofline.times(
        roofline.CHIPS["v5e"],
        flops=394e12,
        memory_bytes=819e9,
        collectives={"all-reduce": (3, 400e9)},
        devices=8,
    )
    assert times == pytest.approx((2, 1, 3.5))
    assert times.bound == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("collective-permute", 100)]
)
def test_bytes_in_a_ring_of_four(kind, sent):
    assert roofline.ring_bytes(kind, 100, 4) == sent
    assert roofline.ring_bytes(kind, 100, 1) == (100 if kind == "collective-permute" else 0)
