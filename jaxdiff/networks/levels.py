"""The plan of a UNet: which blocks, of which width, at which resolution, and what is carried across.

The encoder goes down by halves.  Every encoder block's output is concatenated to the input of one decoder
block, last out first in, which is why each decoder level has one block more.
"""

from typing import NamedTuple

__all__ = ["Block", "plan"]


class Block(NamedTuple):
    """One step of a UNet.

    Attributes:
      name: of its parameters, `enc_32x32_block0`.
      channels: of its output.
      mode: `keep`, `down`, `up`, or `conv` for the first convolution.
      attention: whether self-attention follows.
      skip: channels of the encoder's output that is concatenated to its input, 0 for none.
    """

    name: str
    channels: int
    mode: str = "keep"
    attention: bool = False
    skip: int = 0


def plan(resolution: int, channels: int, mults: tuple[float, ...], blocks: int, attention: tuple[int, ...], *,
         everywhere: bool = False, first: int | None = None) -> tuple[list[Block], list[Block]]:
    """Plans encoder and decoder of EDM's UNet.

    Args:
      resolution: height and width of the images.
      channels: width at multiplier 1.
      mults: a multiplier for each level, from the finest.
      blocks: in each encoder level; the decoder has one more.
      attention: resolutions with self-attention; those that do not occur are passed over.
      everywhere: attend in every decoder block of these resolutions (ADM, EDM2), not in the last alone.
      first: width of the first convolution, `channels` if None.

    Returns:
      The encoder's and the decoder's blocks, in the order of their computation.

    Raises:
      ValueError: no levels or blocks, or a resolution that cannot be halved len(mults) - 1 times.

    Source: Karras et al. 2022 (EDM), appendix F.2; Song et al. 2021 (DDPM++); Dhariwal & Nichol 2021 (ADM).
    """
    if not mults or blocks < 1:
        raise ValueError(f"a UNet has at least one level and one block in each, got mults={mults}, blocks={blocks}")
    if resolution % 2 ** (len(mults) - 1):
        raise ValueError(f"images of {resolution}x{resolution} cannot be halved {len(mults) - 1} times, as "
                         f"mults={mults} asks; the size must be a multiple of {2 ** (len(mults) - 1)}")
    widths = [int(channels * mult) for mult in mults]
    encoder = _encoder(resolution, channels if first is None else first, widths, blocks, attention)
    skips = [block.channels for block in encoder]
    return encoder, _decoder(resolution, widths, blocks, attention, everywhere, skips)


def _encoder(resolution: int, first: int, widths: list[int], blocks: int, attention: tuple[int, ...]) -> list[Block]:
    made = [Block(f"enc_{resolution}x{resolution}_conv", first, "conv")]
    for level, width in enumerate(widths):
        size = resolution >> level
        if level:
            made.append(Block(f"enc_{size}x{size}_down", made[-1].channels, "down"))
        made += [Block(f"enc_{size}x{size}_block{i}", width, attention=size in attention) for i in range(blocks)]
    return made


def _decoder(resolution: int, widths: list[int], blocks: int, attention: tuple[int, ...], everywhere: bool,
             skips: list[int]) -> list[Block]:
    lowest = len(widths) - 1
    made: list[Block] = []
    width = skips[-1]
    for level in reversed(range(len(widths))):
        size = resolution >> level
        prefix = f"dec_{size}x{size}"
        if level == lowest:  # the bottleneck attends whatever its resolution
            made += [Block(f"{prefix}_in0", width, attention=True), Block(f"{prefix}_in1", width)]
        else:
            made.append(Block(f"{prefix}_up", width, "up"))
        width = widths[level]
        made += [Block(f"{prefix}_block{i}", width, attention=size in attention and (everywhere or i == blocks),
                       skip=skips.pop()) for i in range(blocks + 1)]
    return made
