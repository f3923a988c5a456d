"""Scans without masks that a training with a teacher sees too, beside those of its patients."""

import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import files, labels, logbook, records, stages
from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.errors import InputError
from thrifty_jax.networks.model_spec import ModelSpec, make_spec
from thrifty_jax.predicting import preparation
from thrifty_jax.run_files import Count, Name
from thrifty_jax.scans import missing, sources
from thrifty_jax.scans.sources import Source
from thrifty_jax.training.train_data import TrainData

FOLDER, RECORD = 'unlabelled', 'scans.json'  # in the folder retrain/ of a run


@dataclasses.dataclass(frozen=True)
class Kept:
  """A scan in scans.json: its slices are in NAME.npy, [D, S, S, M] float16 in [0, 1]."""

  name: Name
  slices: Count
  sha256: str  # of the slices


def add(
  config: ConfigDict, workdir: Path, train_data: TrainData
) -> tuple[TrainData, tuple[str, ...]]:
  """Returns the data with the scans of config.data.unlabelled in them, and the names of these.

  The names stand for patients, whose masks have no label anywhere. The scans are prepared into
  the folder of the run, and once the training has begun they are read from there.

  Raises:
    InputError: If there is no scan or one cannot be used, or one validates or tests in this run.
  """
  if not config.data.unlabelled:
    return train_data, ()
  folder = workdir / 'retrain' / FOLDER
  if not (stages.RETRAIN.is_begun(workdir) and (folder / RECORD).exists()):
    _prepare(config, folder, train_data)
  kept = records.read(folder / RECORD, tuple[Kept, ...])
  logbook.say(
    'unlabelled', f'{len(kept)} scans without masks, {sum(k.slices for k in kept)} slices'
  )
  prepared = _join(train_data.prepared, folder, kept)
  names = tuple(case.patient for case in prepared.cases[len(train_data.prepared.cases) :])
  return dataclasses.replace(train_data, prepared=prepared), names


def _prepare(config: ConfigDict, folder: Path, train_data: TrainData) -> None:
  """Prepares the slices of all scans, and at last the list of them."""
  place = Path(os.path.expanduser(config.data.unlabelled))
  spec = make_spec(config, train_data.statistics)
  spec = dataclasses.replace(spec, padding=train_data.prepared.padding)
  scans = sources.find(place, channels=spec.modalities)
  sources.require_kind(scans, of_pictures=spec.of_pictures)
  _require_no_test_set(scans)
  splits = {name: split for split, names in train_data.patients.items() for name in names}
  known = _Known(train_data.prepared)
  kept: list[Kept] = []
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  with logbook.progress(len(scans), 'prepare unlabelled') as bar:
    for scan in scans:
      try:
        image = _slices_of(scan, spec, nan_is_lowest=config.data.nan_is_lowest)
      except InputError as error:
        text = str(error)
        raise InputError(text if str(place) in text else f'{scan.channels[0]}: {text}') from error
      twin = known.find(image)
      split = splits[twin.patient] if twin else 'none'
      if twin and split != 'train':
        raise InputError(
          f'{scan.channels[0]}: is the scan {twin.case}, of a {split} patient of this run; remove '
          'it from --config.data.unlabelled'
        )
      if twin:
        logbook.say('unlabelled', f'{scan.name} is left out: it is {twin.case}, which has a mask')
      else:
        np.save(content := io.BytesIO(), image)  # to a file it would hide that a disk is full
        files.write_bytes(folder / f'{scan.name}.npy', content.getvalue())
        kept.append(Kept(scan.name, len(image), _digest(image)))
      bar.update(1)
  if not kept:
    raise InputError(
      f'--config.data.unlabelled={place}: all of its scans have masks in this run; expected others'
    )
  files.write_json(folder / RECORD, [records.to_json(one) for one in kept])


def _require_no_test_set(scans: Sequence[Source]) -> None:
  """Refuses scans of imagesTs that have masks in labelsTs beside it."""
  for path in (one.channels[0].resolve() for one in scans):
    if path.parent.name == 'imagesTs' and path.parent.with_name('labelsTs').is_dir():
      raise InputError(
        f'{path}: is a scan of the external test set, whose masks lie in {path.parent.parent}; '
        'expected scans on which nothing is scored'
      )


def _slices_of(scan: Source, spec: ModelSpec, *, nan_is_lowest: bool) -> np.ndarray:
  """Returns the slices of a scan as they would be prepared, [D, S, S, M] float16 in [0, 1]."""
  volume, _ = sources.read(scan)
  volume = missing.fill(volume) if nan_is_lowest else volume
  return preparation.prepare(preparation.turn(volume, spec), spec)


class _Known:
  """The scans with masks, found by their slices."""

  def __init__(self, prepared: Prepared):
    self._prepared = prepared
    self._digests: dict[str, PreparedCase] = {}
    self._counts = {case.slices for case in prepared.cases}

  def find(self, image: np.ndarray) -> PreparedCase | None:
    """Returns the scan that has these slices, None if none has."""
    if len(image) not in self._counts:
      return None
    if not self._digests:
      read = self._prepared.read
      self._digests = {_digest(read(case)['image']): case for case in self._prepared.cases}
    return self._digests.get(_digest(image))


def _digest(image: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(image, np.float16).tobytes()).hexdigest()


def _join(prepared: Prepared, folder: Path, kept: Sequence[Kept]) -> Prepared:
  """Returns prepared slices with those of scans without masks behind them."""
  arrays, cases = [], []
  first = len(prepared.slices)
  taken = {case.patient for case in prepared.cases}
  for one in kept:
    arrays.append(_open(folder / f'{one.name}.npy', one, prepared.slice_shape))
    patient = f'unlabelled {one.name}'
    while patient in taken:
      patient += "'"
    size = prepared.slice_shape[0]
    shape, affine = (one.slices, size, size), ()  # nothing looks at where they lie
    cases.append(PreparedCase(one.name, patient, first, one.slices, shape, (1, 1, 1), affine))
    first += one.slices
  slices = _Joined(prepared.slices, arrays)
  return dataclasses.replace(prepared, cases=(*prepared.cases, *cases), slices=slices)


def _open(path: Path, one: Kept, slice_shape: tuple[int, int, int]) -> np.ndarray:
  """Maps the slices of a scan into memory, unless the file is another than was written."""
  remedy = f'remove {path.parent.parent} to train anew'
  try:
    image = np.load(path, mmap_mode='r')
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f'{path}: cannot be read ({str(error):.100}); {remedy}') from error
  fits = image.shape == (one.slices, *slice_shape) and image.dtype == np.float16
  if not fits or _digest(image) != one.sha256:
    raise InputError(f'{path}: has other slices than the training began with; {remedy}')
  return image


class _Joined:
  """Records of prepared slices, and behind them images whose masks have no label."""

  def __init__(self, records: Any, images: Sequence[np.ndarray]):
    self._records, self._count = records, len(records)
    self._rows = [(image, d) for image in images for d in range(len(image))]

  def __len__(self) -> int:
    return self._count + len(self._rows)

  def __getitem__(self, row: int) -> dict[str, np.ndarray]:
    if row < self._count:
      return self._records[row]
    image, d = self._rows[row - self._count]
    return {'image': image[d], 'label': np.full(image.shape[1:3], labels.IGNORED, np.uint8)}
