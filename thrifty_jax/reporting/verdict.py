"""The verdict on a run in at most four sentences: what was reached, and how far to trust it.

Every sentence has the figure that it rests on. The limits below are conventions, not tests: they
say where a person should look, and stand here to be read.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from thrifty_jax import words
from thrifty_jax.run_files import Evaluated, Retrained
from thrifty_jax.scores import tables

MOST = 4  # sentences
FEW_PATIENTS = 10  # below, an interval over the patients is too narrow and a mean hardly separates
NEAR_ZERO = 0.1  # DSC of a patient and class that was as good as missed
WORSE = 0.15  # DSC by which a class is behind the mean of the others
AHEAD = 0.05  # DSC by which validation is ahead of test: it chose the epoch

Rows = Sequence[Mapping[str, str]]


class Sentence(NamedTuple):
  """A sentence of the verdict."""

  mark: Literal['good', 'look', 'note']  # good news, what asks for a look, or what is to be known
  text: str


def judge(
  evaluated: Evaluated | None,
  retrained: Retrained | None,
  rows: Rows = (),
  *,
  floor: str = '',
  advice: str = '',
  listed: bool = False,
) -> tuple[Sentence, ...]:
  """Judges a run by its files; () without scores.

  Args:
    evaluated: Scores of the run.
    retrained: Result of its training, if it has one of its own.
    rows: Lines of evaluate/scores.csv.
    floor: Name of the best floor, '' without one.
    advice: Sentence about the network to take by a race, '' without one.
    listed: Whether lists of patients make the split, which then has no folds.

  Returns:
    What was reached, what asks for a look, the advice, and notes: MOST sentences at most.
  """
  if evaluated is None:
    return ()
  found = [*_reached(evaluated, floor)]
  if evaluated.mean.dsc is None:
    return tuple(found)
  looks = [
    *_missing(evaluated),
    *_near_zero(evaluated, rows),
    *_behind_validation(evaluated, retrained),
    *_uneven(evaluated),
    *_first_epoch(retrained),
  ]
  found += [Sentence('look', text) for text in looks]
  found += [Sentence('good', advice)] * bool(advice)
  found += [Sentence('note', text) for text in (*_few(evaluated, listed), *_last_epoch(retrained))]
  return tuple(found[:MOST])


def _reached(evaluated: Evaluated, floor: str) -> Iterator[Sentence]:
  """Yields what was reached, beside the best floor."""
  mean, of = evaluated.mean.dsc_mean, tables.count_patients(evaluated)
  if mean is None:
    yield Sentence('look', f'No class has a score: neither truths nor masks of {of} have any.')
    return
  ci95 = evaluated.mean.dsc.ci95 if evaluated.mean.dsc else None
  interval = f' (95% interval {" to ".join(map(_percent, ci95))})' if ci95 else ''
  reached = f'The mean DSC is {_percent(mean)} %{interval} on {of}'
  unseen = '' if evaluated.held_out else ', which chose the network: expect less of other patients'
  mark = 'good' if evaluated.held_out else 'look'
  if evaluated.floor_dsc is None or not floor:
    yield Sentence(mark, f'{reached}{unseen}.')
    return
  gain = 100 * (mean - evaluated.floor_dsc)
  beside = f'{floor}, with {_percent(evaluated.floor_dsc)} %'
  if gain <= 0:
    yield Sentence(
      'look', f'{reached}, no better than the best floor, {beside}. Do not use this network.'
    )
  else:
    yield Sentence(mark, f'{reached}{unseen}, {gain:.1f} points above the best floor, {beside}.')


def _missing(evaluated: Evaluated) -> Iterator[str]:
  """Yields which classes have no score."""
  if names := [name for name, figures in evaluated.classes.items() if figures.dsc is None]:
    yield (
      f'{", ".join(names)}: 0 of {evaluated.patients} {evaluated.split} patients have a score, so '
      'nothing is known about it.'
    )


def _near_zero(evaluated: Evaluated, rows: Rows) -> Iterator[str]:
  """Yields which patients have a class with a DSC near 0."""
  low = [row for row in rows if row['dsc'] and float(row['dsc']) < NEAR_ZERO]
  if not low:
    return
  names = list(dict.fromkeys(row['patient'] for row in low))
  some = words.list_some(names, 3)
  classes = ', '.join(dict.fromkeys(row['class'] for row in low))
  yield (
    f'{len(names)} of {evaluated.patients} patients {"has" if len(names) == 1 else "have"} a DSC '
    f'below {_percent(NEAR_ZERO, 0)} % in {classes} ({some}): look at their scans and masks.'
  )


def _few(evaluated: Evaluated, listed: bool) -> Iterator[str]:
  """Yields how few patients were scored."""
  count = evaluated.patients
  if count >= FEW_PATIENTS:
    return
  interval = evaluated.mean.dsc.ci95 if evaluated.mean.dsc else None
  wide = 'has no interval'
  if interval:
    width = 100 * (interval[1] - interval[0])
    wide = f'has an interval {width:.1f} points wide, which is still too narrow for so few'
  yield (
    f'{count} {evaluated.split} patient{"s" * (count != 1)} cannot separate similar networks: '
    f'the mean {wide}.'
    f'{"" if evaluated.of_folds or listed else " --folds=all scores every patient."}'
  )


def _behind_validation(evaluated: Evaluated, retrained: Retrained | None) -> Iterator[str]:
  """Yields by how much the validation patients did better."""
  mean = evaluated.mean.dsc_mean
  if retrained is None or mean is None or evaluated.protocol != 'volume':
    return
  if (gap := retrained.validation_dsc - mean) > AHEAD:
    yield (
      f'Validation patients have {_percent(retrained.validation_dsc)} %, {100 * gap:.1f} points '
      'more than test patients: the groups differ, or are small. Trust the lower figure.'
    )


def _uneven(evaluated: Evaluated) -> Iterator[str]:
  """Yields the class that is far behind the others."""
  known = {name: one.dsc_mean for name, one in evaluated.classes.items() if one.dsc}
  scores = {name: mean for name, mean in known.items() if mean is not None}
  if len(scores) < 2:
    return
  worst = min(scores, key=lambda name: scores[name])
  others = [mean for name, mean in scores.items() if name != worst]
  behind = sum(others) / len(others) - scores[worst]
  if behind > WORSE:
    yield (
      f'{worst} is far behind: {_percent(scores[worst])} %, {100 * behind:.1f} points below the '
      'mean of the other classes, which the mean DSC hides.'
    )


def _first_epoch(retrained: Retrained | None) -> Iterator[str]:
  """Yields whether nothing was gained after the first epoch."""
  if retrained and retrained.epochs > 1 and retrained.best_epoch == 1:
    yield (
      f'Epoch 1 of {retrained.epochs} was the best, the first one: lower retrain.learning_rate, or '
      'look at the masks.'
    )


def _last_epoch(retrained: Retrained | None) -> Iterator[str]:
  """Yields whether the last epoch was the best, as is common where the learning rate ends at 0."""
  if retrained and 1 < retrained.epochs == retrained.best_epoch:
    yield (
      f'Epoch {retrained.epochs} of {retrained.epochs} was the best, the last one: a longer '
      'training may be better (retrain.epochs or retrain.minutes).'
    )


def _percent(share: float, digits: int = 1) -> str:
  return f'{100 * share:.{digits}f}'
