"""The report, from files alone."""

import base64
import html.parser
import io
import json
import re

import fabricated
import numpy as np
import pytest
from PIL import Image

from thrifty_jax import files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.networks.space import CELL_KINDS
from thrifty_jax.reporting import patients as page_patients
from thrifty_jax.reporting import plots, report
from thrifty_jax.run_files import EXTERNAL, Evaluated
from thrifty_jax.scans import overlays
from thrifty_jax.scores import tables


class Page(html.parser.HTMLParser):
  """Ids, addresses and the nesting of a page."""

  VOID = {'meta', 'link', 'br', 'img', 'input', 'hr'}

  def __init__(self, text):
    super().__init__()
    self.ids, self.addresses, self.open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.ids += [attrs['id']] if 'id' in attrs else []
    self.addresses += [attrs[name] for name in ('src', 'href', 'xlink:href') if name in attrs]
    self.open += [tag] if tag not in self.VOID else []

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    self.open.pop() if tag not in self.VOID else None

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  fabricated.fabricate(workdir)
  return report.report(workdir).read_text(encoding='utf-8')


def test_the_report_states_score_floor_parameters_and_warning(whole):
  for text in ('93.12', '90.00', '605,280', 'research use only', 'it proves nothing'):
    assert text in whole
  assert 'Not there' not in whole


def test_figures_of_the_retraining_are_written_for_people(whole):
  for title, value in (
    ('validation DSC', '92.50 %'),
    ('time', '2 min 01 s'),
    ('largest component', 'none'),
    ('planned epochs', '10, 20'),
  ):
    assert f'<dt>{title}</dt><dd>{value}</dd>' in whole


def test_the_scores_have_distances_intervals_and_what_was_missed(whole):
  for text in ('6.25 ± 0.01', '87.50 ± 1.20', '-3.50 ± 0.01', '91.12 to 94.12', 'within 2&nbsp;mm'):
    assert text in whole
  assert 'white was missed in 1 scan' in whole and 'grey was' not in whole


@pytest.mark.parametrize(
  ('name', 'value', 'told'),
  [
    ('nsd_tolerance_mm', None, 'nsd_tolerance_mm is None, expected a number; the file is damaged'),
    ('dsc_std', 'x', "dsc_std is 'x', expected a number"),
    ('classes', {'grey': 1}, 'classes.grey is 1, expected an object'),
    ('cases', [{'case': '../x', 'patient': 'p'}], 'expected a name that a file can have'),
    ('slices', {'test': 1}, "has no slices, or no score of a floor, of 'train'"),
  ],
)
def test_a_summary_of_another_form_is_one_line_with_the_place(tmp_path, name, value, told):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_json(path, files.read_json(path) | {name: value})
  with pytest.raises(InputError, match=re.escape(told)):
    report.report(tmp_path)


def test_the_papers_table_stands_beside_scores_of_its_data_and_says_what_it_is(whole, tmp_path):
  assert 'Beside the paper' not in whole
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_json(path, files.read_json(path) | {'data': 'promise12'})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  for text in ('7.76M', '96.12', '82.85', '9.04M', '95.89', '85.56', '0.61M', '96.21', '87.69'):
    assert text in page
  assert 'pooled over all validation slices' in page and 'the split was by slice' in page


def test_the_page_needs_nothing_but_itself(whole):
  page = Page(whole)
  assert not page.open
  assert page.addresses
  assert all(address.startswith(('data:image/png', '#')) for address in page.addresses)
  assert not re.search(r'@import|url\((?!#)', whole)


def test_no_id_is_there_twice_and_none_is_missing(whole):
  page = Page(whole)
  assert len(page.ids) == len(set(page.ids))
  used = set(re.findall(r'url\(#([^)]+)\)', whole))
  used |= {address[1:] for address in page.addresses if address.startswith('#')}
  assert used <= set(page.ids)


def test_no_colour_of_a_plot_is_fixed_to_one_scheme(whole):
  assert '#0a0' not in whole
  for svg in re.findall(r'<svg.*?</svg>', whole, re.DOTALL):
    colours = set(re.findall(r'(?:fill|stroke|color): *(#[0-9a-f]{3,6})', svg))
    assert not colours & {'#000000', '#ffffff', '#000', '#fff'}


def test_the_network_is_drawn_with_its_scores_and_its_grid(whole, tmp_path):
  for text in ('in0', 'node2', 'up_dil_conv_3x3', 'down_0_3', 'up_3_0', 'head'):
    assert f'>{text}</text>' in whole
  assert 'up_4_0' not in whole  # depth 4
  assert len(re.findall(r'>\d\.\d\d</text>', whole)) == 8 and 'its score' in whole
  fabricated.fabricate(tmp_path, stages=('search',))  # without the settings the depth is not known
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert '>node2</text>' in text and '>up_1_0</text>' not in text


def test_the_page_sets_every_colour_of_its_pictures_for_both_schemes(whole):
  light, dark = re.findall(r':root \{(.*?)\}', whole, re.DOTALL)
  for used in set(re.findall(r'var\((--(?:op|cell)-[\w-]+)', whole)):
    assert f'{used}:' in light and f'{used}:' in dark


def test_the_same_files_give_the_same_page(tmp_path, whole):
  fabricated.fabricate(tmp_path)
  assert report.report(tmp_path).read_text(encoding='utf-8') == whole


def test_an_empty_folder_gives_a_page_that_names_every_missing_file(tmp_path):
  text = report.report(tmp_path).read_text(encoding='utf-8')
  for name in ('search/metrics.jsonl', 'search/genotype.json', 'retrain/summary.json'):
    assert name in text
  assert 'evaluate/summary.json' in text and 'environment.json' in text
  assert [path.name for path in tmp_path.iterdir()] == ['report.html']


@pytest.mark.parametrize('stage', ['start', 'search', 'retrain', 'evaluate'])
def test_each_stage_shows_without_the_others(tmp_path, stage):
  fabricated.fabricate(tmp_path, stages=(stage,))
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert text.count('Not there') >= 3
  Page(text)


def test_a_search_that_is_not_done_has_its_curves_and_no_genotype(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start', 'search'))
  (tmp_path / 'search' / 'genotype.json').unlink()
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert 'search/genotype.json' in text
  Page(text)


def test_a_damaged_file_is_refused(tmp_path):
  files.write_text(tmp_path / 'retrain' / 'summary.json', '{"model":')
  with pytest.raises(InputError, match='summary.json'):
    report.report(tmp_path)


def test_names_from_the_data_are_text_not_markup(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_text(
    path, path.read_text(encoding='utf-8').replace('Demonstration', '<script>x()</script>')
  )
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<script>x()' not in text and '&lt;script&gt;x()' in text


def test_a_baseline_has_no_search_section(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start', 'retrain', 'evaluate'))
  for name in ('evaluate/summary.json', 'retrain/summary.json'):
    files.write_text(
      tmp_path / name, (tmp_path / name).read_text(encoding='utf-8').replace('thrifty', 'unet')
    )
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<h1>U-Net on brain</h1>' in text
  assert 'Not there' not in text and '<h2>Search</h2>' not in text


def test_best_median_and_worst_are_ranked_by_their_scores(tmp_path):
  fabricated.fabricate(tmp_path)
  content = report.gather(tmp_path)
  shown = [(viewer['which'], viewer['patient']) for viewer in content['viewers']]
  assert shown == [('best', 'p1'), ('median', 'p3'), ('worst', 'p5')]


@pytest.mark.parametrize(
  ('patients', 'expected'),
  [(['p2'], [('only', 'p2')]), (['p2', 'p4'], [('best', 'p2'), ('worst', 'p4')])],
)
def test_few_patients_are_shown_once_each(tmp_path, patients, expected):
  fabricated.fabricate(tmp_path)
  rows = [row for row in report.gather(tmp_path)['rows'] if row['patient'] in patients]
  summary = records.read(tmp_path / 'evaluate' / 'summary.json', Evaluated)
  shown = page_patients.draw_patients(tmp_path, summary, rows)
  assert [(viewer['which'], viewer['patient']) for viewer in shown] == expected


def test_a_comparison_has_its_table_instead_of_the_papers_alone(tmp_path):
  fabricated.fabricate(tmp_path)
  folder = tmp_path / 'compare'
  rivals, scores = [], ['rival,fold,patient,class,dsc']
  for name, label, kind, dsc in (
    ('thrifty', 'Searched', 'searched', 0.84),
    ('random_1', 'Random 1', 'random', 0.82),
    ('random_2', 'Random 2', 'random', 0.80),
    ('unet', 'U-Net', 'baseline', 0.85),
  ):
    difference = None if name == 'thrifty' else dsc - 0.84
    rivals.append(fabricated.rival(name, label=label, kind=kind, dsc=dsc, difference=difference))
    scores += [f'{name},0,{patient},prostate,{dsc}' for patient in fabricated.PATIENTS]
  records.write(folder / 'summary.json', fabricated.compared(*rivals))
  files.write_text(folder / 'scores.csv', '\n'.join(scores) + '\n')
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<h3>Beside the paper</h3>' not in text and '<h2>Comparison</h2>' in text
  table = text[text.index('<h2>Comparison</h2>') :]
  assert 'reach 81.00&nbsp;% on average, the searched one 3.0 points more' in table
  row = re.search(r'<tr><td>U-Net</td>.*', table)
  assert row and all(f in row[0] for f in ('4.57', '85.00', '+1.00', '96.12', '82.85'))
  assert not Page(text).open


def test_scores_of_earlier_weights_are_left_out_with_a_line(tmp_path, capsys):
  fabricated.fabricate(tmp_path)
  path, external = (tmp_path / name / 'summary.json' for name in ('evaluate', EXTERNAL))
  checksums = {'sha256': {'weights.safetensors': 'now'}}
  files.write_json(tmp_path / 'model' / 'checksums.json', checksums)
  summary = files.read_json(path)
  for weights, shown in (('now', True), ('before', False)):
    files.write_json(path, summary | {'weights_sha256': [weights]})
    if not shown:  # nor is the rest of these read
      files.write_json(external, {'weights_sha256': [weights]})
    page = report.report(tmp_path).read_text(encoding='utf-8')
    found = ('93.12' in page, 'All 10 scores' in page, bool(report.judge(tmp_path)))
    assert found == (shown,) * 3
    assert ('trained anew since; run --stage=evaluate' in capsys.readouterr().out) != shown


def test_several_folds_lead_to_their_own_reports(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  of_fold = {'dsc_mean': 0.91, 'pooled_2d_dsc': 0.9, 'parameters': 600000, 'largest_component': []}
  folds = [of_fold | {'fold': 0}, of_fold | {'fold': 2}]
  files.write_json(path, files.read_json(path) | {'fold': [0, 2], 'of_folds': folds})
  text = report.report(tmp_path).read_text(encoding='utf-8')
  assert 'folds 0, 2 of 5' in text and '<h2>Search</h2>' not in text
  assert {'fold_0/report.html', 'fold_2/report.html'} <= set(Page(text).addresses)


def test_folds_say_in_how_many_the_largest_piece_counts_and_whether_there_was_a_search(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  of_fold = {'dsc_mean': 0.91, 'pooled_2d_dsc': 0.9, 'parameters': 600000}
  folds = [of_fold | {'fold': k, 'largest_component': ['grey'] * (k > 0)} for k in range(3)]
  change = {'fold': [0, 1, 2], 'of_folds': folds, 'largest_component': ['grey']}
  files.write_json(path, files.read_json(path) | change)
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert 'Of grey in 2 of 3 folds only the largest connected piece' in page
  assert 'Each fold has its own search, training and report' in page and 'Architectures,' in page
  config = files.read_json(tmp_path / 'config.json')
  files.write_json(tmp_path / 'config.json', config | {'genotype': 'x.json'})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert 'Each fold has its own training and report' in page
  assert '<h2>Trainings</h2>' in page and 'searches' not in page


def test_lists_of_patients_are_no_fold(tmp_path):
  fabricated.fabricate(tmp_path)
  config = files.read_json(tmp_path / 'config.json')
  for lists, told in (
    ((), 'fold 0 of 5.'),
    (('test',), 'test patients by lists, the others by fold 0 of 5.'),
    (('validation', 'test'), 'validation and test patients by lists.'),
  ):
    data = config['data'] | {f'{name}_patients': ['p1'] for name in lists}
    files.write_json(tmp_path / 'config.json', config | {'data': data})
    page = report.report(tmp_path).read_text(encoding='utf-8')
    assert f'<code>volume</code>, {told}' in page and ('--folds=all' in page) != bool(lists)


def test_where_nothing_can_be_scored_a_dash_is_no_percentage(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  summary = files.read_json(path)
  nothing = {name: None for name in summary if name.startswith('dsc_')}
  one = summary['classes']['grey'] | nothing | {'scored': 0}
  files.write_json(path, summary | nothing | {'classes': dict.fromkeys(summary['classes'], one)})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<b>–</b><span>volume DSC' in page and '– %' not in page
  assert 'over those of 5 test patients who have a score' in page
  assert 'gets no score: grey is scored in 0 of 5 patients' in page


def test_time_memory_device_and_multiplications_are_told(whole):
  for text in ('4.57 G', 'a slice of 256 × 256', '1 h 02 min', '4.00 GiB', 'CPU with 2 cores'):
    assert text in whole


def test_a_given_network_has_the_milliseconds_that_its_race_found(whole, tmp_path):
  fabricated.fabricate(tmp_path, stages=('start', 'retrain', 'evaluate'))
  told = {'ms': 3.684, 'runtime': 'openvino', 'precision': 'int8', 'size': 128, 'threads': 1}
  for machine, is_told in (('AMD 2 x EPYC, 2 cores', True), (7, False)):
    provenance = {'search': 'race', **told, 'machine': machine}
    shape = lean_space.unet(8, levels=3)
    genotype.save(tmp_path / 'model' / 'genotype.json', shape, provenance=provenance)
    page = report.report(tmp_path).read_text(encoding='utf-8')
    tile = (
      '<b>3.68 ms</b><span>a slice of 128 × 128 in OpenVINO in 8 bits, by a race that timed it'
      '</span>'
    )
    line = (
      '<p>3.68 ms for a slice of 128 × 128 pixels in OpenVINO in 8 bits on 1 thread of AMD 2 x '
      'EPYC, 2 cores, by a race that timed it.</p>'
    )
    in_float32 = '</b><span>volume DSC (float32), 5 test patients</span>'
    assert (tile in page, line in page, in_float32 in page) == (is_told,) * 3
    assert 'full 8 16 32 concat, from <code>model/genotype.json</code>' in page
    Page(page)
  assert '</b><span>a slice of' not in whole  # no race


def test_a_provenance_that_is_no_object_is_left_out(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start', 'retrain', 'evaluate'))
  path = tmp_path / 'model' / 'genotype.json'
  genotype.save(path, lean_space.unet(8, levels=3))
  files.write_json(path, files.read_json(path) | {'provenance': 'by hand'})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert 'full 8 16 32 concat, from' in page and 'Where this structure comes from' not in page


def test_multiplications_have_three_digits_at_least():
  found = [tables.format_macs(count) for count in (4.568e9, 187.65e6, 18.765e6, 1876)]
  assert found == ['4.57 G', '188 M', '18.8 M', '1.88 k']


def test_the_health_of_the_search_is_told(whole):
  assert 'of the genotype in epoch 20 of 30' in whole
  assert '% of the kept edges' in whole


def test_the_weights_of_chosen_operations_are_plotted_and_those_of_others_are_damage(tmp_path):
  fabricated.fabricate(tmp_path, stages=('start', 'search'))
  path = tmp_path / 'search' / 'metrics.jsonl'
  chosen = ('identity', 'conv_3x3', 'se', 'down_conv_3x3', 'up_conv_3x3', 'up_se_conv_3x3')
  counts = {'down': (1, 1, 1, 1, 3), 'up': (3, 2, 3, 2, 3)}
  lines = [json.loads(text) for text in path.read_text(encoding='utf-8').splitlines()]
  for line in lines:
    line |= {f'{kind}_alphas': [[1 / n] * n for n in counts[kind]] for kind in CELL_KINDS}
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(InputError, match='the weights are not those of cells'):
    report.report(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text(encoding='utf-8'))
  files.write_json(tmp_path / 'config.json', config | {'search': {'operations': chosen}})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  legends = re.findall(r'<ul class="legend">.*?</ul>', page)
  assert any('se_conv' in legend for legend in legends)
  assert not any('dil_conv' in legend for legend in legends)
  assert 'operations 100 → 100 %' in page  # of the edges that have a choice
  files.write_json(tmp_path / 'config.json', config | {'search': {'operations': ['x']}})
  with pytest.raises(InputError, match="names 'x', which is no operation"):
    report.report(tmp_path)


def test_several_searches_have_a_table_that_says_which_was_picked(tmp_path, whole):
  fabricated.fabricate(tmp_path, stages=('search',))
  searches = [
    {'seed': seed, 'architecture_dsc': dsc, 'parameters': 605280, 'epochs': 30 - seed}
    for seed, dsc in ((3, 0.8123), (4, 0.8234))
  ]
  files.write_json(tmp_path / 'search' / 'seeds.json', {'picked': 4, 'searches': searches})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<tr><td>3</td><td>81.23</td><td>605,280</td><td>27</td></tr>' in page
  assert '<tr class="ours"><td>4, picked</td><td>82.34</td>' in page
  assert 'Several searches' not in whole
  Page(page)


def test_difference_tells_missed_invented_and_wrong_class():
  truth = np.array([[1, 0, 1, 2, 0]], np.uint8)
  prediction = np.array([[0, 1, 2, 2, 0]], np.uint8)
  assert overlays.draw_difference(prediction, truth).tolist() == [[1, 2, 3, 0, 0]]


def test_outlines_are_the_pixels_that_touch_another_class():
  label = np.zeros((5, 5), np.uint8)
  label[1:4, 1:4] = 1
  expected = np.zeros((5, 5), int)
  expected[1:4, 1:4] = 1 + len(overlays.CLASS_COLOURS)
  expected[2, 2] = 1
  np.testing.assert_array_equal(overlays.outline(label), expected)


def test_chosen_slices_cover_the_structure_and_are_few():
  truth = np.zeros((100, 4, 4), np.uint8)
  truth[30:90, 1, 1] = 1
  chosen = overlays.choose_slices(truth, np.zeros_like(truth))
  assert (chosen[0], chosen[-1], len(chosen)) == (29, 90, overlays.SLICES)
  assert len(set(chosen)) == len(chosen)


def test_a_scan_without_any_structure_is_shown_too():
  empty = np.zeros((3, 4, 4), np.uint8)
  assert overlays.choose_slices(empty, empty).tolist() == [0, 1, 2]


def test_long_curves_are_thinned_and_keep_their_last_value():
  curve = plots.Curve('x', list(range(5000)), [None, *range(4999)])
  x, y = plots._thinned(curve)
  assert len(x) == plots.POINTS
  assert (x[0], y[0], x[-1], y[-1]) == (1, 0, 4999, 4998)


def test_slices_in_colours_are_kept_and_borders_have_a_rim(tmp_path):
  image = np.full((1, 20, 30, 3), (0.8, 0.4, 0.1), np.float16)
  label = np.zeros((1, 20, 30), np.uint8)
  label[0, 5:10, 5:10] = 1
  overlays.write(tmp_path / 'case.npz', image, label, label)
  frames = overlays.frames(tmp_path / 'case.npz')
  shown, truth = (
    np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[0].split(',')[1]))).convert('RGBA'))
    for uri in (frames['image'], frames['truth'])
  )
  assert shown.shape == (20, 30, 4) and shown[0, 0].tolist() == [204, 102, 25, 255]
  assert truth[4, 6].tolist() == [0, 0, 0, overlays.FILL] and truth[0, 0, 3] == 0
  overlays.write(tmp_path / 'grey.npz', image[..., 0], label, label)
  assert overlays.frames(tmp_path / 'grey.npz')['total'] == 1
  overlays.write(tmp_path / 'two.npz', image[..., :2], label, label)
  with pytest.raises(InputError, match='different shapes'):
    overlays.frames(tmp_path / 'two.npz')


def test_colours_are_those_of_pictures_alone():
  image = np.zeros((1, 4, 5, 3))
  assert overlays.pick_channels(image, unit='pixels').shape == (1, 4, 5, 3)
  assert overlays.pick_channels(image, unit='mm').shape == (1, 4, 5)
  assert overlays.pick_channels(image[..., :2], unit='pixels').shape == (1, 4, 5)
  for most, white in ((0.7, 1), (90, 255), (255, 255)):
    assert overlays.colour_limits(np.array([0, most])) == (0, white)
  deep = np.append(np.linspace(0, 4000, 1000), 65535)
  assert overlays.colour_limits(deep)[1] == pytest.approx(4000, rel=0.01)


def test_the_verdict_is_at_the_top_in_words(whole):
  top = whole[: whole.index('<h2>')]
  assert '<li class="good"><b>✓ Good</b> The mean DSC is 93.1 %' in top
  assert '<li class="note"><b>Note</b> 5 test patients cannot separate' in top


@pytest.mark.parametrize(
  ('record', 'title'),
  [
    ({'title': 'Hippo & co'}, 'Hippo &amp; co'),
    ({'raw_dir': '/home/someone/Task04_Hippocampus'}, 'Task04_Hippocampus'),
    ({'images': '/home/someone/DRIVE/training/images'}, 'DRIVE'),
    ({}, 'folder'),
  ],
)
def test_the_data_set_has_its_own_name_and_no_path(tmp_path, record, title):
  fabricated.fabricate(tmp_path)
  for name in ('config.json', 'evaluate/summary.json'):
    text = (tmp_path / name).read_text(encoding='utf-8')
    files.write_text(tmp_path / name, text.replace('"brain"', '"folder"'))
  there = {'folder': '', 'from_run': '', 'name': '', 'raw_dir': '', 'settings': {}, 'choices': {}}
  files.write_json(tmp_path / 'data.json', there | record)
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert f'<h1>Thrifty network on {title}</h1>' in page and f'<dd>{title}: grey' in page
  assert 'someone' not in page


def test_viewers_name_the_scan_and_the_sides_of_the_patient(whole, tmp_path):
  assert '<h3>Best: scan p1 ·' in whole
  marks = ('top">A', 'right">L', 'bottom">P', 'left">R')
  assert all(whole.count(f'class="side {mark}</b>') == 9 for mark in marks)
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_json(path, files.read_json(path) | {'unit': 'pixels'})
  assert 'class="side' not in report.report(tmp_path).read_text(encoding='utf-8')


def test_weights_of_edges_have_plots_of_their_own(whole):
  for kind in CELL_KINDS:
    assert whole.count(f'id="{kind}-into0-axes_1"') == whole.count(f'id="{kind}-into1-axes_1"') == 1
  assert 'from in0' in whole and 'from node1' in whole


def test_many_classes_are_rows_of_the_table(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  summary = files.read_json(path)
  classes, floors = summary['classes'], summary['floors']
  for of_part in (classes, *(floor['classes'] for floor in floors.values())):
    of_part |= {f'class{i}': of_part['grey'] for i in range(13)}
  files.write_json(path, summary)
  page = report.report(tmp_path).read_text(encoding='utf-8')
  (head,) = re.findall('<thead><tr><th>Thrifty network</th>.*?</tr>', page)
  assert 'HD95' in head and 'class3' not in head
  assert (
    len(set(re.findall('<i style="background: (#[0-9a-f]{6})"></i>(?:class|grey|white)', page)))
    == 15
  )


def test_a_run_without_floors_is_beside_none(tmp_path):
  fabricated.fabricate(tmp_path)
  path = tmp_path / 'evaluate' / 'summary.json'
  files.write_json(path, files.read_json(path) | {'floors': {}, 'floor_dsc': None})
  page = report.report(tmp_path).read_text(encoding='utf-8')
  assert '<h3>DSC</h3>' in page and 'floor' not in page and 'Pooled 2D is' in page


def test_the_dots_use_the_width_from_the_worst_to_100():
  for worst, ticks in ((96.4, 5), (12.0, 5)):
    drawn = plots.draw_dots({'grey': {'this network': [worst, 99.0]}}, name='dots')
    shown = [float(t) for t in re.findall(r'>([\d.]+)</text>', drawn)]
    assert len(shown) >= ticks - 1 and max(shown) == 100 and min(shown) >= worst - 3
