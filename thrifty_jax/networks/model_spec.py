"""Description of a network and of its input, stored as preprocessing.json in a model folder."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import fields
from thrifty_jax.data import likeness
from thrifty_jax.data.batching import Statistics
from thrifty_jax.scans.preprocessing import FLIPS, ImageSettings, image_settings
from thrifty_jax.settings import MODELS

# Limits of the sizes, so that a damaged description does not allocate all memory.
_MOST_CLASSES = 256  # masks are stored as bytes
_MOST_SHADE = 1e9  # largest intensity; its inverse is the least deviation: both fit in float32
_SHA256 = re.compile('[0-9a-f]{64}')


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
  """Kind and sizes of a network.

  Attributes:
    name: 'thrifty', or a baseline: 'unet' or 'unet_plus_plus'.
    channels: Channels of every cell of a thrifty network.
    depth: Levels of a thrifty network below the full size.
    width: Channels of a baseline at full size.
    deep_supervision: Whether several outputs are trained.
    norm: Norm of a baseline, 'none' or 'group'.
  """

  name: str = fields.field(fields.one_of(*MODELS))
  channels: int = fields.field(fields.whole(1, 4096))
  depth: int = fields.field(fields.whole(2, 8))
  width: int = fields.field(fields.whole(1, 4096))
  deep_supervision: bool = fields.field(fields.truth)
  norm: str = fields.field(fields.one_of('none', 'group'))


def _are_classes(value: Any, _: Mapping[str, Any]) -> bool:
  return (
    isinstance(value, list)
    and 1 < len(value) <= _MOST_CLASSES
    and all(isinstance(one, str) and one.isprintable() for one in value)
  )


def _are_ranges(value: Any, found: Mapping[str, Any]) -> bool:
  pair = fields.numbers(2, -_MOST_SHADE, _MOST_SHADE)
  return (
    isinstance(value, dict)
    and {*likeness.NEEDED} <= {*value}
    and all(pair(one, found) and one[0] <= one[1] for one in value.values())
  )


def _is_digest(value: Any, _: Mapping[str, Any]) -> bool:
  return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _of_modalities(found: Mapping[str, Any]) -> int:
  return found['modalities']


def _of_channels(found: Mapping[str, Any]) -> int:
  return found['modalities'] * (2 * found['context'] + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
  """Everything that a network and its input depend on.

  Attributes:
    network: Kind and sizes of the network.
    classes: Names of the K classes in the order of its outputs, background first.
    modalities: Channels of a scan, M.
    context: Neighbouring slices on each side of a slice, which are further input channels.
    image: Settings of the preprocessing of a slice.
    mean: Mean that is subtracted from intensities in [0, 1], [M].
    std: Standard deviation that they are then divided by, [M].
    background: Normalised value of intensity 0 for each image channel, [C]; images are padded
      with it.
    padding: Pair (start, value): stored values of `start` or more are replaced by `value`; None
      replaces none.
    flips: Flips used in training, a subset of FLIPS.
    largest_component: Names of the classes of which only the largest component is kept.
    training_scans: Range of each measure of the training scans, see likeness.py; None if unknown.
    splits_sha256: Digest of the patients in each split, see split_file.digest; None if unknown.
  """

  network: NetworkSpec
  classes: tuple[str, ...] = fields.field(_are_classes)
  modalities: int = fields.field(fields.whole(1, 64))
  context: int = fields.field(fields.whole(0, 32))
  image: ImageSettings
  mean: tuple[float, ...] = fields.field(fields.numbers(_of_modalities, -_MOST_SHADE, _MOST_SHADE))
  std: tuple[float, ...] = fields.field(
    fields.numbers(_of_modalities, 1 / _MOST_SHADE, _MOST_SHADE)
  )
  background: tuple[float, ...] = fields.field(
    fields.numbers(_of_channels, -_MOST_SHADE, _MOST_SHADE)
  )
  padding: tuple[float, float] | None = fields.field(
    fields.none_or(fields.numbers(2, -_MOST_SHADE, _MOST_SHADE))
  )
  flips: tuple[str, ...] = fields.field(fields.some_of(lambda _: FLIPS))
  largest_component: tuple[str, ...] = fields.field(
    fields.some_of(lambda found: found['classes'][1:])
  )
  training_scans: Mapping[str, Any] | None = fields.field(fields.none_or(_are_ranges))
  splits_sha256: str | None = fields.field(fields.none_or(_is_digest), default=None)

  @property
  def image_channels(self) -> int:
    """Channels of the network's input, C."""
    return self.modalities * (2 * self.context + 1)

  @property
  def largest(self) -> tuple[int, ...]:
    """Indices of the classes of which only the largest component is kept."""
    return tuple(map(self.classes.index, self.largest_component))

  @property
  def statistics(self) -> Statistics:
    """Mean and standard deviation as networks take them, float32, [M] each."""
    return {'mean': np.asarray(self.mean, np.float32), 'std': np.asarray(self.std, np.float32)}


def make_spec(config: ConfigDict, statistics: Mapping[str, Any]) -> ModelSpec:
  """Returns the description of the network of a config, as far as it is known before training.

  Args:
    config: Settings of the run.
    statistics: Mean and standard deviation of intensities in [0, 1], [M] each.
  """
  data, model = config.data, config.model
  statistics = {name: np.asarray(value, float) for name, value in statistics.items()}
  sizes = {one.name: model[one.name] for one in dataclasses.fields(NetworkSpec)}
  return ModelSpec(
    network=NetworkSpec(**sizes),
    classes=tuple(data.classes),
    modalities=data.modalities,
    context=data.context,
    image=image_settings(data),
    mean=tuple(statistics['mean'].tolist()),
    std=tuple(statistics['std'].tolist()),
    background=tuple(background(statistics, context=data.context).tolist()),
    padding=None,
    flips=tuple(flip for flip in FLIPS if config.augment[f'flip_{flip}']),
    largest_component=(),
    training_scans=None,
  )


def background(statistics: Mapping[str, Any], *, context: int) -> Any:
  """Returns the normalised value of intensity 0, [C]; traced if the statistics are."""
  shades = -statistics['mean'] / statistics['std']
  return shades[None].repeat(2 * context + 1, axis=0).ravel()
