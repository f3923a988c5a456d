"""The section of a race: the sentence, the picture, the table; damaged and missing files."""

import dataclasses
import json
from typing import Any

import fabricated
import pytest

from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.racing import entrants, front
from thrifty_jax.reporting import fronts, report
from thrifty_jax.run_files import Raced


def raced(name, ms, dsc, **changes):
  values: dict[str, Any] = {
    'name': name, 'title': 'half 8 16 add', 'source': 'drawn', 'space': 'lean', 'parameters': 1234,
    'macs': 5_000_000, 'ms': ms, 'ms_spread': 0.03, 'runtime': 'onnxruntime', 'precision': 'int8',
    'threads': 1, 'size': 256, 'file_bytes': 4096, 'machine': 'a processor', 'rung': 3,
    'epochs': 8, 'validation_dsc': dsc, 'validation_ci95': None if dsc is None else (dsc, dsc),
    'chosen': False, 'budgets_ms': (), 'knee': False, 'genotype': f'search/genotypes/{name}.json',
    'folder': f'search/{name}/rung_3', **changes,
  }  # fmt: skip
  return Raced(**values)


def chosen(name, ms, dsc, budget, **changes):
  return raced(name, ms, dsc, chosen=True, budgets_ms=(budget,), **changes)


FAST, TAKEN, BEST = (
  chosen('fast', 1.5, 0.80, 2.0),
  chosen('taken', 4.0, 0.852, 5.0, knee=True),
  chosen('best', 40.0, 0.856, 50.0),
)


def test_the_sentence_says_what_the_next_faster_and_the_next_better_one_cost():
  said = fronts.write_sentence([FAST, TAKEN, BEST])
  taken = (
    'Take taken, a lean network (half 8 16 add): 4.0 ms a slice of 256 x 256 pixels and 85.2 %'
  )
  assert said.startswith(taken)
  assert 'the next faster one, fast, takes 1.5 ms and is 5.2 points worse' in said
  assert 'the next better one, best, takes 40.0 ms and is 0.4 points better' in said
  assert fronts.write_sentence([TAKEN]).endswith('85.2 % DSC on the validation patients.')
  assert f' ms a window of {TAKEN.size} x {TAKEN.size} pixels and ' in fronts.write_sentence(
    [TAKEN], 'window'
  )


def test_a_rival_that_is_better_after_a_full_training_is_told_though_it_was_not_chosen():
  rival = raced('rival', 4.5, 0.83, source='unet', full=('front/rival',), full_validation_dsc=0.862)
  said = fronts.write_sentence([FAST, TAKEN, raced('early', 4.2, 0.9), rival])
  assert said.endswith('the next better one, rival, takes 4.5 ms and is 1.0 points better.')
  quick = dataclasses.replace(rival, ms=3.0)
  said = fronts.write_sentence([FAST, quick, TAKEN])
  assert said.endswith('the next faster one, rival, takes 3.0 ms and is 1.0 points better.')


def test_a_narrow_unet_that_wins_is_called_one():
  said = fronts.write_sentence([dataclasses.replace(TAKEN, source='unet')])
  assert 'Take taken, a narrow U-Net' in said and 'A narrow U-Net wins' in said
  narrow = dataclasses.replace(TAKEN, source='unet')
  for other in (BEST, raced('level', 9.0, 0.853)):  # it was taken as it is faster
    assert 'wins' not in fronts.write_sentence([narrow, other])


def write(workdir, found, folder='search'):
  records.write(workdir / folder / 'front.json', found)
  for number, one in enumerate(found):
    genotype.save(workdir / one.genotype, entrants.list_known()[number].genotype)


def page_of(workdir):
  return report.report(workdir).read_text(encoding='utf-8')


def test_the_page_has_the_picture_the_tables_and_each_chosen_network(tmp_path):
  early, lost = raced('early', 3.0, 0.7, rung=1), raced('lost', 3.5, None)
  write(tmp_path, [FAST, early, lost, TAKEN, BEST])
  page = page_of(tmp_path)
  assert 'The race' in page and 'narrow U-Net' not in page
  for text in (
    '1 networks that left earlier',
    'diverged',
    'taken: half 8 16 add',
    '85.20',
    '50 ms',
  ):
    assert text in page
  assert 'test DSC' not in page  # nothing is scored
  assert page.count('batch norm; down by max pool') == 3


def test_test_scores_appear_once_there_are_some_and_both_fronts_are_shown(tmp_path):
  write(tmp_path, [TAKEN])
  scored = dataclasses.replace(
    TAKEN, full=('front/taken/full/seed_0',), full_validation_dsc=0.873, test_dsc=0.867,
    test_ci95=(0.85, 0.88), int8_test_dsc=0.866,
  )  # fmt: skip
  write(tmp_path, [scored, dataclasses.replace(BEST, source='unet')], folder='front')
  page = page_of(tmp_path)
  assert 'The race' in page and 'The front' in page and 'narrow U-Net' in page
  for text in ('87.30', '86.70', '86.60', '85.00 to 88.00', 'test DSC'):
    assert text in page
  assert 'and 87.3 % DSC on the validation patients' in page  # after the full training


def test_a_front_alone_is_what_its_page_begins_with(tmp_path):
  assert 'This run has no scores yet' in page_of(tmp_path)
  write(tmp_path, [FAST, TAKEN], folder='front')
  page = page_of(tmp_path)
  assert f'<p class="lede">{fronts.write_sentence([FAST, TAKEN])}' in page
  assert page.count('Take taken') == 1 and 'no scores yet' not in page


def test_a_front_of_a_config_of_cells_is_a_race_and_misses_no_other_stage(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start',))
  write(tmp_path, [FAST, TAKEN], folder='front')
  page = page_of(tmp_path)
  assert '<h1>Lean network on brain</h1>' in page and 'Which network segments' in page
  assert 'found by a search' not in page and '<h2>Search</h2>' not in page
  assert 'Not there' not in page


def test_budgets_are_those_of_the_race_and_named_where_they_have_no_network(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(fronts, 'draw', lambda *_, budgets, **__: drawn.append(budgets) or '')
  settings = {'front': {'budgets_ms': [1.0, 2.0]}}  # of a later command
  files.write_json(tmp_path / 'config.json', settings)
  write(tmp_path, [TAKEN])  # as of older versions
  write(tmp_path, [FAST, TAKEN], folder='front')
  files.write_json(tmp_path / 'front' / front.BUDGETS, [1.0, 1.5, 2.0, 5.0])
  assert page_of(tmp_path).count('there is no network') == 1
  assert '; for 1, 1.5 ms there is no network' in page_of(tmp_path)
  assert drawn[:2] == [[5.0], [1.0, 1.5, 2.0, 5.0]]


def test_a_front_says_that_full_trainings_choose_and_on_whom(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start',))
  full = dataclasses.replace(TAKEN, full=('front/taken/full/seed_0',), full_validation_dsc=0.873)
  write(tmp_path, [FAST, full], folder='front')
  page = page_of(tmp_path)  # also where it is not scored
  assert 'trained in full</th>' in page and '87.30' in page and 'Diamonds' not in page
  fabricated.fabricate(tmp_path / full.full[0], stages=('evaluate',))
  write(tmp_path, [FAST, dataclasses.replace(full, test_dsc=0.867)], folder='front')
  page = page_of(tmp_path)
  assert 'chooses for each budget, on 1 patient (fold 0 of 5)' in page
  assert 'test DSC of full trainings, on 5 patients, who chose nothing' in page


def test_networks_that_score_the_same_are_as_good():
  level = dataclasses.replace(FAST, validation_dsc=0.8524)
  assert fronts.write_sentence([level, TAKEN]).endswith('fast, takes 1.5 ms and is as good.')


def test_a_genotype_that_is_gone_leaves_its_picture_out(tmp_path):
  records.write(tmp_path / 'front' / 'front.json', [FAST, TAKEN])
  assert 'The front' in page_of(tmp_path)


@pytest.mark.parametrize('field', ['ms', 'validation_dsc', 'genotype', 'rung'])
def test_a_damaged_front_is_an_error_that_names_the_place(tmp_path, field):
  write(tmp_path, [TAKEN])
  path = tmp_path / 'search' / 'front.json'
  (content,) = json.loads(path.read_text())
  path.write_text(json.dumps([content | {field: ['nothing']}]))
  with pytest.raises(InputError, match=rf'front\.json: .*{field}'):
    report.report(tmp_path)
