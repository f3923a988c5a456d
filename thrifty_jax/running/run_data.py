"""The data of a run: the slices recorded in its data.json, else the raw scans.

Only check and prepare look at raw scans, once for all folds. A run with recorded slices continues
with them, even if the scans have moved or changed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.data import data_file, split_file, splits
from thrifty_jax.data.data_file import Record
from thrifty_jax.errors import InputError
from thrifty_jax.running import readiness
from thrifty_jax.running.command_line import Command
from thrifty_jax.settings import FOLDS

if TYPE_CHECKING:
  from data_prep.data_sets import Scans

_STAGES = (stages.COMPARE, stages.FRONT, *stages.SLICINGS, stages.CHECK, stages.PREPARE)
_LOOK = ('all', *(stage.name for stage in _STAGES))
_DESCRIBED = {
  'data.classes',
  'data.modalities',
  'data.context',
  'data.image_size',
}  # read by a network


def fill_in(commands: Sequence[Command]) -> list[Command]:
  """Returns the commands of all folds with the fields that their data determines filled in.

  These are the split if there is a splits.json, the fields that a config leaves to the data, and
  the raw scans if they are needed. It is an InputError if a setting is invalid or differs from that
  of the run so far, if there are neither recorded slices nor scans, or if these are insufficient or
  differ from those of the run so far.
  """

  @functools.cache
  def look() -> 'Scans':
    from data_prep import data_sets  # its file readers take a second to import

    return data_sets.find(commands[0].config)

  return [_fill_in(command, look) for command in commands]


def fill_in_network(command: Command) -> None:
  """Fills in, in place, the fields of a network that the config leaves to the prepared data."""
  _start(command.config, command.workdir)
  if not _DESCRIBED.isdisjoint(configs.left_to_data(command.config)):
    data_file.fill_in(command.config, data_file.require(command.workdir), command.workdir)


def split_of(config: ConfigDict, scans: 'Scans') -> dict[str, tuple[str, ...]]:
  """Training, validation and test patients; {} if files without a partner leave too few.

  Too few patients otherwise, and lists in the config that do not fit, are an InputError.
  """
  if not scans.unpaired:
    return _split(config, scans.classes_of_patients(config))
  try:
    return _split(config, scans.patients)
  except InputError:
    return {}


def is_checked(command: Command) -> bool:
  """Whether slices of this data by these settings are prepared, and its external set is checked."""
  if command.scans is None:
    return True
  from data_prep import prepare

  # Scans with files that lack a partner are never prepared; the check lists them.
  scans = command.scans
  if scans.unpaired or not prepare.prepared_dir(command.config, scans).is_dir():
    return False
  return not scans.external or scans.contents.checked == scans.digest_with_external


def _fill_in(command: Command, look: Callable[[], 'Scans']) -> Command:
  config, workdir = command.config.copy_and_resolve_references(), command.workdir
  found = ()
  if split_file.honour(config, workdir):
    found = (('split', f'as in {workdir / split_file.FILE}, not by folds and lists'),)
  found += _start(config, workdir)
  command = dataclasses.replace(command, config=config, found=found)
  record, filled = data_file.read(workdir), config.copy_and_resolve_references()
  if record:
    data_file.fill_in(filled, record, workdir)
  is_filled = not configs.left_to_data(filled)
  if is_filled:
    _require_possible(command, filled)  # before any scan is looked at
  if command.stage == stages.REPORT.name:
    readiness.require(stages.REPORT, filled, workdir)
    if not is_filled:
      data_file.require(workdir)
    return dataclasses.replace(command, config=filled)
  if command.stage in (stages.CHECK.name, stages.PREPARE.name):
    return _look_at(command, record, look)
  try:
    patients = _recorded_patients(config, workdir)
  except InputError as error:
    if command.stage not in _LOOK:
      raise
    return _look_at(command, record, look, why=f'{error} ' if record else '')
  split_file.require_patients(workdir, patients)
  split_file.require_split(workdir, _split(filled, patients))
  return dataclasses.replace(command, config=filled)


def _start(config: ConfigDict, workdir: Path) -> tuple[tuple[str, str], ...]:
  """Fills in, in place, what the model of retrain.start_from decides, see start_model.fill_in."""
  if not config.retrain.start_from:
    return ()
  from thrifty_jax.training import start_model  # imports JAX, which takes a second or two

  return start_model.fill_in(config, workdir)


def _recorded_patients(config: ConfigDict, workdir: Path) -> dict[str, set[int]]:
  """Returns the patients of the recorded slices, which must be there and made by this config."""
  record = data_file.require(workdir)
  if changed := data_file.find_differences(config, record, workdir):
    raise InputError(
      f'{workdir / data_file.FILE}: the slices were prepared by other settings: '
      f'{", ".join(changed)}; go back to them, or run --stage=prepare first'
    )
  _, patients = data_file.find(workdir, record, config)
  return patients


def _look_at(
  command: Command, record: Record | None, look: Callable[[], 'Scans'], *, why: str = ''
) -> Command:
  """Returns the command with the fields that the raw scans determine filled in.

  `why` is the reason why the data prepared before, which `record` describes, cannot be used.
  """
  from data_prep import data_sets

  config, workdir = command.config, command.workdir
  try:
    scans = look()
  except InputError as error:
    raise InputError(f'{why}{error}') from error
  if not scans.unpaired:
    split_file.require_patients(workdir, scans.patients)
  split = split_of(config, scans)
  if not scans.unpaired:
    split_file.require_split(workdir, split)
  found = data_sets.resolve(config, scans, split.get('train', ()))
  _require_possible(command, config)
  if command.stage != stages.CHECK.name:
    _require_same_scans(record, scans, workdir, data_sets.raw_dir(config))
  return dataclasses.replace(command, scans=scans, found=(*found, *command.found))


def _require_same_scans(
  record: Record | None, scans: 'Scans', workdir: Path, raw_dir: Path
) -> None:
  """Refuses other scans than those on which anything in the workdir was trained."""
  # A new run may lie around folders of others, such as that of its teacher.
  is_new = record is None and not (workdir / 'config.json').exists()
  if not (begun := stages.find_begun(workdir, beside=not is_new)):
    return
  if record is None:
    raise InputError(
      f'{workdir / data_file.FILE}: there is no such file, but {begun[0]} began on the scans that '
      'it named; put it back, or use another --workdir'
    )
  if record.settings.get('raw_files') != scans.digest:
    raise InputError(
      f'{workdir}: {begun[0]} began on other scans than lie in {raw_dir} now; put those back, or '
      'use another --workdir'
    )


def _require_possible(command: Command, config: ConfigDict) -> None:
  """Refuses changed settings and an impossible genotype or limit before hours of work."""
  if command.stage in [stage.name for stage in stages.SLICINGS]:  # in folders of their own
    return
  workdir = command.workdir
  stages.refuse_changes(config, workdir)
  first = stages.RETRAIN if config.genotype else stages.SEARCH
  readiness.require(first, config, workdir)


def _split(config: ConfigDict, patients: splits.Patients) -> dict[str, tuple[str, ...]]:
  split = splits.assign(config, patients)
  if configs.searches_cells(config):
    splits.search_halves(split['train'])  # refuses too few
  if config.retrain.teacher == FOLDS:
    splits.teaching_folds(split['train'], {}, config.data.folds)  # likewise
  return split
