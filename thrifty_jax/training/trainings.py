"""One of several trainings of a stage, each in a folder of its own."""

import shutil
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import files, logbook, records, stages
from thrifty_jax.data import data_file
from thrifty_jax.errors import NotFinite
from thrifty_jax.run_files import Retrained
from thrifty_jax.training import genotypes, retrain


def train(settings: ConfigDict, workdir: Path, place: Path) -> None:
  """Trains in a folder, on the slices of a run, unless that is done.

  A training that diverges leaves the file stages.DIVERGED instead of a model. An InputError is
  raised if the folder has a training with other settings.
  """
  stages.refuse_changes(settings, place, may_grow=False)  # all rivals have the same schedule
  genotypes.require_trainable(settings, place)
  data_file.pass_on(workdir, place, settings)
  if is_done(settings, place):
    drop_states(place)
    return
  logbook.say('training', str(place))
  (place / stages.DIVERGED).unlink(missing_ok=True)  # with other settings
  files.write_json(place / 'config.json', stages.to_json(settings))
  try:
    retrain.retrain(settings, place)
  except NotFinite as error:
    logbook.say('diverged', str(error))
    files.write_text(place / stages.DIVERGED, f'{error}\n')
  drop_states(place)


def drop_states(place: Path) -> None:
  """Removes the states of a training that is done, or what a killed process has left of them.

  Those of dozens of trainings, with both moments of the optimiser, would fill a disk.
  """
  shutil.rmtree(place / 'retrain' / 'checkpoints', ignore_errors=True)


def is_done(settings: ConfigDict, place: Path) -> bool:
  """Returns whether a folder has this training, to its end or until it diverged."""
  if not (place / 'config.json').exists() or stages.find_changes(stages.RETRAIN, settings, place):
    return False
  return stages.RETRAIN.is_done(place) or (place / stages.DIVERGED).exists()


def read(place: Path) -> Retrained | None:
  """Reads what the training in a folder came to; None if it diverged."""
  if (place / stages.DIVERGED).exists():
    return None
  return records.read(place / 'retrain' / 'summary.json', Retrained)
