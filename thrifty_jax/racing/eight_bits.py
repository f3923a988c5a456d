"""What 8 bits cost the networks of a race: their time counts only if their accuracy stays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thrifty_jax import logbook, model_folder, records, weights
from thrifty_jax.exporting import export_slices, onnx_network, quantise
from thrifty_jax.racing.choice import Scores
from thrifty_jax.racing.timing import Stopwatch
from thrifty_jax.run_files import InEightBits

FILE = 'int8.json'  # in the folder of a training


def score(places: Sequence[Path], *, tests: bool) -> InEightBits:
  """Quantises trainings of a network, once each, and returns their mean scores in 8 bits.

  Args:
    places: Folders of the trainings.
    tests: Whether the test patients are scored too.
  """
  found = [_score_training(place, tests=tests) for place in places]

  def average(name: str) -> float | None:
    values = [getattr(one, name) for one in found]
    return None if None in values else float(np.mean(values))

  checksums = tuple(one for each in found for one in each.weights_sha256)
  dsc, dsc_float = average('validation_dsc'), average('validation_dsc_float')
  return InEightBits(dsc, average('test_dsc'), checksums, dsc_float)


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


def judge(watch: Stopwatch, scores: Mapping[str, Scores], name: str, found: InEightBits) -> Scores:
  """Returns the scores that count for a network, by what 8 bits cost it.

  Where that is more than quantise.LOSS, the network counts from here on with its fastest way in
  float32, and a line says so; timed in 8 bits alone, it counts with a DSC that is lower by as much.

  Args:
    watch: The times of the race.
    scores: Scores of all networks.
    name: Name of the network, whose fastest way has 8 bits.
    found: Its scores in 8 bits.
  """
  own = scores[name]
  if own is None or found.loss <= quantise.LOSS:
    return own
  before = watch.best(name)
  if watch.leave_8_bits(name):
    now = watch.best(name)
    what = f'{now.ms:.2f} ms in {now.runtime} {now.precision}, not {before.ms:.2f} ms in 8 bits'
  else:
    own = {patient: dsc - found.loss for patient, dsc in own.items()}
    what = f'{before.ms:.2f} ms in 8 bits, in which alone it was timed, with the DSC that is left'
  logbook.say(
    'int8',
    f'{name} loses {100 * found.loss:.2f} points of validation DSC in 8 bits, more than '
    f'{100 * quantise.LOSS:g}: it counts with {what}',
  )
  return own
