"""How every data set becomes slices in TFDS: the part that the builders share.

A `tfds.core.ShardBasedBuilder` writes one shard a case while it reads, so that no more volumes are
in memory than are worked on. The generator-based builder would collect up to 1 GB, keep the order
only below that, and need TensorFlow above it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import checks
from data_prep.workers import CasesMap
from thrifty_jax import fields
from thrifty_jax.scans import slices, volumes
from thrifty_jax.scans.preprocessing import ImageSettings
from thrifty_jax.scans.volumes import Case, Volume

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
    cases_map: Works on one case after another; `map`, or what workers.cases_map yields.
  """

  name: str = ''
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  cases: tuple[Case, ...] = ()
  note: str = ''
  case_done: Callable[[], object] = lambda: None
  cases_map: CasesMap = map


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
  """The split with one generator a case; TFDS runs them one after the other, in this process.

  Args:
    builder: Whose config names the cases and whose metadata is filled in on the way.
    read_case: Reads one case.

  Returns:
    What `_shard_iterators_per_split` must return.
  """
  builder.info.metadata['cases'] = []
  config = builder.builder_config
  prepared = config.cases_map(
    functools.partial(_prepared, read_case, config.settings), config.cases
  )
  return {'slices': [functools.partial(_examples, builder, prepared) for _ in config.cases]}


@dataclasses.dataclass(frozen=True, eq=False)
class _Prepared:
  """A case as it is written.

  Attributes:
    image: [D, S, S, M], float16 in [0, 1].
    label: [D, S, S], uint8.
    native_label: [D, H, W], uint8.
    record: Of the case, for the metadata; its first slice is not known yet.
  """

  image: np.ndarray
  label: np.ndarray
  native_label: np.ndarray
  record: dict[str, Any]


def _prepared(
  read_case: Callable[[Case], Volume], settings: Mapping[str, Any], case: Case
) -> _Prepared:
  """Reads, checks and slices a case; runs in a process of its own where there are several."""
  volume = volumes.along(read_case(case), settings['slice_axis'])
  checks.check_volume(
    volume, classes=settings['classes'], modalities=settings['modalities'], source=case
  )
  image_settings = fields.read(ImageSettings, settings, place=case.case)
  image, label = slices.to_slices(volume, image_settings)
  record = {
    'case': case.case,
    'patient': case.patient,
    'slices': len(image),
    'native_shape': list(volume.truth.shape),
    'spacing_mm': list(volume.spacing_mm),
    'affine': volume.affine.tolist(),
  }
  return _Prepared(image=image, label=label, native_label=volume.truth, record=record)


def _examples(
  builder: tfds.core.DatasetBuilder, prepared: Iterator[_Prepared]
) -> Iterator[tuple[int, dict[str, Any]]]:
  """The slices of the next case."""
  case, done = next(prepared), builder.info.metadata['cases']
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
  builder.builder_config.case_done()
