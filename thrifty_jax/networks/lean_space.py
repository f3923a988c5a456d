"""The space of lean networks: one encoder, one decoder, described level by level.

A shape names everything that decides a network's weights and its time. Narrow U-Nets of every width
and depth are shapes, see `unet`. Loads without JAX.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from thrifty_jax import records
from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.errors import InputError

STEMS = {1: 'full', 2: 'half', 4: 'quarter'}  # side of a pixel of the highest level -> its name
BLOCKS = ('plain', 'residual', 'bottleneck', 'axial')
UPSAMPLINGS = ('transposed', 'nearest', 'bilinear')
SKIPS = ('concat', 'add')
NORMS = ('batch', 'group', 'none')
LEVELS = (3, 6)  # fewest and most
MOST_CHANNELS = 1024
# Blocks that are drawn. With the others, networks were 0.6 to 2.5 points of DSC worse on the
# hippocampus, trained slower, and gained less from 8 bits (docs/results.md).
DRAWN = ('plain', 'residual')
MULTIPLE = 8  # drawn widths are multiples: kernels of convolutions work on 8 or 16 channels at once


@dataclasses.dataclass(frozen=True)
class Level:
  """One resolution of a lean network.

  Attributes:
    width: Channels.
    encoder: Convolutions, or blocks, on the way down, 1 or 2.
    decoder: Convolutions, or blocks, on the way up, 0 to 2; of no effect on the lowest level.
    block: What a convolution is, one of BLOCKS: `plain` is a 3x3 convolution, norm and relu;
      `residual` adds the input to what the level's plain ones give; `bottleneck` is an inverted
      bottleneck (1x1 to four times the channels, depthwise 3x3, 1x1 back) added to its input;
      `axial` is a depthwise 7x1 plus a depthwise 1x7 filter added to its input, then a 1x1
      convolution, norm and relu.

  Source: residual, He et al. 2016; bottleneck, Sandler et al. 2018 (MobileNetV2); axial, Dinh et
  al. 2023 (U-Lite).
  """

  width: Annotated[int, within(1, MOST_CHANNELS)]
  encoder: Annotated[int, within(1, 2)]
  decoder: Annotated[int, within(0, 2)]
  block: Annotated[str, one_of(*BLOCKS)]


@dataclasses.dataclass(frozen=True)
class LeanShape:
  """The shape of a lean network.

  Attributes:
    levels: Levels from the highest resolution to the lowest.
    stem: Side in image pixels of a pixel of the highest level, 1, 2 or 4.
    up: Upsampling between levels, one of UPSAMPLINGS.
    skip: Join of the encoder's levels with the decoder's, one of SKIPS.
    norm: Norm after every convolution, one of NORMS.
  """

  levels: tuple[Level, ...]
  stem: Annotated[int, Allowed('1, 2 or 4', lambda value: value in STEMS)]
  up: Annotated[str, one_of(*UPSAMPLINGS)]
  skip: Annotated[str, one_of(*SKIPS)]
  norm: Annotated[str, one_of(*NORMS)]

  @property
  def halvings(self) -> int:
    """Number of times that the image's sides must be divisible by 2."""
    return len(self.levels) - 1 + self.stem.bit_length() - 1

  @property
  def title(self) -> str:
    """Short description, such as 'half 16 32 64 128 concat'."""
    return f'{STEMS[self.stem]} {" ".join(str(level.width) for level in self.levels)} {self.skip}'

  @property
  def effective(self) -> 'LeanShape':
    """The same network with a choice of no effect left out; equal for equal networks."""
    *upper, lowest = self.levels
    return dataclasses.replace(self, levels=(*upper, dataclasses.replace(lowest, decoder=0)))


def read(value: Any, path: Path | str) -> LeanShape:
  """Returns the shape that stands in a genotype file.

  Args:
    value: Content of the file under "shape".
    path: File, for messages.

  Raises:
    InputError: If a part is missing or impossible, or there are too few or too many levels.
  """
  remedy = 'correct it, or use another genotype'
  shape = records.parse(value, LeanShape, f'{path}: shape', remedy=remedy)
  if not LEVELS[0] <= len(shape.levels) <= LEVELS[1]:
    raise InputError(
      f'{path}: shape has {len(shape.levels)} levels, expected {LEVELS[0]} to {LEVELS[1]}'
    )
  return shape


def unet(
  width: int,
  *,
  levels: int = 5,
  decoder: int = 2,
  up: str = 'transposed',
  skip: str = 'concat',
  norm: str = 'batch',
) -> LeanShape:
  """Returns the U-Net with this many channels at full size, doubled at each halving."""
  return LeanShape(
    tuple(Level(width * 2**level, 2, decoder, 'plain') for level in range(levels)),
    stem=1,
    up=up,
    skip=skip,
    norm=norm,
  )


def draw(generator: np.random.Generator) -> LeanShape:
  """Draws a shape: widths grow by a drawn factor a level, blocks are of DRAWN, all else uniform."""
  count = int(generator.integers(LEVELS[0], LEVELS[1], endpoint=True))
  first = MULTIPLE * int(generator.integers(1, 4, endpoint=True))
  growth = float(generator.choice([1.0, 1.25, 1.5, 2.0]))
  high, low = (str(generator.choice(DRAWN)) for _ in range(2))
  lowest = int(generator.integers(1, 2, endpoint=True))  # levels that have the low block
  encoder, top, decoder = (int(generator.integers(1, 2, endpoint=True)) for _ in range(3))
  levels = tuple(
    Level(
      width=min(MOST_CHANNELS, round(first * growth**number / MULTIPLE) * MULTIPLE),
      encoder=encoder if number else top,
      decoder=decoder,
      block=low if number >= count - lowest else high,
    )
    for number in range(count)
  )
  return LeanShape(
    levels,
    stem=int(generator.choice([*STEMS], p=(0.4, 0.5, 0.1))),
    up=str(generator.choice(UPSAMPLINGS)),
    skip=str(generator.choice(SKIPS)),
    norm='batch',
  )


def mutate(shape: LeanShape, generator: np.random.Generator) -> LeanShape:
  """Returns a shape that differs from the given one in one choice, drawn uniformly."""
  while True:
    changed = _change(shape, generator)
    widths = [level.width for level in changed.levels]
    inside = LEVELS[0] <= len(widths) <= LEVELS[1] and max(widths) <= MOST_CHANNELS
    if inside and changed.effective != shape.effective:
      return changed


def _change(shape: LeanShape, generator: np.random.Generator) -> LeanShape:
  levels, number = list(shape.levels), int(generator.integers(len(shape.levels)))
  level = levels[number]

  def other(values: Sequence[Any]) -> Any:
    return values[int(generator.integers(len(values)))]

  match other(('width', 'widths', 'levels', 'stem', 'encoder', 'decoder', 'block', 'up', 'skip')):
    case 'width':
      levels[number] = dataclasses.replace(level, width=_widened(level.width, other((0.75, 1.33))))
    case 'widths':
      factor = other((0.75, 1.33))
      levels = [dataclasses.replace(one, width=_widened(one.width, factor)) for one in levels]
    case 'levels' if other((True, False)):
      levels.pop()
    case 'levels':
      lowest = levels[-1]
      levels.append(dataclasses.replace(lowest, width=_widened(lowest.width, other((1, 1.5, 2)))))
    case 'encoder':
      levels[number] = dataclasses.replace(level, encoder=3 - level.encoder)
    case 'decoder':
      levels[number] = dataclasses.replace(level, decoder=other((0, 1, 2)))
    case 'block':
      levels[number] = dataclasses.replace(level, block=other(DRAWN))
    case 'stem':
      return dataclasses.replace(shape, stem=other([*STEMS]))
    case 'up':
      return dataclasses.replace(shape, up=other(UPSAMPLINGS))
    case 'skip':
      return dataclasses.replace(shape, skip=other(SKIPS))
  return dataclasses.replace(shape, levels=tuple(levels))


def _widened(width: int, factor: float) -> int:
  """Returns the width times the factor as a multiple of MULTIPLE, at least one step away."""
  step = MULTIPLE if factor > 1 else -MULTIPLE if factor < 1 else 0
  scaled = round(width * factor / MULTIPLE) * MULTIPLE
  return max(MULTIPLE, scaled if scaled != width else width + step)
