"""The section about a comparison: scores over milliseconds, with names; seeds; older files."""

import dataclasses
import re

import fabricated
import matplotlib
import pytest

from thrifty_jax import files, records
from thrifty_jax.reporting import comparison, plots, report

MANY = (
  *(('Searched', 'searched', 40.0, 0.95), ('Mine', 'given', 42.0, 0.949)),
  *((f'Random {k}', 'random', 38.0 + k, 0.94 + k / 1e3) for k in range(3)),
  *(('U-Net', 'baseline', 160.0, 0.945), ('U-Net, GroupNorm', 'baseline', 190.0, 0.948)),
)


def rivals(**changes):
  return [
    fabricated.rival(f'rival_{k}', label=label, kind=kind, dsc=dsc, ms=ms, **changes)
    for k, (label, kind, ms, dsc) in enumerate(MANY)
  ]


def page_of(workdir, found):
  """The section on the page of a run with these rivals, five patients and two seeds."""
  fabricated.fabricate(workdir, stages=('start',))
  records.write(workdir / 'compare' / 'summary.json', fabricated.compared(*found))
  rows = [
    f'{rival.name},{seed},{patient},liver,{0.8 + 0.1 * seed}'
    for rival in found
    for seed in (0, 1)
    for patient in fabricated.PATIENTS
  ]
  text = '\n'.join(['rival,seed,patient,class,dsc', *rows, ''])
  files.write_text(workdir / 'compare' / 'scores.csv', text)
  text = report.report(workdir).read_text(encoding='utf-8')
  return text[text.index('<h2>Comparison</h2>') :]


@pytest.fixture
def drawn(monkeypatch):
  """The figure of the picture with many rivals, its size settled."""
  figures = []
  monkeypatch.setattr(plots, 'to_svg', lambda figure, name: figures.append(figure))
  comparison.draw(fabricated.compared(*rivals()), 'slice')
  figures[0].draw_without_rendering()
  return figures[0]


def test_every_network_has_its_name_which_covers_no_other_and_no_dot(drawn):
  (axes,) = drawn.axes
  assert [text.get_text() for text in axes.texts] == [label for label, *_ in MANY]
  boxes = [text.get_window_extent() for text in axes.texts]
  dots = [axes.transData.transform((ms, 100 * dsc)) for _, _, ms, dsc in MANY]
  for number, box in enumerate(boxes):
    assert not any(map(box.overlaps, boxes[:number]))
    assert not any(box.contains(*dot) for dot in dots)


def test_each_kind_has_a_colour_and_its_words_below(drawn):
  (axes,) = drawn.axes
  points = [one for one in axes.collections if len(one.get_offsets())]
  colours = [matplotlib.colors.to_hex(point.get_facecolor()[0]) for point in points]
  by_kind = {kind: {c for c, row in zip(colours, MANY, strict=True) if row[1] == kind}
             for kind in comparison.KINDS}  # fmt: skip
  assert by_kind == {kind: {colour} for kind, (_, colour) in comparison.KINDS.items()}
  (legend,) = drawn.legends
  words = [text.get_text() for text in legend.get_texts()]
  assert words == [
    comparison.KINDS[kind][0] for kind in ('searched', 'given', 'random', 'baseline')
  ]
  assert axes.get_xscale() == 'log' and axes.get_xlabel() == 'ms a slice'


def test_the_page_has_the_picture_and_the_milliseconds(tmp_path):
  page = page_of(tmp_path, rivals())
  assert '96 × 96 pixels on 1 thread of a processor' in page and 'id="rivals-front-' in page
  row = re.search(r'<tr><td>U-Net</td>.*', page)
  assert row and '<td>160.00<span class="interval">int8</span></td>' in row[0]
  assert 'seeds' not in page


def test_of_several_folds_the_page_is_of_the_comparison_and_leads_to_them(tmp_path):
  page_of(tmp_path, rivals())
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert 'networks were compared on the same 5 test patients' in page
  assert 'Not there' not in page and 'no scores yet' not in page
  for text in ('fold_0/report.html', 'fold_&lt;n&gt;/compare/results.json'):
    assert text in page
  records.write(tmp_path / 'compare' / 'results.json', [])  # of a single run
  assert 'fold_' not in report.report(tmp_path).read_text(encoding='utf-8')


def test_several_seeds_have_a_column_and_a_patient_one_dot(tmp_path, monkeypatch):
  groups = []
  monkeypatch.setattr(plots, 'draw_dots', lambda found, *, name: groups.append(found) or '')
  page = page_of(tmp_path, rivals(seeds=(0.84, 0.86)))
  assert '85.00 ± 1.41' in page and 'over<br>2 seeds' in page
  assert groups[-1]['liver']['U-Net'] == pytest.approx([85.0] * len(fabricated.PATIENTS))


def test_a_comparison_that_was_not_timed_has_no_picture(tmp_path):
  page = page_of(tmp_path, [dataclasses.replace(rival, timed=()) for rival in rivals()])
  assert 'rivals-front' not in page and 'ms<br>' not in page


def test_a_network_without_a_score_or_of_an_unknown_kind_is_no_fault(tmp_path):
  first, second, *_ = rivals()
  unscored = dataclasses.replace(first, mean=dataclasses.replace(first.mean, dsc=None))
  page = page_of(tmp_path, [unscored, dataclasses.replace(second, kind='new', label='a $b$')])
  assert '>other</text>' in page and 'a $b$' in page
