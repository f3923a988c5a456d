"""Scores in 8 bits of the trainings of a race: taken once for these weights, tests left out."""

import types
from typing import Any

import pytest

from thrifty_jax import files, records
from thrifty_jax.racing import eight_bits
from thrifty_jax.run_files import InEightBits


@pytest.fixture
def quantised(monkeypatch):
  """Stand-ins for the model and its scores; lists the patients of each quantisation."""
  found: list[Any] = []
  content = types.SimpleNamespace(SerializeToString=lambda: b'')
  run = eight_bits.export_slices.RunData(
    types.SimpleNamespace(),  # pyrefly: ignore
    {'train': ('a',), 'validation': ('b',), 'test': ('c',)},
  )

  def quantise_model(member, content, run):
    found.append(run.patients)
    test = 0.6 if run.patients['test'] else None
    dsc = 0.7 if 'first' in member.as_posix() else 0.8
    return types.SimpleNamespace(validation_dsc=dsc, test_dsc=test, validation_dsc_float=0.81)

  monkeypatch.setattr(eight_bits.model_folder, 'load', lambda place: place)
  monkeypatch.setattr(eight_bits.onnx_network, 'to_onnx', lambda member: content)
  monkeypatch.setattr(eight_bits.export_slices, 'open_run', lambda place: run)
  monkeypatch.setattr(eight_bits.quantise, 'quantise_model', quantise_model)
  return found


def leave(place, weights):
  """Leaves a model with such weights."""
  checksums = {'sha256': {'weights.safetensors': weights}}
  files.write_json(place / 'model' / 'checksums.json', checksums)


def test_a_training_is_scored_once_for_its_weights(quantised, tmp_path):
  expected = InEightBits(0.8, 0.6, ('one',), 0.81)
  for count, weights in ((1, 'one'), (1, 'one'), (2, 'other')):
    leave(tmp_path, weights)
    found = eight_bits.score([tmp_path], tests=True)
    assert (found.validation_dsc, found.test_dsc) == (0.8, 0.6)
    assert found.weights_sha256 == (weights,) and len(quantised) == count
  leave(tmp_path, 'one')
  for older in (InEightBits(0.7, 0.6), InEightBits(0.7, 0.6, ('one',))):
    records.write(tmp_path / eight_bits.FILE, older)
    assert eight_bits.score([tmp_path], tests=True) == expected
  assert len(quantised) == 4


def test_several_trainings_have_their_mean_and_test_patients_only_if_asked(quantised, tmp_path):
  places = [tmp_path / 'first', tmp_path / 'second']
  for place in places:
    leave(place, place.name)
  found = eight_bits.score(places, tests=False)
  assert found.validation_dsc == pytest.approx(0.75)
  assert found.loss == pytest.approx(0.06)
  assert found.test_dsc is None and found.weights_sha256 == ('first', 'second')
  assert [each['test'] for each in quantised] == [(), ()]


def test_a_fold_in_which_nobody_has_a_score_hides_no_loss_of_another(tmp_path, monkeypatch):
  scores = [InEightBits(0.7, 0.6, ('a',), 0.75), InEightBits(None, 0.6, ('b',), None)]
  monkeypatch.setattr(eight_bits, '_score_training', lambda place, tests: scores.pop())
  assert eight_bits.score([tmp_path, tmp_path], tests=True).loss == pytest.approx(0.05)


def test_without_a_score_nothing_is_lost():
  assert InEightBits(None, None).loss == InEightBits(0.5, None).loss == 0
