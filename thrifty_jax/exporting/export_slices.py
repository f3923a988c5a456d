"""Slices that an export is checked, calibrated and scored on: of given scans, or of a run."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from thrifty_jax import config as configs
from thrifty_jax import files
from thrifty_jax.data import batching
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.exporting.segment_onnx import stack
from thrifty_jax.predicting import inference
from thrifty_jax.scans import sources, volumes
from thrifty_jax.scores import evaluate

SCANS, SLICES = 4, 16  # checked: so many scans, and so many slices from the middle of each


@dataclasses.dataclass(frozen=True, eq=False)
class RunData:
  """The prepared slices of a run.

  Attributes:
    prepared: The data set.
    patients: Names under train, validation and test.
  """

  prepared: batching.Prepared
  patients: dict[str, tuple[str, ...]]

  def cases(self, split: str) -> tuple[batching.PreparedCase, ...]:
    """The scans of a split."""
    return evaluate.cases_of(self.prepared, self.patients[split])

  def slices(self, case: batching.PreparedCase) -> dict[str, np.ndarray]:
    """image [D, S, S, M], float16, and label [D, S, S] of a scan."""
    examples = batching.Examples(self.prepared, (case,))
    return examples.read(np.arange(len(examples)))


def open_run(model_folder: Path) -> RunData:
  """The data that the model in a run's folder was trained on.

  Raises:
    InputError: If the folder is in no run, or the prepared slices are not there any more.
  """
  path = model_folder.resolve().parent / 'config.json'
  if not path.is_file():
    raise InputError(
      f'{model_folder}: is not in the folder of a run, so its training slices are not known; give '
      'scans to check the export on by --scans=SCANS (--int8 needs the run)'
    )
  config = configs.default()
  try:
    config.update(files.read_json(path))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise InputError(f'{path}: is not the config of a run: {error}') from error
  prepared = open_slices(path.parent, config)
  return RunData(prepared, evaluate.patients_of(config, prepared))


def of_run(run: RunData) -> list[np.ndarray]:
  """Slices to check on, [d, S, S, M] float16, of validation patients."""
  cases = spread(run.cases('validation'), SCANS)
  return [_middle(run.slices(case)['image']) for case in cases]


def of_scans(place: Path, spec: dict[str, Any]) -> list[np.ndarray]:
  """Slices to check on, [d, S, S, M] float16, of scans that nobody prepared.

  Args:
    place: A file or a folder, as for predicting.
    spec: The model's preprocessing.json.

  Raises:
    InputError: If there is no scan, or one cannot be used with this model.
  """
  if not place.exists():
    raise InputError(f'--scans={place}: there is no such file or folder')
  found = []
  for source in spread(sources.find(place, channels=spec['modalities']), SCANS):
    volume, _ = sources.read(source)
    try:
      inference.require_usable(volume, channels=spec['modalities'])
    except InputError as error:
      raise InputError(f'{source.name}: {error}') from error
    volume = volumes.along(volumes.along(volume, 'axial'), spec['slice_axis'])
    found.append(_middle(inference.prepare(volume, spec)))
  return found


def of_training(run: RunData, count: int, *, context: int) -> Iterator[np.ndarray]:
  """Inputs of the network from scans of training patients, about `count`: [d, C, S, S] each."""
  cases = run.cases('train')
  each = -(-count // len(cases))
  for case in spread(cases, count):
    inputs = stack(run.slices(case)['image'], context)
    yield inputs[spread(range(len(inputs)), each)]


def spread(items: Iterable[Any], count: int) -> list[Any]:
  """At most so many of the items, evenly spaced."""
  everything = list(items)
  return everything[:: -(-len(everything) // count)] if len(everything) > count else everything


def _middle(image: np.ndarray) -> np.ndarray:
  first = max(0, (len(image) - SLICES) // 2)
  return image[first : first + SLICES]
