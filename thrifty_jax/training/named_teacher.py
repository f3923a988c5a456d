"""The teacher that a config names by its kind, a baseline: it is trained before its pupil."""

from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import logbook, stages
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines
from thrifty_jax.settings import SETTINGS, TEACHERS
from thrifty_jax.training import trainings
from thrifty_jax.training.teacher import FOLDER

_SHARE = SETTINGS['retrain.teacher_share'].default


def train(config: ConfigDict, workdir: Path) -> None:
  """Trains the baseline that config.retrain.teacher names into <workdir>/teacher, once.

  It is as wide as the paper's, with group norms, and learns from the patients of the run by its
  recipe. A model that the config names is left alone.

  Raises:
    InputError: If its training diverged.
  """
  name, place = config.retrain.teacher, workdir / FOLDER
  if name not in TEACHERS:
    return
  settings = config.copy_and_resolve_references()
  settings.retrain.teacher = settings.data.unlabelled = settings.genotype = ''
  # Nor are these meant for it; a run that is made longer keeps a teacher that is done.
  settings.retrain.update({'start_from': '', 'freeze_levels': 0, 'teacher_share': _SHARE})
  settings.retrain.epochs = stages.RETRAIN.read_planned(place) or config.retrain.epochs
  configs.set_model(settings, name)
  settings.model.update({'deep_supervision': False, 'width': baselines.WIDTH, 'norm': 'group'})
  if not trainings.is_done(settings, place):
    logbook.say('teacher', f'a {name} is trained first')
  trainings.train(settings, workdir, place)
  if trainings.read(place) is None:
    raise InputError(
      f'{place}: the training of the teacher diverged; lower retrain.learning_rate, or name a '
      'model as --config.retrain.teacher'
    )
