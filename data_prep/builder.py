"""The TFDS builder that writes the slices of every data set.

A `ShardBasedBuilder` writes a shard a case while it reads, and holds what is being processed alone.
The generator-based one collects up to 1 GB, and above it loses the order and needs TensorFlow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import checks
from data_prep.data_sets import About, labels_in, name_exclusion
from thrifty_jax import files, labels, records
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices
from thrifty_jax.scans.preprocessing import ImageSettings
from thrifty_jax.scans.volumes import Case, Volume

# A new number here causes every data set to be prepared again: raise it when the slices or their
# metadata change.
VERSION = tfds.core.Version('1.4.0')


# The metadata of a case, but for its first slice, and features of its D slices, [D, ...] each.
SlicedCase = tuple[dict[str, Any], dict[str, Sequence[np.ndarray] | np.ndarray]]


class Slices(tfds.core.ShardBasedBuilder, skip_registration=True):
  """The slices of a data set.

  Features of the one split, 'slices': `image` [S, S, M] float16 in [0, 1]; `label` [S, S] uint8;
    `native_label` [H, W] uint8, the truth of the slice on its native grid; `case`; `slice`, the
    index along D. Of a slice in windows each has a part of the rows of `native_label`.
  Metadata: settings, classes, note, padding, and under `cases` for each case: case, patient,
    first_slice (index in the split), slices, native_shape [D, H, W], spacing_mm [3], affine [4, 4],
    with D the axis of the slices, and classes, the foreground classes in the mask; of windows also
    marked, which of them have foreground; where masks have an ignored label also unlabelled, the
    slices or windows without any other.
  """

  VERSION = VERSION
  name = 'slices'  # an instance has the name of its data set

  def __init__(
    self, folder: str, data_dir: Path, *, settings: dict[str, Any], about: About, count: int
  ):
    """Describes the slices of `count` cases, which TFDS writes once `sliced` yields them.

    Settings, as JSON values, are all that slices depend on; others need another folder.
    """
    self.name = settings['name']
    self.settings, self.about, self.count = settings, about, count
    self.sliced: Iterator[SlicedCase] = iter(())  # in order; each is read when it is written
    super().__init__(config=tfds.core.BuilderConfig(name=folder), data_dir=data_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    size, modalities = self.settings['image_size'], self.settings['modalities']
    features = {
      'image': tfds.features.Tensor(
        shape=(size, size, modalities), dtype=np.float16, encoding='bytes'
      ),
      'label': tfds.features.Tensor(shape=(size, size), dtype=np.uint8, encoding='zlib'),
      'native_label': tfds.features.Tensor(shape=(None, None), dtype=np.uint8, encoding='zlib'),
      'case': tfds.features.Text(),
      'slice': np.int32,
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.about.description,
      homepage=self.about.homepage,
      citation=self.about.citation,
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(
        settings=self.settings,
        classes=self.settings['classes'],
        note=self.about.note,
        padding=self.about.padding,
        cases=[],
      ),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Any]]]:
    """Returns one generator a case; TFDS runs them one after the other, in this process."""
    return {'slices': [self._next_examples] * self.count}

  def _next_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the slices of the next case."""
    (record, arrays), done = next(self.sliced), self.info.metadata['cases']
    first_slice = done[-1]['first_slice'] + done[-1]['slices'] if done else 0
    done.append({**record, 'first_slice': first_slice})
    if len(done) == self.count:  # the records of slices have checksums of their own
      self.info.metadata['sha256'] = files.digest_json(dict(self.info.metadata))
    for d in range(record['slices']):
      example = {name: array[d] for name, array in arrays.items()}
      yield first_slice + d, {**example, 'case': record['case'], 'slice': d}


def slice_case(
  read_case: Callable[[Case], Volume], settings: Mapping[str, Any], case: Case
) -> SlicedCase:
  """Reads, checks and slices a case; runs in a worker process where there are several."""
  try:
    volume, problems = checks.read(read_case, settings, case)
    if problems:
      raise InputError(problems[0])
  except InputError as error:
    raise InputError(f'{error} {name_exclusion([case.case])}') from error
  image, label = slices.to_slices(volume, records.parse(settings, ImageSettings, case.case))
  record = {
    'case': case.case,
    'patient': case.patient,
    'slices': len(image),
    'native_shape': list(volume.truth.shape),
    'spacing_mm': list(volume.spacing_mm),
    'affine': volume.affine.tolist(),
    'classes': labels.to_classes(labels_in(volume.truth), case.regions),
  }
  if settings.get('reduction'):
    record['marked'] = np.flatnonzero(labels.foreground(label).any(axis=(1, 2))).tolist()
  if settings.get('ignore'):
    record['unlabelled'] = np.flatnonzero((label == labels.IGNORED).all(axis=(1, 2))).tolist()
  rows = volume.truth.reshape(-1, volume.truth.shape[2])
  return record, {'image': image, 'label': label, 'native_label': np.array_split(rows, len(image))}
