"""What a trained network is and what its input looks like: preprocessing.json of a model folder."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import labels
from thrifty_jax.allowed import Allowed, one_of, within
from thrifty_jax.data import likeness
from thrifty_jax.data.batching import Statistics
from thrifty_jax.records import Inline
from thrifty_jax.scans.preprocessing import FLIPS, ImageSettings, image_settings
from thrifty_jax.settings import MODELS, NORMS

# Limits of what a network is built of, so that a damaged description does not ask for all memory.
Channels = Annotated[int, within(1, 4096)]
ClassName = Annotated[str, Allowed('a printable name', str.isprintable)]
Colour = Annotated[str, Allowed('a colour as #rrggbb', re.compile('#[0-9a-f]{6}').fullmatch)]
Shade = Annotated[float, within(-1e9, 1e9)]  # float32 holds it
Deviation = Annotated[float, within(1e-9, 1e9)]
Sha256 = Annotated[str, Allowed('64 hexadecimal digits', re.compile('[0-9a-f]{64}').fullmatch)]
_MOST_CLASSES = 255  # masks are of bytes, and 255 is no label


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
  """The sizes that a network is built by."""

  name: Annotated[str, one_of(*MODELS)]  # 'thrifty', or a baseline: 'unet' or 'unet_plus_plus'
  channels: Channels  # channels of every cell of a thrifty network
  depth: Annotated[int, within(2, 8)]  # levels of a thrifty network below the full size
  width: Channels  # channels of a baseline at full size
  deep_supervision: bool  # whether several outputs are trained
  norm: Annotated[str, one_of(*NORMS)]  # of a baseline; a thrifty network has batch or else group


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """All that a network and its input depend on.

  The first class is the background. None stands for no padding and for what is not known.
  """

  network: Annotated[NetworkSpec, Inline()]
  classes: tuple[ClassName, ...]  # names of the K classes in the order of the outputs
  modalities: Annotated[int, within(1, 64)]  # channels of a scan, M
  context: Annotated[int, within(0, 32)]  # slices on each side that it sees as further channels
  image: Annotated[ImageSettings, Inline()]  # what is done to the image of a slice
  mean: tuple[Shade, ...]  # what is subtracted from intensities in [0, 1], [M]
  std: tuple[Deviation, ...]  # what they are then divided by, [M]
  background: tuple[Shade, ...]  # normalised intensity 0 by image channel, [C]; fills sides up
  padding: tuple[Shade, Shade] | None  # (from, value): replaces stored `from` and more
  flips: tuple[Annotated[str, one_of(*FLIPS)], ...]  # flips that training saw
  largest_component: tuple[str, ...]  # classes of which the largest piece alone is kept
  training_scans: Mapping[str, tuple[Shade, Shade]] | None  # range of each measure, see likeness.py
  unit: Annotated[str, one_of('mm', 'pixels')] = 'mm'  # of lengths; pixels of pictures, not volumes
  colours: tuple[Colour, ...] = ()  # of the classes in masks that are pictures; () is not known
  regions: labels.Regions = ()  # labels of each class from 1 on, see labels.py; () is one each
  splits_sha256: Sha256 | None = None  # digest of who trained, validated and tests, see split_file

  @property
  def image_channels(self) -> int:
    """Channels of what the network sees, C."""
    return self.modalities * (2 * self.context + 1)

  @property
  def of_pictures(self) -> bool:
    """Whether its scans are pictures, not volumes."""
    return self.unit == 'pixels'

  @property
  def largest(self) -> tuple[int, ...]:
    """Numbers of the classes of which the largest piece alone is kept."""
    return tuple(map(self.classes.index, self.largest_component))

  @property
  def statistics(self) -> Statistics:
    """'mean' and 'std' as networks take them, float32, [M] each."""
    return {'mean': np.asarray(self.mean, np.float32), 'std': np.asarray(self.std, np.float32)}


def find_faults(spec: ModelSpec) -> list[str]:
  """Returns the names of fields of a description from a file that do not fit the others."""
  limits, scans, channels = spec.image.limits, spec.training_scans, spec.image_channels
  fits = {
    'classes': 1 < len(spec.classes) <= _MOST_CLASSES,
    'regions': not spec.regions or not labels.find_fault(spec.classes, spec.regions),
    spec.image.intensity: limits is not None and limits[0] < limits[1],
    'mean': len(spec.mean) == spec.modalities,
    'std': len(spec.std) == spec.modalities,
    'background': len(spec.background) == channels,
    'colours': len(spec.colours) in (0, len(spec.classes)),
    'largest_component': {*spec.largest_component} <= {*spec.classes[1:]},
    'training_scans': scans is None
    or {*likeness.NEEDED} <= scans.keys()
    and all(least <= most for least, most in scans.values()),
  }
  return [name for name, fine in fits.items() if not fine]


def make_spec(config: ConfigDict, statistics: Mapping[str, Any]) -> ModelSpec:
  """Describes the network that a config asks for, as far as it is known before training.

  The statistics are `mean` and `std` that intensities in [0, 1] are normalised by, [M] each.
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
    unit=data.unit,
    colours=tuple(colour.lower() for colour in data.get('colours', ())[: len(data.classes)]),
    regions=labels.parse(data.regions),
  )


def make_untrained_spec(config: ConfigDict) -> ModelSpec:
  """Describes the network that a config asks for, with intensities of mean 0 and deviation 1.

  The statistics of the slices, which are not known, change neither its sizes nor its times.
  """
  modalities = config.data.modalities
  return make_spec(config, {'mean': np.zeros(modalities), 'std': np.ones(modalities)})


def background(statistics: Mapping[str, Any], *, context: int) -> Any:
  """Returns the normalised value of intensity 0 for each image channel, [C]."""
  shades = -statistics['mean'] / statistics['std']
  return shades[None].repeat(2 * context + 1, axis=0).ravel()
