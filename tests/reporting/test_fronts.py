"""The section of a race: the sentence, the picture, the table; damaged and missing files."""

import dataclasses
import json
from typing import Any

import fabricated
import matplotlib.axes
import numpy as np
import pytest

from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype
from thrifty_jax.racing import entrants, front, timing
from thrifty_jax.reporting import fronts, plots, report
from thrifty_jax.run_files import PatientScore, Raced, Retrained
from thrifty_jax.scores import statistics


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
    'Take taken, a lean network (half 8 16 add): 4.0 ms a slice of 256 x 256 pixels in ONNX '
    'Runtime in 8 bits, and 85.2 % DSC on the validation patients; '
  )
  assert said.startswith(taken)
  assert 'the next faster one, fast, takes 1.5 ms and is 5.2 points worse' in said
  assert 'the next better one, best, takes 40.0 ms and is 0.4 points better' in said
  assert fronts.write_sentence([TAKEN]).endswith('85.2 % DSC on the validation patients.')
  assert f' ms a window of {TAKEN.size} x {TAKEN.size} pixels in ' in fronts.write_sentence(
    [TAKEN], 'window'
  )


def test_milliseconds_have_their_runtime_and_the_dsc_is_told_in_8_bits_where_they_are():
  other = dataclasses.replace(FAST, runtime='openvino', precision='float32')
  in_8_bits = dataclasses.replace(TAKEN, int8_validation_dsc=0.8487)
  said = fronts.write_sentence([other, in_8_bits, BEST])
  assert (
    ' in ONNX Runtime in 8 bits, and 85.2 % DSC on the validation patients, 84.9 % in 8 bits;'
    in said
  )
  assert 'fast, takes 1.5 ms in OpenVINO in float32 and is' in said
  assert 'best, takes 40.0 ms and is' in said  # in the same way
  in_32_bits = dataclasses.replace(in_8_bits, precision='float32')  # 8 bits cost it too much
  assert 'in 8 bits' not in fronts.write_sentence([in_32_bits])


def test_a_rival_that_is_better_after_a_full_training_is_told_though_it_was_not_chosen():
  rival = raced('rival', 4.5, 0.83, source='unet', full=('front/rival',), full_validation_dsc=0.862)
  said = fronts.write_sentence([FAST, TAKEN, raced('early', 4.2, 0.9), rival])
  assert said.endswith('the next better one, rival, takes 4.5 ms and is 1.0 points better.')
  quick = dataclasses.replace(rival, ms=3.0)
  said = fronts.write_sentence([FAST, quick, TAKEN])
  assert said.endswith('the next faster one, rival, takes 3.0 ms and is 1.0 points better.')


def test_a_narrow_unet_that_is_taken_is_said_to_win_also_where_slower_ones_are_a_little_better():
  narrow = dataclasses.replace(TAKEN, source='unet')
  said = fronts.write_sentence([narrow])
  assert 'Take taken, a narrow U-Net' in said
  assert said.endswith(' A narrow U-Net wins: no other shape that raced is better.')
  said = fronts.write_sentence([narrow, BEST])
  assert said.endswith(
    ' A narrow U-Net wins: of the chosen ones that are nearly as good as the best it is the '
    'fastest.'
  )
  level = raced('level', 4.9, 0.853)  # which was not chosen, as it is slower
  for budgets, named in (((5.0,), 'budget'), ((5.0, 10.0), 'budgets')):
    said = fronts.write_sentence([dataclasses.replace(narrow, budgets_ms=budgets), level])
    assert said.endswith(
      f' A narrow U-Net wins: of those in the last rung and within its {named} that are level with '
      'the best it is the fastest.'
    )
  assert 'wins' not in fronts.write_sentence([dataclasses.replace(FAST, source='unet'), TAKEN])


def test_short_trainings_are_no_reason_where_full_ones_chose():
  narrow = dataclasses.replace(TAKEN, source='unet', full=('there',), full_validation_dsc=0.87)
  ahead = raced('ahead', 4.5, 0.9)  # in the race only
  said = fronts.write_sentence([narrow, ahead])
  assert said.endswith(' A narrow U-Net wins: no other shape that was trained in full is better.')
  level = dataclasses.replace(ahead, full=('elsewhere',), full_validation_dsc=0.871)
  said = fronts.write_sentence([narrow, level])
  assert said.endswith(
    ': of those trained in full and within its budget that are level with the best it is the '
    'fastest.'
  )


# --- the picture


@pytest.fixture
def dots(monkeypatch):
  """The dots that are drawn, as (ms, DSC in percent) to their style; and the ends of intervals."""
  found, ends = {}, {}
  scatter, plot = matplotlib.axes.Axes.scatter, matplotlib.axes.Axes.plot

  def note_dot(axes, x, y, **style):
    if not isinstance(x, list):  # those of the legend have no place
      found.setdefault((x, round(y, 6)), []).append(style)
    return scatter(axes, x, y, **style)

  def note_interval(axes, x, y, **style):
    ends[x[0]] = [round(end, 6) for end in y]
    return plot(axes, x, y, **style)

  monkeypatch.setattr(matplotlib.axes.Axes, 'scatter', note_dot)
  monkeypatch.setattr(matplotlib.axes.Axes, 'plot', note_interval)
  return found, ends


def train(workdir, place, scores, protocol='volume'):
  """Writes files of a full training with the DSC of its validation patients by name."""
  files.write_json(workdir / place / 'config.json', {'evaluate': {'protocol': protocol}})
  summary = Retrained(
    model='lean', parameters=1, macs=1, image=(8, 8, 1), genotype=None, epochs=1,
    planned_epochs=(1,), precision='float32', steps=1, best_epoch=1, largest_component=(),
    validation_dsc=float(np.mean([*scores.values()])), selection='', seconds=1,
    patients=tuple(PatientScore(*one) for one in scores.items()),
  )  # fmt: skip
  records.write(workdir / place / 'retrain' / 'summary.json', summary)


def test_dots_of_full_trainings_are_filled_and_at_their_dsc_and_all_others_are_hollow(
  tmp_path, dots
):
  places = tuple(f'front/taken/full/seed_{seed}' for seed in range(2))
  full = dataclasses.replace(TAKEN, full=places, full_validation_dsc=0.87)
  train(tmp_path, places[0], {'a': 0.80, 'b': 0.90, 'c': 0.95})
  train(tmp_path, places[1], {'a': 0.84, 'b': 0.88, 'c': 0.85})
  rival = raced('rival', 6.0, 0.83, validation_ci95=(0.81, 0.85))
  early = raced('early', 3.0, 0.7, rung=1, validation_ci95=(0.6, 0.8))
  write(tmp_path, [early, full, rival], folder='front')
  page = page_of(tmp_path)
  found, ends = dots
  assert sorted(found) == [(3.0, 70.0), (4.0, 87.0), (6.0, 83.0)]
  dot, ring = found[4.0, 87.0]
  assert dot['color'] == plots.ACCENT and dot['alpha'] == 1 and ring['facecolors'] == 'none'
  for place, opacity in (((6.0, 83.0), 1.0), ((3.0, 70.0), 0.35)):
    (dot,) = found[place]
    assert dot['facecolors'] == plots.GROUND and dot['edgecolors'] == plots.ACCENT
    assert dot['alpha'] == opacity
  means = np.array([0.82, 0.89, 0.90])  # over the seeds
  of_full = [100 * end for end in statistics.bootstrap_interval(means) or ()]
  assert ends == {4.0: pytest.approx(of_full), 6.0: pytest.approx([81, 85])}
  for text in (
    '>trained in full</text>',
    '>in the race only</text>',
    'trained in full, with 95&nbsp;% intervals over these patients. Hollow: the others, over the '
    'validation patients of all folds, after the 8 epochs of the last rung, with 95&nbsp;% '
    'intervals. Faint and hollow: networks that left before rung 3, after shorter trainings and '
    'without an interval. The race',
  ):
    assert text in page
  assert '>test patients</text>' not in page


def test_without_full_trainings_every_dot_is_filled_and_at_the_dsc_of_the_race(tmp_path, dots):
  write(tmp_path, [raced('early', 3.0, 0.7, rung=1), raced('lost', 3.5, None), TAKEN])
  page = page_of(tmp_path)
  found, ends = dots
  assert sorted(found) == [(3.0, 70.0), (4.0, 85.2)] and list(ends) == [4.0]
  assert (
    'DSC of the validation patients of all folds after 8 epochs, with 95&nbsp;% intervals, against'
  ) in page
  assert ' Faint: networks that left before rung 3, after shorter trainings and without an' in page
  assert 'facecolors' not in found[3.0, 70.0][0] and found[3.0, 70.0][0]['alpha'] == 0.35
  assert 'ollow' not in page and 'trained in full' not in page and 'race only' not in page


def test_trainings_of_a_race_for_a_time_are_told_by_their_minutes(tmp_path):
  write(tmp_path, [dataclasses.replace(one, epochs=2, minutes=1.6) for one in (FAST, TAKEN)])
  page = page_of(tmp_path)
  assert 'of all folds after 1 min 36 s, with' in page and 'epochs' not in page
  assert '<th>rung<br>minutes</th>' in page and '3<span class="interval">1.6</span>' in page


@pytest.mark.parametrize('is_gone', [True, False])
def test_full_trainings_that_are_gone_or_whose_dsc_is_no_mean_over_patients_have_no_interval(
  tmp_path, dots, is_gone
):
  full = dataclasses.replace(TAKEN, full=('front/taken/full/seed_0',), full_validation_dsc=0.85)
  write(tmp_path, [full], folder='front')
  if not is_gone:  # the DSC is pooled over slices, and here it is that mean by chance
    train(tmp_path, full.full[0], {'a': 0.80, 'b': 0.90}, protocol='pooled_2d')
  assert 'Filled: networks that were trained in full. The race' in page_of(tmp_path)
  assert not dots[1]


def test_intervals_are_claimed_only_of_full_trainings_that_have_one(tmp_path, dots):
  of_all = [
    dataclasses.replace(one, full=(f'front/{one.name}/full/seed_0',), full_validation_dsc=0.85)
    for one in (FAST, TAKEN)
  ]
  write(tmp_path, of_all, folder='front')
  train(tmp_path, of_all[0].full[0], {'a': 0.80, 'b': 0.90})
  page = page_of(tmp_path)
  told = 'with 95&nbsp;% intervals over these patients'
  assert f'{told} where their files are there. The race' in page and [*dots[1]] == [FAST.ms]
  train(tmp_path, of_all[1].full[0], {'a': 0.80, 'b': 0.90})
  assert f'{told}. The race' in page_of(tmp_path)


def test_hollow_dots_are_in_the_legend_and_explained_only_where_there_are_some(tmp_path, dots):
  full = dataclasses.replace(TAKEN, full=('front/taken/full/seed_0',), full_validation_dsc=0.87)
  lost, early = raced('lost', 3.5, None), raced('early', 3.0, 0.7, rung=1)
  write(tmp_path, [lost, full], folder='front')
  page = page_of(tmp_path)
  assert '>trained in full</text>' in page
  assert 'ollow' not in page and 'Faint' not in page and 'in the race only' not in page
  write(tmp_path, [early, lost, full], folder='front')
  page = page_of(tmp_path)
  assert '>in the race only</text>' in page and 'Hollow: ' not in page
  assert (
    'Faint and hollow: networks that left before rung 3, over the validation patients of all '
    'folds, after shorter trainings and without an interval.'
  ) in page


def test_kinds_of_networks_and_of_trainings_differ_in_the_legend(tmp_path, monkeypatch):
  labels = {}
  scatter = matplotlib.axes.Axes.scatter

  def note(axes, x, y, **style):
    if 'label' in style:
      labels[style['label']] = (style.get('color') or style['edgecolors'], 'color' in style)
    return scatter(axes, x, y, **style)

  monkeypatch.setattr(matplotlib.axes.Axes, 'scatter', note)
  full = dataclasses.replace(
    TAKEN, source='genotype', full=('front/taken/full/seed_0',), full_validation_dsc=0.87
  )
  write(tmp_path, [FAST, dataclasses.replace(BEST, source='unet'), full], folder='front')
  page_of(tmp_path)
  assert len(labels) == 5 and len({*labels.values()}) == 5


def test_what_the_choice_can_be_checked_by_is_named_where_it_is_there(tmp_path):
  write(tmp_path, [TAKEN])
  assert 'race.json' not in page_of(tmp_path)
  files.write_json(tmp_path / 'search' / 'race.json', {})
  assert 'is in <code>search/race.json</code>.</p>' in page_of(tmp_path)
  files.write_json(tmp_path / 'search' / timing.COSTS, [])
  told = 'is in <code>search/race.json</code>; the times are in <code>search/costs.json</code>.</p>'
  assert told in page_of(tmp_path)


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
    '50&nbsp;ms',
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
  assert ', and 87.3 % DSC on the validation patients' in page  # after the full training
  assert '>test patients</text>' in page


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


@pytest.mark.parametrize('model', ['thrifty', 'lean'])
def test_the_time_of_a_network_is_told_beside_a_front_unless_its_own_race_has_it(tmp_path, model):
  fabricated.fabricate(tmp_path, stages=('start', 'retrain', 'evaluate'))
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_json(path, files.read_json(path) | {'model': model})
  told = {name: getattr(TAKEN, name) for name in ('ms', 'runtime', 'precision', 'size', 'machine')}
  shape = entrants.list_known()[0].genotype
  genotype.save(tmp_path / 'model' / 'genotype.json', shape, provenance=told)
  write(tmp_path, [FAST, TAKEN], folder='front')
  line = '<p>4.00 ms for a slice of 256 × 256 pixels in ONNX Runtime in 8 bits on a processor, by '
  assert (line in page_of(tmp_path)) == (model == 'thrifty')


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
