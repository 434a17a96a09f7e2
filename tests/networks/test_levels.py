"""The plan of a UNet: EDM's names, widths and skips."""

import pytest

from jaxdiff.networks import levels


def test_a_small_plan_in_full():
    encoder, decoder = levels.plan(8, 32, (1, 2), 1, (8,))
    assert encoder == [
        levels.Block("enc_8x8_conv", 32, "conv"),
        levels.Block("enc_8x8_block0", 32, attention=True),
        levels.Block("enc_4x4_down", 32, "down"),
        levels.Block("enc_4x4_block0", 64),
    ]
    assert decoder == [
        levels.Block("dec_4x4_in0", 64, attention=True),
        levels.Block("dec_4x4_in1", 64),
        levels.Block("dec_4x4_block0", 64, skip=64),
        levels.Block("dec_4x4_block1", 64, skip=32),
        levels.Block("dec_8x8_up", 64, "up"),
        levels.Block("dec_8x8_block0", 32, skip=32),
        levels.Block("dec_8x8_block1", 32, attention=True, skip=32),
    ]


@pytest.mark.parametrize("mults", [(1,), (2, 2, 2), (1, 2, 2, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("blocks", [1, 4])
def test_every_skip_is_used_once_at_its_own_resolution(mults, blocks):
    encoder, decoder = levels.plan(64, 8, mults, blocks, (16,))
    joined = [block for block in decoder if block.skip]
    assert [block.skip for block in joined] == [block.channels for block in reversed(encoder)]
    size = lambda block: block.name.split("_")[1]
    assert [size(block) for block in joined] == [size(block) for block in reversed(encoder)]
    names = [block.name for block in encoder + decoder]
    assert len(set(names)) == len(names)


def test_attention_is_in_every_encoder_block_the_bottleneck_and_the_last_decoder_block():
    encoder, decoder = levels.plan(32, 128, (2, 2, 2), 4, (16,))
    assert [block.name for block in encoder if block.attention] == [f"enc_16x16_block{i}" for i in range(4)]
    assert [block.name for block in decoder if block.attention] == ["dec_8x8_in0", "dec_16x16_block4"]


def test_attention_everywhere_is_in_every_decoder_block():
    """ADM and EDM2; their first convolution is as wide as the first level."""
    encoder, decoder = levels.plan(32, 128, (2, 2, 2), 1, (16,), everywhere=True, first=256)
    assert encoder[0].channels == decoder[-1].skip == 256
    assert [block.name for block in decoder if block.attention] == ["dec_8x8_in0", "dec_16x16_block0",
                                                                    "dec_16x16_block1"]
    assert [block.channels for block in levels.plan(8, 32, (0.5, 1), 1, ())[0]] == [32, 16, 16, 32]


def test_images_down_to_one_pixel():
    encoder, decoder = levels.plan(8, 8, (1, 1, 1, 1), 1, ())
    assert encoder[-1].name == "enc_1x1_block0"
    assert decoder[0].name == "dec_1x1_in0"


@pytest.mark.parametrize(("resolution", "mults"), [(7, (1, 2)), (12, (1, 1, 1, 1)), (4, (1, 1, 1, 1))])
def test_a_size_that_does_not_halve_is_named(resolution, mults):
    with pytest.raises(ValueError, match=f"{resolution}x{resolution} cannot be halved .* multiple of"):
        levels.plan(resolution, 8, mults, 1, ())
    assert levels.plan(7, 8, (1,), 1, ())


def test_levels_and_blocks_there_must_be():
    for mults, blocks in (((), 1), ((1,), 0)):
        with pytest.raises(ValueError, match="at least one level and one block"):
            levels.plan(8, 8, mults, blocks, ())
