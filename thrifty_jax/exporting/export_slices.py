"""Slices, of given scans or a run, on which an export is checked, calibrated and scored."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thrifty_jax import config as configs
from thrifty_jax import files
from thrifty_jax.data import batching, splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.exporting.export_check import make_inputs
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.predicting import preparation
from thrifty_jax.scans import sources

SCANS, SLICES = 4, 16  # numbers of scans checked, and of slices from the middle of each
GOLDEN_RATIO = (1 + 5**0.5) / 2  # its multiples, modulo 1, spread evenly however many there are


class RunData(NamedTuple):
  """The prepared slices of a run."""

  prepared: batching.Prepared
  patients: Mapping[str, tuple[str, ...]]  # names by split: train, validation and test

  def cases(self, split: str) -> tuple[batching.PreparedCase, ...]:
    """Scans of a split."""
    return self.prepared.cases_of(self.patients[split])


def open_run(model_folder: Path) -> RunData:
  """Opens the data of the run that a model folder lies in; InputError if either is gone."""
  path = model_folder.resolve().parent / 'config.json'
  if not path.is_file():
    raise InputError(
      f'{model_folder}: is not in the folder of a run, so its training slices are not known'
    )
  content = files.read_json(path)
  try:
    config = configs.from_json(content)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise InputError(f'{path}: is not the config of a run: {error}') from error
  prepared = open_slices(path.parent, config)
  return RunData(prepared, splits.assign(config, prepared.classes_of_patients))


def read_run(run: RunData) -> list[np.ndarray]:
  """Slices of validation patients to check an export on, [d, S, S, M] each, float16."""
  cases = choose_spread(run.cases('validation'), SCANS)
  return [_middle(run.prepared.read(case)['image']) for case in cases]


def read_scans(place: Path, spec: ModelSpec) -> list[np.ndarray]:
  """Slices of unprepared scans to check an export on, [d, S, S, M] each, float16.

  InputError is raised if there is no scan, or one cannot be used with this model.
  """
  if not place.exists():
    raise InputError(f'--scans={place}: there is no such file or folder')
  found = []
  scans = sources.find(place, channels=spec.modalities)
  sources.require_kind(scans, of_pictures=spec.of_pictures)
  for source in choose_spread(scans, SCANS):
    volume, _ = sources.read(source)
    try:
      volume = preparation.turn(volume, spec)
    except InputError as error:
      raise InputError(f'{source.name}: {error}') from error
    found.append(_middle(preparation.prepare(volume, spec)))
  return found


def read_training(run: RunData, count: int, *, context: int) -> Iterator[np.ndarray]:
  """Inputs of the network from some `count` slices of training patients, [d, C, S, S] each.

  Those of a scan are evenly spaced, and begin at another height in each scan: an organ may fill any
  part of the scans, and values that are larger in it must be among them.
  """
  cases = run.cases('train')
  each = -(-count // len(cases))
  for number, case in enumerate(choose_spread(cases, count)):
    inputs = make_inputs(run.prepared.read(case)['image'], context=context)
    parts = min(each, len(inputs))
    heights = (np.arange(parts) + number * GOLDEN_RATIO % 1) / parts
    yield inputs[(heights * len(inputs)).astype(int)]


def choose_spread(items: Iterable[Any], count: int) -> list[Any]:
  """At most `count` of the items, the middle ones of as many equal parts."""
  everything = list(items)
  parts = min(count, len(everything))
  return [everything[(2 * part + 1) * len(everything) // (2 * parts)] for part in range(parts)]


def _middle(image: np.ndarray) -> np.ndarray:
  first = max(0, (len(image) - SLICES) // 2)
  return image[first : first + SLICES]
