"""The teacher that a config names by its kind: what teaches is trained before its pupil.

A baseline, or the folds: networks like the pupil, each of which leaves out another part of the
training patients, who choose its weights. Nobody who validates or tests in the run is among them.
"""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import logbook, stages
from thrifty_jax.data import data_file, splits
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines
from thrifty_jax.settings import SETTINGS, TEACHERS
from thrifty_jax.training import trainings
from thrifty_jax.training.teacher import FOLDS, list_places

_SHARE = SETTINGS['retrain.teacher_share'].default


def require_possible(config: ConfigDict, workdir: Path) -> None:
  """Refuses folds that teach where a run has fewer training patients than folds (InputError)."""
  if config.retrain.teacher == FOLDS:
    _divide(config, workdir)


def train(config: ConfigDict, workdir: Path) -> None:
  """Trains the networks of the teacher that config.retrain.teacher names, each once.

  All learn by the recipe of the run. A baseline is as wide as the paper's, with group norms, and
  learns from the patients of the run. A model that the config names is left alone.

  Raises:
    InputError: If a training diverged, or there are fewer training patients than folds.
  """
  if config.retrain.teacher not in TEACHERS:
    return
  for place, told, settings in _list_trainings(config, workdir):
    if not trainings.is_done(settings, place):
      logbook.say('teacher', told)
    trainings.train(settings, workdir, place)
    if trainings.read(place) is None:
      raise InputError(
        f'{place}: the training of the teacher diverged; lower retrain.learning_rate, or name a '
        'model as --config.retrain.teacher'
      )


def _list_trainings(config: ConfigDict, workdir: Path) -> Iterator[tuple[Path, str, ConfigDict]]:
  """Yields the folder of each training, what is said of it, and its settings."""
  name, places = config.retrain.teacher, list_places(config, workdir)
  if name != FOLDS:
    settings = _without_pupil(config, places[0])
    configs.set_model(settings, name)
    settings.model.update({'deep_supervision': False, 'width': baselines.WIDTH, 'norm': 'group'})
    yield places[0], f'a {name} is trained first', settings
    return
  parts, strangers = _divide(config, workdir)
  for number, (place, part) in enumerate(zip(places, parts, strict=True), start=1):
    settings = _without_pupil(config, place)
    if configs.has_genotype(config):
      settings.genotype = str(stages.find_genotype(config, workdir))
    lists = {'validation_patients': tuple(part), 'test_patients': strangers, 'hold_out_test': True}
    settings.data.update(lists)
    told = f'network {number} of {len(parts)}, whose weights {len(part)} training patients choose'
    yield place, told, settings


def _without_pupil(config: ConfigDict, place: Path) -> ConfigDict:
  """Returns the settings of a run without those that are meant for the pupil alone."""
  settings = config.copy_and_resolve_references()
  settings.retrain.teacher = settings.data.unlabelled = settings.genotype = ''
  settings.retrain.update({'start_from': '', 'freeze_levels': 0, 'teacher_share': _SHARE})
  # A run that is made longer keeps a teacher that is done.
  settings.retrain.epochs = stages.RETRAIN.read_planned(place) or config.retrain.epochs
  return settings


def _divide(config: ConfigDict, workdir: Path) -> tuple[list[list[str]], tuple[str, ...]]:
  """Returns the training patients of a run, dealt to folds, and who validates or tests in it."""
  folds = config.data.folds
  _, patients = data_file.find(workdir, data_file.require(workdir), config)
  training = splits.assign(config, patients)['train']
  if len(training) < folds:
    raise InputError(
      f'config.retrain.teacher is {FOLDS!r}, which deals the {len(training)} training patients to '
      f'{folds} folds (config.data.folds); expected one for each or more: add scans, or name '
      'another teacher'
    )
  return splits.deal(training, patients, folds), tuple(sorted({*patients} - {*training}))
