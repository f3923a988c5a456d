"""The stage that tells the planes of slices apart, by a short training in each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.racing import choice, jobs, pace, short_trainings
from thrifty_jax.racing.jobs import Job
from thrifty_jax.scores import tables

FILE, GENOTYPE = 'planes.json', 'genotype.json'
STEPS = 2400  # about, of each training: those of the last rung of a race as it comes


@dataclasses.dataclass(frozen=True)
class Plane:
  """An entry of planes.json, the best first.

  Attributes:
    slice_axis: The plane.
    image_size: Side of its slices, in pixels.
    slices: Number of slices of all patients.
    steps: Steps of the training, as many for each plane.
    validation_dsc: Mean DSC of the validation patients, in [0, 1]; None if the training diverged.
    behind: Mean of the paired differences to the best plane, from 0 on.
    behind_error: Standard error of that; None for a single patient, who has none.
  """

  slice_axis: str
  image_size: int
  slices: int
  steps: int
  validation_dsc: float | None
  behind: float | None
  behind_error: float | None


def compare(runs: Mapping[str, tuple[ConfigDict, Path]], usual: str, folder: Path) -> list[Plane]:
  """Trains the network of the settings on the slices of each plane, and writes planes.json.

  Args:
    runs: Settings of each plane and the folder whose data.json names its prepared slices.
    usual: The plane that the settings of the run give.
    folder: Folder for planes.json and a copy of the genotype.

  Returns:
    All planes, the best first. Test patients take no part.

  Raises:
    InputError: If every training diverged, or the folder has trainings of another genotype.
    Stopped: If a signal asks to stop; the trainings under way are saved.
  """
  config, _ = runs[usual]
  _keep_genotype(Path(config.genotype), folder)
  steps = max(short_trainings.count_epoch_steps(*run) for run in runs.values())
  found = {plane: _make_job(*run, folder / GENOTYPE, steps) for plane, run in runs.items()}
  jobs.run_all(config, [*found.values()], 'planes')
  scores = {plane: short_trainings.read_scores([Path(job.place)]) for plane, job in found.items()}
  ranked = sorted(runs, key=lambda plane: (-choice.mean(scores[plane]), plane != usual))
  if not (top := scores[ranked[0]]):
    raise InputError(
      f'{folder}: the training in every plane diverged; lower retrain.learning_rate, '
      f'which is {config.retrain.learning_rate:g}, and remove the folder'
    )
  planes = []
  for plane in ranked:
    (settings, place), own = runs[plane], scores[plane]
    behind = choice.compare(top, own) if own else None
    planes.append(
      Plane(
        slice_axis=plane,
        image_size=settings.data.image_size,
        slices=sum(case.slices for case in open_slices(place, settings).cases),
        steps=steps * found[plane].config['retrain']['epochs'],
        validation_dsc=choice.mean(own) if own else None,
        behind=behind.mean if behind else None,
        behind_error=behind.error if behind and len(top) > 1 else None,
      )
    )
  records.write(folder / FILE, planes)
  print('\n'.join(['', *format_table(planes), '']), flush=True)
  logbook.say('plane', advise(planes, usual))
  return planes


def format_table(planes: Sequence[Plane]) -> list[str]:
  """Formats a line for each plane, the best first."""
  rows = [('slices', 'pixels', 'steps', 'validation DSC, %', 'behind')]
  for number, one in enumerate(planes):
    dsc = 'diverged' if one.validation_dsc is None else f'{100 * one.validation_dsc:.2f}'
    size = f'{one.image_size} x {one.image_size}'
    behind = _format(one) if number else ''
    rows.append((f'{one.slices} {one.slice_axis}', size, f'{one.steps:,}', dsc, behind))
  return tables.align(rows, left=1)


def advise(planes: Sequence[Plane], usual: str) -> str:
  """Says in a sentence which plane to take; another than the usual one only if clearly better."""
  best = planes[0]
  if best.slice_axis == usual:
    return f'{usual} slices, as this command takes them, have the best score'
  own = next(one for one in planes if one.slice_axis == usual)
  option = f'--config.data.slice_axis={best.slice_axis}'
  if own.behind is None:
    return f'{best.slice_axis} slices, by {option}: the training with {usual} ones diverged'
  if own.behind_error is None or own.behind <= 2 * own.behind_error:
    return (
      f'{usual} slices, as this command takes them: {best.slice_axis} ones are not clearly ahead, '
      f'by {_format(own)} points'
    )
  return f'{best.slice_axis} slices, by {option}: {_format(own)} points ahead of {usual} ones'


def _format(plane: Plane) -> str:
  """Formats in points of DSC by how much a plane is behind the best."""
  if plane.behind is None:
    return '–'
  error = '' if plane.behind_error is None else f' ± {100 * plane.behind_error:.2f}'
  return f'{100 * plane.behind:.2f}{error}'


def _keep_genotype(path: Path, folder: Path) -> None:
  """Copies the genotype to a folder whose trainings have it; another one there is refused."""
  kept = folder / GENOTYPE
  if not kept.exists():
    files.write_text(kept, path.read_text(encoding='utf-8'))
  elif genotypes.load_any(kept) != genotypes.load_any(path):
    raise InputError(
      f'{kept}: the planes were compared by another network than {path}; go back to it, or remove '
      f'{folder}'
    )


def _make_job(config: ConfigDict, place: Path, genotype: Path, epoch_steps: int) -> Job:
  """Returns the training on the slices that a folder names, in a folder within it."""
  settings = config.copy_and_resolve_references()
  settings.genotype = str(genotype)
  settings.retrain.least_steps = epoch_steps  # else planes with fewer slices train less
  settings.search.max_ms, settings.search.max_macs = 0.0, 0  # of a race
  (epochs,) = pace.plan_epochs(STEPS / epoch_steps, rungs=1, most=pace.longest(settings))
  short_trainings.set_epochs(settings, epochs)
  return Job.make(settings, place, place / 'training')
