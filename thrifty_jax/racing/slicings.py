"""The stages that tell ways to slice scans apart, planes or sizes, by a short training on each."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records
from thrifty_jax.cost import configured
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.racing import choice, jobs, pace, short_trainings
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.jobs import Job
from thrifty_jax.racing.short_trainings import Length
from thrifty_jax.run_files import Timed
from thrifty_jax.scores import tables

GENOTYPE = 'genotype.json'
STEPS = 2400  # about, of each training: those of the last rung of a race as it comes
Runs = Mapping[str, tuple[ConfigDict, Path]]


@dataclasses.dataclass(frozen=True)
class Slicing:
  """An entry of planes.json or sizes.json, the best first.

  Attributes:
    slice_axis: Plane of the slices.
    image_size: Side of them, in pixels.
    slices: Number of slices of all patients.
    steps: Steps of the training, as many for each.
    timed: Time of the network for a slice, in its fastest way; None of planes, which differ little,
      and where no runtime is installed.
    validation_dsc: Mean DSC of the validation patients, in [0, 1]; None if the training diverged.
    behind: Mean of the paired differences to the best one, from 0 on.
    behind_error: Standard error of that; None for a single patient, who has none.
  """

  slice_axis: str
  image_size: int
  slices: int
  steps: int
  timed: Timed | None
  validation_dsc: float | None
  behind: float | None
  behind_error: float | None

  @property
  def ms(self) -> float | None:
    """Milliseconds of a slice."""
    return self.timed.ms if self.timed else None

  @property
  def pixels(self) -> str:
    """Size in words."""
    return f'{self.image_size} x {self.image_size}'


Sizes = tuple[Slicing, ...]  # contents of the file


def compare_planes(runs: Runs, usual: str, folder: Path) -> list[Slicing]:
  """Trains on the slices of each plane, and says which to take, see `_compare`."""
  found, _ = _compare('planes', runs, usual, folder)
  logbook.say('plane', advise_plane(found, usual))
  return found


def compare_sizes(runs: Runs, usual: str, folder: Path) -> list[Slicing]:
  """Trains on slices of each size in pixels, and says which to take, see `_compare`."""
  found, scores = _compare('sizes', runs, usual, folder)
  # Without milliseconds fewer pixels are faster.
  cost = {str(one.image_size): one.ms or float(one.image_size) for one in found}
  config, _ = runs[usual]
  # Else the next run of pictures could cut slices of another size into windows.
  whole = ' --config.data.reduction=0' if config.data.unit == 'pixels' else ''
  advice = advise_size(found, usual, choice.pick(scores, cost) or usual, whole=whole)
  logbook.say('size', advice)
  return found


def _compare(
  title: str, runs: Runs, usual: str, folder: Path
) -> tuple[list[Slicing], dict[str, Scores]]:
  """Trains the network of the settings on every kind of slices, and writes a file and a table.

  Args:
    title: Name of the stage and its file.
    runs: Settings of each kind and the folder whose data.json names its prepared slices.
    usual: The kind that the settings of the run give.
    folder: Folder for the file and a copy of the genotype.

  Returns:
    All kinds, the best first, and the scores of each. Test patients take no part.

  Raises:
    InputError: If every training diverged, or the folder has trainings of another genotype.
    Stopped: If a signal asks to stop; the trainings under way are saved.
  """
  config, _ = runs[usual]
  timed = _time(runs, folder / f'{title}.json') if title == 'sizes' else {}
  _keep_genotype(Path(config.genotype), folder)
  steps = max(short_trainings.count_epoch_steps(*run) for run in runs.values())
  made = {name: _make_job(*run, folder / GENOTYPE, steps) for name, run in runs.items()}
  jobs.run_all(config, [*made.values()], title)
  scores = {name: short_trainings.read_scores([Path(job.place)]) for name, job in made.items()}
  ranked = sorted(runs, key=lambda name: (-choice.mean(scores[name]), name != usual))
  if not (top := scores[ranked[0]]):
    raise InputError(
      f'{folder}: the training of every one of the {title} diverged; lower retrain.learning_rate, '
      f'which is {config.retrain.learning_rate:g}, and remove the folder'
    )
  found = []
  for name in ranked:
    (settings, place), own = runs[name], scores[name]
    behind = choice.compare(top, own) if own else None
    found.append(
      Slicing(
        slice_axis=settings.data.slice_axis,
        image_size=settings.data.image_size,
        slices=sum(case.slices for case in open_slices(place, settings).cases),
        steps=steps * made[name].config['retrain']['epochs'],
        timed=timed.get(name),
        validation_dsc=choice.mean(own) if own else None,
        behind=behind.mean if behind else None,
        behind_error=behind.error if behind and len(top) > 1 else None,
      )
    )
  records.write(folder / f'{title}.json', found)
  print('\n'.join(['', *format_table(found), '']), flush=True)
  return found, scores


def _time(runs: Runs, path: Path) -> dict[str, Timed]:
  """Returns the time of the network for slices of each size; {} without a runtime.

  Times of the file that an earlier call wrote stay.
  """
  kept = {one.image_size: one.timed for one in records.read_optional(path, Sizes) or ()}
  sizes = {name: config.data.image_size for name, (config, _) in runs.items()}
  found = {name: timed for name, size in sizes.items() if (timed := kept.get(size))}
  if found.keys() == runs.keys():
    return found
  networks = {}
  for name, (config, _) in runs.items():
    settings = config.copy_and_resolve_references()
    settings.cost.size = 0  # that of the slices, which is what differs
    networks[name] = settings, genotypes.load_any(config.genotype)
  return configured.time_in_turns(networks)


def format_table(found: Sequence[Slicing]) -> list[str]:
  """Formats a line for each kind of slices, the best first."""
  rows = [('slices', 'pixels', 'steps', 'ms', 'validation DSC, %', 'behind')]
  for number, one in enumerate(found):
    dsc = 'diverged' if one.validation_dsc is None else f'{100 * one.validation_dsc:.2f}'
    ms = '–' if one.ms is None else f'{one.ms:.2f}'
    behind = _format(one) if number else ''
    rows.append((f'{one.slices} {one.slice_axis}', one.pixels, f'{one.steps:,}', ms, dsc, behind))
  return tables.align(rows, left=1)


def advise_plane(planes: Sequence[Slicing], usual: str) -> str:
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


def advise_size(sizes: Sequence[Slicing], usual: str, chosen: str, *, whole: str = '') -> str:
  """Says in a sentence which size to take, the fastest one that is level with the best.

  `whole` is an option that goes with it.
  """
  own, taken = (
    next(one for one in sizes if str(one.image_size) == name) for name in (usual, chosen)
  )
  behind = '' if taken is sizes[0] else f', {_format(taken)} points behind the best'
  if taken is own:
    return f'{own.pixels} pixels, as this command draws them{behind}: none that is faster is level'
  faster = f' in {taken.ms / own.ms:.2f} of the milliseconds' if taken.ms and own.ms else ''
  dsc = 'diverged' if own.validation_dsc is None else f'has {100 * own.validation_dsc:.2f} %'
  return (
    f'{taken.pixels} pixels, by --config.data.image_size={chosen}{whole}: '
    f'{100 * (taken.validation_dsc or 0):.2f} %{faster}{behind}; {own.pixels}, as this command '
    f'draws them, {dsc}'
  )


def _format(one: Slicing) -> str:
  """Formats in points of DSC by how much one is behind the best."""
  if one.behind is None:
    return '–'
  error = '' if one.behind_error is None else f' ± {100 * one.behind_error:.2f}'
  return f'{100 * one.behind:.2f}{error}'


def _keep_genotype(path: Path, folder: Path) -> None:
  """Copies the genotype to a folder whose trainings have it; another one there is refused."""
  kept = folder / GENOTYPE
  if not kept.exists():
    files.write_text(kept, path.read_text(encoding='utf-8'))
  elif genotypes.load_any(kept) != genotypes.load_any(path):
    raise InputError(
      f'{kept}: another network than {path} was trained here; go back to it, or remove {folder}'
    )


def _make_job(config: ConfigDict, place: Path, genotype: Path, epoch_steps: int) -> Job:
  """Returns the training on the slices that a folder names, in a folder within it."""
  settings = config.copy_and_resolve_references()
  settings.genotype = str(genotype)
  settings.retrain.least_steps = epoch_steps  # else kinds with fewer slices train less
  settings.search.max_ms, settings.search.max_macs = 0.0, 0  # of a race
  (epochs,) = pace.plan_epochs(STEPS / epoch_steps, rungs=1, most=pace.longest(settings))
  short_trainings.set_length(settings, Length(epochs))
  return Job.make(settings, place, place / 'training')
