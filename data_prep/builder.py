"""How every data set becomes slices in TFDS: the part that the builders share.

A `tfds.core.ShardBasedBuilder` writes one shard a case while it reads, so that one volume is in
memory at a time. The generator-based builder would collect up to 1 GB, keep the order only below
that, and need TensorFlow above it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import checks, slices, volumes
from data_prep.volumes import Case, Volume

# A new number here makes every data set be prepared again: raise it when the slices or their
# metadata change.
VERSION = tfds.core.Version('1.1.0')


@dataclasses.dataclass(eq=False)
class SliceConfig(tfds.core.BuilderConfig):
  """What a builder is told.

  Attributes:
    name: Of the folder, a different one for different settings.
    settings: All that the slices depend on, as JSON would hold it; recorded beside them.
    cases: The scans to prepare, in order.
    note: A warning that belongs to the data and to everything made from it.
    case_done: Called after each case.
  """

  name: str = ''
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  cases: tuple[Case, ...] = ()
  note: str = ''
  case_done: Callable[[], object] = lambda: None


def info(
  builder: tfds.core.DatasetBuilder, *, description: str, homepage: str, citation: str
) -> tfds.core.DatasetInfo:
  """Features and metadata of the one split, 'slices'.

  Features: `image` [S, S, M] float16 in [0, 1]; `label` [S, S] uint8; `native_label` [H, W] uint8,
    the truth of the
  slice on its native grid; `case`; `slice`, the index along D.
  Metadata: settings, classes, note, and under `cases` for each case: case, patient, first_slice
    (index in the split),
  slices, native_shape [D, H, W], spacing_mm [3], affine [4, 4], with D the axis of the slices.
  """
  settings = builder.builder_config.settings
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
    settings=settings, classes=list(settings['classes']), note=builder.builder_config.note, cases=[]
  )
  return tfds.core.DatasetInfo(
    builder=builder,
    description=description,
    homepage=homepage,
    citation=citation,
    features=tfds.features.FeaturesDict(features),
    metadata=metadata,
    disable_shuffling=True,
  )


def shards(
  builder: tfds.core.DatasetBuilder, read_case: Callable[[Case], Volume]
) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
  """The split with one generator a case; TFDS runs them one after the other.

  Args:
    builder: Whose config names the cases and whose metadata is filled in on the way.
    read_case: Reads one case.

  Returns:
    What `_shard_iterators_per_split` must return.
  """
  builder.info.metadata['cases'] = []
  cases = builder.builder_config.cases
  return {'slices': [functools.partial(_examples, builder, read_case, case) for case in cases]}


def _examples(
  builder: tfds.core.DatasetBuilder, read_case: Callable[[Case], Volume], case: Case
) -> Iterator[tuple[int, dict[str, Any]]]:
  settings, done = builder.builder_config.settings, builder.info.metadata['cases']
  volume = volumes.along(read_case(case), settings['slice_axis'])
  checks.check_volume(
    volume, classes=settings['classes'], modalities=settings['modalities'], source=case
  )
  image, label = slices.to_slices(volume, settings)
  first_slice = done[-1]['first_slice'] + done[-1]['slices'] if done else 0
  done.append(
    {
      'case': case.case,
      'patient': case.patient,
      'first_slice': first_slice,
      'slices': len(image),
      'native_shape': list(volume.truth.shape),
      'spacing_mm': list(volume.spacing_mm),
      'affine': volume.affine.tolist(),
    }
  )
  for d in range(len(image)):
    example = {
      'image': image[d],
      'label': label[d],
      'native_label': volume.truth[d],
      'case': case.case,
      'slice': d,
    }
    yield first_slice + d, example
  builder.builder_config.case_done()
