"""Which weights a run has, alone or in folds, and which of them were scored."""

import pytest

from thrifty_jax import files, weights
from thrifty_jax.errors import InputError


def save(run, digest):
  files.write_json(run / 'model' / 'checksums.json', {'sha256': {'weights.safetensors': digest}})


def score(run, *digests):
  files.write_json(run / 'evaluate' / 'summary.json', {'weights_sha256': [*digests]})


def test_scores_are_old_once_the_model_has_other_weights(tmp_path):
  assert weights.read(tmp_path) == () and not weights.has_old_scores(tmp_path)
  score(tmp_path, 'one')
  assert not weights.has_old_scores(tmp_path)  # without a model nobody knows
  save(tmp_path, 'one')
  assert weights.read(tmp_path) == ('one',) and not weights.has_old_scores(tmp_path)
  save(tmp_path, 'other')
  assert weights.has_old_scores(tmp_path)
  files.write_json(tmp_path / 'model' / 'checksums.json', {'sha256': {}})
  assert weights.read(tmp_path) == () and not weights.has_old_scores(tmp_path)
  save(tmp_path, 'other')
  score(tmp_path)  # as older versions did
  assert not weights.has_old_scores(tmp_path)


def test_scores_of_folds_are_old_once_one_of_these_has_other_weights(tmp_path):
  score(tmp_path, 'a', 'b')
  for fold, digest in enumerate('abc'):  # the third is not scored yet
    save(tmp_path / f'fold_{fold}', digest)
  assert weights.read(tmp_path) == ('a', 'b', 'c') and not weights.has_old_scores(tmp_path)
  score(tmp_path, 'a', 'b', 'c', 'd')  # the fourth is not there
  assert not weights.has_old_scores(tmp_path)
  save(tmp_path / 'fold_1', 'other')
  assert weights.has_old_scores(tmp_path)


def test_damaged_checksums_are_one_line(tmp_path):
  files.write_json(tmp_path / 'model' / 'checksums.json', {'sha256': 3})
  with pytest.raises(InputError, match=r'checksums\.json: sha256 is 3, expected an object'):
    weights.read(tmp_path)
