"""What 8 bits cost the networks of a race, whose accuracy counts as it is in the time they have."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import logbook, model_folder, records, weights
from thrifty_jax.exporting import export_slices, onnx_network, quantise
from thrifty_jax.racing.choice import Scores
from thrifty_jax.run_files import InEightBits

FILE = 'int8.json'  # in the folder of a training


def score(places: Sequence[Path], *, tests: bool) -> InEightBits:
  """Quantises trainings of a network, once each, and returns their mean scores in 8 bits.

  Args:
    places: Folders of the trainings.
    tests: Whether the test patients are scored too.
  """
  found = [_score_training(place, tests=tests) for place in places]
  # A fold in which nobody has a score says nothing of what 8 bits cost.
  both = [one for one in found if None not in (one.validation_dsc, one.validation_dsc_float)]

  def average(of: Sequence[InEightBits], name: str) -> float | None:
    values = [getattr(one, name) for one in of]
    return None if None in values or not values else float(np.mean(values))

  return InEightBits(
    average(both, 'validation_dsc'),
    average(found, 'test_dsc'),
    tuple(one for each in found for one in each.weights_sha256),
    average(both, 'validation_dsc_float'),
  )


def _score_training(place: Path, *, tests: bool) -> InEightBits:
  """Returns the scores of a training in 8 bits, which its folder keeps for these weights."""
  path, now = place / FILE, weights.read(place)
  kept = records.read_optional(path, InEightBits)
  # Older versions wrote no score in float32, the oldest no weights.
  is_whole = kept and (kept.validation_dsc is None) == (kept.validation_dsc_float is None)
  if kept and is_whole and kept.weights_sha256 == now:
    return kept
  member = model_folder.load(place / 'model')
  content = onnx_network.to_onnx(member).SerializeToString()
  run = export_slices.open_run(place / 'model')
  if not tests:
    run = run._replace(patients={**run.patients, 'test': ()})
  found = quantise.quantise_model(member, content, run)
  logbook.say('int8', f'{place}: {found}')
  scores = InEightBits(found.validation_dsc, found.test_dsc, now, found.validation_dsc_float)
  records.write(path, scores)
  return scores


def judge(name: str, own: Scores, found: InEightBits) -> Scores:
  """Returns the scores that count for a network that is fastest in 8 bits.

  Where these cost more than quantise.LOSS, they are lower by as much, and a line says so.

  Args:
    name: Name of the network.
    own: Its scores in float32.
    found: Its scores in 8 bits.
  """
  if own is None or found.loss <= quantise.LOSS:
    return own
  logbook.say(
    'int8',
    f'{name} loses {100 * found.loss:.2f} points of validation DSC in 8 bits, which it is timed '
    'in, and counts with so much less',
  )
  return {patient: dsc - found.loss for patient, dsc in own.items()}
