"""The teacher that a config names by its kind: what teaches is trained before its pupil.

A baseline, or the folds: networks like the pupil, each of which leaves out another part of the
training patients, who choose its weights. Nobody who validates or tests in the run is among them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import logbook, stages, words
from thrifty_jax.data import data_file, split_file, splits
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines
from thrifty_jax.settings import FOLDS, SETTINGS, TEACHERS
from thrifty_jax.training import trainings
from thrifty_jax.training.teacher import FOLDER, list_places

_SHARE = SETTINGS['retrain.teacher_share'].default


def train(config: ConfigDict, workdir: Path) -> None:
  """Trains the networks of the teacher that config.retrain.teacher names, each once.

  All learn by the recipe of the run. A baseline is as wide as the paper's, with group norms, and
  learns from the patients of the run. A model that the config names is left alone.

  Raises:
    InputError: If a training diverged, there are fewer training patients than folds, the folder of
      the teacher holds another one, or the run began to learn from one that is gone.
  """
  if config.retrain.teacher not in TEACHERS:
    return
  _refuse_others(config, workdir)
  patients = _find_patients(config, workdir)
  for place, told, settings in _list_trainings(config, workdir, patients):
    stages.refuse_changes(settings, place, may_grow=False)
    if not trainings.is_done(settings, place):
      if stages.RETRAIN.is_begun(workdir):
        raise InputError(
          f'{place}: there is no trained network any more, but the training in {workdir} began to '
          'learn from it; put it back, use another --workdir, or remove '
          f'{stages.name_folders(stages.RETRAIN, workdir)}'
        )
      logbook.say('teacher', told)
    trainings.train(settings, workdir, place)
    if trainings.read(place) is None:
      raise InputError(
        f'{place}: the training of the teacher diverged; lower retrain.learning_rate and remove '
        f'{workdir / FOLDER}, or name a model as --config.retrain.teacher'
      )
    (place / split_file.FILE).unlink(missing_ok=True)  # it may be of a training that was removed
    split_file.write(settings, place, splits.assign(settings, patients), patients)


def _refuse_others(config: ConfigDict, workdir: Path) -> None:
  """Refuses a folder of the teacher that holds models of another one."""
  expected = [place / 'model' for place in list_places(config, workdir)]
  folder, is_folds = workdir / FOLDER, config.retrain.teacher == FOLDS
  told = f' with {config.data.folds} folds' if is_folds else ''
  for found in sorted([*folder.glob('model'), *folder.glob('fold_*/model')]):
    if found not in expected:
      raise InputError(
        f'{found}: is a model of another teacher than {config.retrain.teacher!r}'
        f'{told}; use another --workdir, or remove {folder}'
      )


def _find_patients(config: ConfigDict, workdir: Path) -> dict[str, set[int]]:
  """Returns the patients of a run, and the foreground classes that each has."""
  _, patients = data_file.find(workdir, data_file.require(workdir), config)
  return patients


def _list_trainings(
  config: ConfigDict, workdir: Path, patients: dict[str, set[int]]
) -> Iterator[tuple[Path, str, ConfigDict]]:
  """Yields the folder of each training, what is said of it, and its settings."""
  name, places = config.retrain.teacher, list_places(config, workdir)
  common = _without_pupil(config, places)
  if name != FOLDS:
    configs.set_model(common, name)
    common.model.update({'deep_supervision': False, 'width': baselines.WIDTH, 'norm': 'group'})
    yield places[0], f'a {name} is trained first', common
    return
  if configs.has_genotype(config):
    common.genotype = str(stages.find_genotype(config, workdir))
  training = splits.assign(config, patients)['train']
  common.data.hold_out_test = True
  common.data.test_patients = tuple(sorted({*patients} - {*training}))
  parts = splits.teaching_folds(training, patients, config.data.folds)
  for number, (place, part) in enumerate(zip(places, parts, strict=True), start=1):
    settings = common.copy_and_resolve_references()
    settings.data.validation_patients = part
    told = f'network {number} of {len(parts)}, without {words.list_some(part)}'
    yield place, told, settings


def _without_pupil(config: ConfigDict, places: Sequence[Path]) -> ConfigDict:
  """Returns the settings of a run without those that are meant for the pupil alone."""
  settings = config.copy_and_resolve_references()
  settings.retrain.teacher = settings.data.unlabelled = settings.genotype = ''
  settings.retrain.update({'start_from': '', 'freeze_levels': 0, 'teacher_share': _SHARE})
  settings.evaluate.list_suspects, settings.trackers = False, ()
  # A run that is made longer keeps a teacher that is done, and networks are trained alike.
  planned = map(stages.RETRAIN.read_planned, places)
  settings.retrain.epochs = next(filter(None, planned), config.retrain.epochs)
  return settings
