"""Short trainings that compare networks or slices: their patients, length and scores."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from thrifty_jax.data import batching, splits
from thrifty_jax.data.batching import Examples
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.racing.choice import Scores
from thrifty_jax.training import trainings

_NEVER = 1_000_000  # epochs between two validations, so that the last one alone has one


class Length(NamedTuple):
  """How long trainings are that are compared.

  Attributes:
    epochs: Epochs of each; where minutes count, those of a network of middling size.
    minutes: Minutes of each, the validation included, however many epochs these are; 0 where epochs
      count.
  """

  epochs: int
  minutes: float = 0.0


def list_folds(config: ConfigDict, workdir: Path) -> list[dict[str, tuple[str, ...]]]:
  """Returns the lists of patients of every fold of a race, none of which has a test patient.

  The first fold validates on the patients of the run's own split, each further one on as many of
  its training patients, in turn.
  """
  split = splits.assign(config, open_slices(workdir, config).classes_of_patients)
  parts = config.data.folds - 1
  if config.front.folds > parts:
    raise InputError(
      f'config.front.folds is {config.front.folds}; expected at most {parts}, one less than '
      'data.folds, as test patients take no part'
    )
  validated = [split['validation']]
  validated += [split['train'][first :: parts - 1] for first in range(config.front.folds - 1)]
  if not all(validated):
    raise InputError(
      f'config.front.folds is {config.front.folds}, and {len(split["train"])} patients train; '
      'lower it, or add scans'
    )
  return [
    {'validation_patients': tuple(names), 'test_patients': split['test']} for names in validated
  ]


def count_epoch_steps(config: ConfigDict, workdir: Path) -> int:
  """Returns the steps of an epoch."""
  prepared = open_slices(workdir, config)
  split = splits.assign(config, prepared.classes_of_patients)
  slices = len(Examples(prepared, prepared.cases_of(split['train'])).drawn)
  retrain = config.retrain
  return batching.steps_per_epoch(
    slices, retrain.batch_size, least=retrain.least_steps, most=retrain.most_steps
  )


def set_length(settings: ConfigDict, length: Length) -> None:
  """Sets, in place, a schedule of this length, which is scored at its end alone."""
  retrain = settings.retrain
  retrain.epochs, retrain.minutes = length
  if length.minutes:
    retrain.validate_every = _NEVER
  else:
    retrain.validate_every = length.epochs
    retrain.warmup_epochs = min(retrain.warmup_epochs, (length.epochs + 3) // 6)
  retrain.patience = 0
  retrain.teacher = settings.data.unlabelled = ''  # it knows patients who validate in other folds


def read_scores(places: Iterable[Path]) -> Scores:
  """Returns the scores of the patients of all folds; None if a training diverged."""
  scores: dict[str, float] = {}
  for place in places:
    trained = trainings.read(place)
    if trained is None:
      return None
    scores |= {one.patient: one.dsc for one in trained.patients}
  return scores
