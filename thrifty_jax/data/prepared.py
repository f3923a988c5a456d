"""Opens prepared slices, which are read on demand."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import labels, records
from thrifty_jax.allowed import REGIONS
from thrifty_jax.data import data_file
from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.errors import InputError

_DESCRIPTIONS = ('dataset_info.json', 'features.json', 'metadata.json')  # by TFDS


@dataclasses.dataclass(frozen=True)
class _Settings:
  """What is read of the settings of slices."""

  image_size: int
  modalities: int
  reduction: float = 0.0
  regions: Annotated[str, REGIONS] = ''


@dataclasses.dataclass(frozen=True)
class _Metadata:
  """What is read of metadata.json."""

  cases: tuple[PreparedCase, ...]
  classes: tuple[str, ...]
  note: str
  padding: tuple[float, float] | None
  settings: _Settings


def open_slices(workdir: Path, config: ConfigDict) -> Prepared:
  """Opens the slices that the data.json of a run names; raises InputError if they are not found."""
  folder, _ = data_file.find(workdir, data_file.require(workdir), config)
  return open_folder(folder)


def open_folder(folder: Path) -> Prepared:
  """Opens the slices in a folder; raises InputError if they are missing or incomplete."""
  import tensorflow_datasets as tfds  # takes seconds

  for name in _DESCRIPTIONS if folder.is_dir() else ():
    data_file.read_json(folder / name)  # TFDS would not name the file
  try:
    builder = tfds.builder_from_directory(str(folder))
    split = builder.info.splits['slices']
    missing = [path for path in map(Path, split.filepaths) if not _is_in(folder, path)]
  except Exception as error:  # TFDS raises several unrelated types for an absent or damaged folder.
    raise InputError(
      f'{folder}: holds no prepared data set ({type(error).__name__}); run --stage=prepare first, '
      'or remove the folder if there is one, and prepare again'
    ) from error
  metadata = records.parse(
    data_file.read_metadata(folder),
    _Metadata,
    folder / 'metadata.json',
    remedy=data_file.remedy(folder),
  )
  counted = [case.slices for case in metadata.cases]  # a file of slices for each
  if missing or split.shard_lengths != counted:
    what = f'lacks {missing[0].name}' if missing else f'holds {split.num_examples} slices'
    raise InputError(
      f'{folder}: {what}, but metadata.json lists {sum(counted)} slices in {len(counted)} files; '
      'copy the folder again, or delete it and prepare the data again'
    )
  _require_features(folder, builder.info.features, metadata.settings)
  return Prepared(
    folder=folder,
    cases=metadata.cases,
    slices=builder.as_data_source(split='slices'),
    slice_shape=builder.info.features['image'].shape,
    classes=metadata.classes,
    note=metadata.note,
    padding=metadata.padding,
    reduction=float(metadata.settings.reduction),
    citation=builder.info.citation or '',
    regions=labels.parse(metadata.settings.regions),
  )


def _is_in(folder: Path, path: Path) -> bool:
  """Returns whether a file is there, in this folder and no other."""
  return path.is_file() and path.parent.resolve() == folder.resolve()


def _require_features(folder: Path, features: Any, settings: _Settings) -> None:
  """Refuses features.json where it describes other slices than metadata.json, which has a digest.

  By another type of number the same bytes would be other intensities.
  """
  size = settings.image_size
  expected = {
    'image': ((size, size, settings.modalities), 'float16'),
    'label': ((size, size), 'uint8'),
    'native_label': ((None, None), 'uint8'),
  }
  described = dict(features.items()) if hasattr(features, 'items') else {}
  for name, form in expected.items():
    found = described.get(name)
    if found is None or (found.shape, np.dtype(found.np_dtype).name) != form:
      raise InputError(
        f'{folder / "features.json"}: does not describe {name} as metadata.json does; '
        f'{data_file.remedy(folder)}'
      )
