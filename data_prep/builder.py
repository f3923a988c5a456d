"""The TFDS builder that writes the slices of every data set.

A `tfds.core.ShardBasedBuilder` writes one shard a case while it reads, so only the volumes that are
being processed are in memory. The generator-based builder would collect up to 1 GB, keep the order
only below that, and need TensorFlow above it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import checks
from data_prep.data_sets import About
from thrifty_jax import records
from thrifty_jax.scans import slices, volumes
from thrifty_jax.scans.preprocessing import ImageSettings
from thrifty_jax.scans.volumes import Case, Volume

# A new number here causes every data set to be prepared again: raise it when the slices or their
# metadata change.
VERSION = tfds.core.Version('1.2.0')


@dataclasses.dataclass(frozen=True, eq=False)
class SlicedCase:
  """The slices of a case, ready to be written.

  Attributes:
    image: Intensities, [D, S, S, M], float16 in [0, 1].
    label: Class of each pixel, [D, S, S], uint8.
    native_label: Class of each voxel on the native grid, [D, H, W], uint8.
    record: Entry of the case in the metadata; its first slice is not known yet.
  """

  image: np.ndarray
  label: np.ndarray
  native_label: np.ndarray
  record: dict[str, Any]


@dataclasses.dataclass(eq=False)
class SliceConfig(tfds.core.BuilderConfig):
  """Configuration of the builder.

  Attributes:
    name: Name of the folder, a different one for different settings.
    settings: Everything that the slices depend on, as JSON values; recorded in the metadata.
    about: Description of the data set, recorded as well.
    count: Number of cases.
    sliced: Slices of the cases, in order; each case is read when it is written.
  """

  name: str = ''
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  about: About = About('')
  count: int = 0
  sliced: Iterator[SlicedCase] = iter(())


class Slices(tfds.core.ShardBasedBuilder, skip_registration=True):
  """The slices of a data set.

  Features of the one split, 'slices': `image` [S, S, M] float16 in [0, 1]; `label` [S, S] uint8;
    `native_label` [H, W] uint8, the truth of the slice on its native grid; `case`; `slice`, the
    index along D.
  Metadata: settings, classes, note, padding, and under `cases` for each case: case, patient,
    first_slice (index in the split), slices, native_shape [D, H, W], spacing_mm [3], affine [4, 4],
    with D the axis of the slices.
  """

  VERSION = VERSION
  name = 'slices'  # an instance has the name of its data set

  def __init__(self, config: SliceConfig, data_dir: Path):
    self.name = config.settings['name']
    super().__init__(config=config, data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    settings, about = self.builder_config.settings, self.builder_config.about
    size = settings['image_size']
    features = {
      'image': tfds.features.Tensor(
        shape=(size, size, settings['modalities']), dtype=np.float16, encoding='bytes'
      ),
      'label': tfds.features.Tensor(shape=(size, size), dtype=np.uint8, encoding='zlib'),
      'native_label': tfds.features.Tensor(shape=(None, None), dtype=np.uint8, encoding='zlib'),
      'case': tfds.features.Text(),
      'slice': np.int32,
    }
    metadata = tfds.core.MetadataDict(
      settings=settings,
      classes=settings['classes'],
      note=about.note,
      padding=about.padding,
      cases=[],
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=about.description,
      homepage=about.homepage,
      citation=about.citation,
      features=tfds.features.FeaturesDict(features),
      metadata=metadata,
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Any]]]:
    """Returns one generator a case; TFDS runs them one after the other, in this process."""
    return {'slices': [self._next_examples] * self.builder_config.count}

  def _next_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the slices of the next case."""
    case, done = next(self.builder_config.sliced), self.info.metadata['cases']
    first_slice = done[-1]['first_slice'] + done[-1]['slices'] if done else 0
    done.append({**case.record, 'first_slice': first_slice})
    for d in range(len(case.image)):
      example = {
        'image': case.image[d],
        'label': case.label[d],
        'native_label': case.native_label[d],
        'case': case.record['case'],
        'slice': d,
      }
      yield first_slice + d, example


def slice_case(
  read_case: Callable[[Case], Volume], settings: Mapping[str, Any], case: Case
) -> SlicedCase:
  """Reads, checks and slices a case; runs in a worker process where there are several."""
  volume = volumes.along(read_case(case), settings['slice_axis'])
  checks.check_volume(
    volume, classes=settings['classes'], modalities=settings['modalities'], source=case
  )
  image_settings = records.parse(settings, ImageSettings, case.case)
  image, label = slices.to_slices(volume, image_settings)
  record = {
    'case': case.case,
    'patient': case.patient,
    'slices': len(image),
    'native_shape': list(volume.truth.shape),
    'spacing_mm': list(volume.spacing_mm),
    'affine': volume.affine.tolist(),
  }
  return SlicedCase(image=image, label=label, native_label=volume.truth, record=record)
