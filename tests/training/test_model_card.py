"""The card of a model folder."""

import types
from typing import Any

import pytest

from thrifty_jax import config as configs
from thrifty_jax.training import model_card


@pytest.mark.parametrize(
  ('lists', 'split'),
  [
    ((), 'fold 0 of 5'),
    (('validation', 'test'), 'validation and test patients by lists'),
    (('test',), 'test patients by lists, the others by fold 0 of 5'),
  ],
)
def test_a_card_says_what_split_the_patients_and_names_nobody(lists, split):
  config = configs.default()
  config.data.update({f'{part}_patients': ('Jane_Doe',) for part in lists})
  spec: Any = types.SimpleNamespace(splits_sha256='0' * 64)
  summary: Any = types.SimpleNamespace(
    model='lean', parameters=1, best_epoch=2, epochs=3, selection='mean DSC', validation_dsc=0.5,
    started=None, taught=None,
  )  # fmt: skip
  card = model_card.write(config, spec, summary, title='CT of the abdomen', citation='')
  assert f'- Data: CT of the abdomen, {split}, ' in card and 'Jane_Doe' not in card
