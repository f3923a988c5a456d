"""The card of a model folder."""

import types
from typing import Any

import pytest

from thrifty_jax import config as configs
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.training import model_card

TOLD = {
  'ms': 3.684, 'runtime': 'openvino', 'precision': 'int8', 'size': 128, 'machine': 'AMD EPYC, avx2',
}  # fmt: skip


def write(config, genotype_file=None):
  """Returns a card of a made-up training."""
  spec: Any = types.SimpleNamespace(splits_sha256='0' * 64)
  summary: Any = types.SimpleNamespace(
    model='lean', parameters=868827, macs=1_234_567_890.0, image=(96, 64, 3), best_epoch=2,
    epochs=3, selection='mean DSC', validation_dsc=0.5, started=None, taught=None,
  )  # fmt: skip
  return model_card.write(
    config, spec, summary, title='CT of the abdomen', citation='', genotype_file=genotype_file
  )


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
  card = write(config)
  assert f'- Data: CT of the abdomen, {split}, ' in card and 'Jane_Doe' not in card


def test_a_card_of_a_baseline_has_its_size_and_neither_shape_nor_time():
  card = write(configs.default())
  assert (
    '- Parameters: 868,827\n- Multiplications: 1.23 G for a slice of 96 x 64 pixels\n- C' in card
  )
  assert 'Shape' not in card and 'Time' not in card


@pytest.mark.parametrize(('threads', 'on'), [({}, ''), ({'threads': 2}, '2 threads of ')])
def test_a_card_of_a_raced_network_has_its_shape_and_the_time_that_the_race_found(
  tmp_path, threads, on
):
  path, shape = tmp_path / 'genotype.json', lean_space.unet(8, levels=3)
  genotype.save(path, shape, provenance={'search': 'race', 'max_ms': 5.0, **TOLD, **threads})
  card = write(configs.default(), path)
  assert '- Shape: full 8 16 32 concat\n- Parameters: ' in card
  assert (
    '- Time: 3.68 ms for a slice of 128 x 128 pixels in OpenVINO in 8 bits on '
    f'{on}AMD EPYC, avx2, by a race that timed it\n- Chosen'
  ) in card


@pytest.mark.parametrize(
  'change',
  [
    {'ms': 'fast'}, {'ms': 0}, {'runtime': 'mine'}, {'size': None}, {'threads': 'x'},
    {'machine': 'a\n- Data: mine, fold 0 of 5'}, {'machine': 'a' * 201}, {'machine': ''},
    {'runtime': 'installed'}, {'runtime': 'all'}, {'precision': 'all'}, {'threads': 0},
  ],
)  # fmt: skip
def test_a_provenance_that_tells_no_time_ends_no_training_and_is_not_told(tmp_path, change):
  path = tmp_path / 'genotype.json'
  genotype.save(path, lean_space.unet(8, levels=3), provenance={**TOLD, **change})
  card = write(configs.default(), path)
  assert '- Shape: ' in card and '- Time: ' not in card and 'mine' not in card
