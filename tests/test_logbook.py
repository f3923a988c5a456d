"""What a run writes down can be read back, by programs and by people."""

import io
import sys
import time
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import Logbook


class _Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def test_lines_are_read_back_as_they_were_written(tmp_path):
  book = Logbook(tmp_path / 'search')
  entries = [{'epoch': 0, 'step': 4, 'loss': None}, {'epoch': 1, 'step': 8, 'loss': 0.25}]
  for entry in entries:
    book.append(entry)
  assert Logbook(tmp_path / 'search').entries() == entries
  assert book.path == tmp_path / 'search' / 'metrics.jsonl'


def test_numbers_of_numpy_and_jax_become_plain(tmp_path):
  book = Logbook(tmp_path)
  book.append(
    {'epoch': 1, 'step': np.int32(1), 'loss': jnp.float32(0.5), 'alphas': np.ones((2, 2))}
  )
  assert book.entries() == [
    {'epoch': 1, 'step': 1, 'loss': 0.5, 'alphas': [[1.0, 1.0], [1.0, 1.0]]}
  ]


@pytest.mark.parametrize('loss', [float('nan'), float('inf'), np.float32('nan')])
def test_a_number_that_is_not_finite_is_refused_and_leaves_no_line(tmp_path, loss):
  book = Logbook(tmp_path)
  with pytest.raises(ValueError):
    book.append({'epoch': 1, 'step': 1, 'loss': loss})
  assert book.entries() == []


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
  book = Logbook(tmp_path)
  for epoch in range(1, 6):
    book.append({'epoch': epoch, 'step': 10 * epoch})
  book.truncate(3)
  assert [entry['epoch'] for entry in book.entries()] == [1, 2, 3]
  book.append({'epoch': 4, 'step': 40})
  assert [entry['epoch'] for entry in book.entries()] == [1, 2, 3, 4]


def test_a_follower_gets_the_lines_there_are_and_every_later_one(tmp_path):
  book, followed = Logbook(tmp_path), []
  book.append({'epoch': 1, 'step': np.int32(4), 'loss': jnp.float32(0.5)})
  book.follow(followed.append)
  book.append({'epoch': 2, 'step': 8, 'loss': None})
  assert followed == book.entries() and len(followed) == 2
  assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_line_cut_off_by_a_crash_is_left_out_and_the_next_one_is_whole(tmp_path):
  book = Logbook(tmp_path)
  book.append({'epoch': 1, 'step': 1})
  book.path.write_text(book.path.read_text() + '{"epoch": 2, "lo')
  assert book.entries() == [{'epoch': 1, 'step': 1}]
  book.truncate(1)
  book.append({'epoch': 2, 'step': 2})
  assert [entry['step'] for entry in book.entries()] == [1, 2]


def test_a_damaged_line_is_named_with_the_folder_to_remove(tmp_path):
  folder = tmp_path / 'retrain'
  folder.mkdir()
  for text in ('{', '{"epoch": 1}', '{"epoch": "1", "step": 2}'):
    (folder / 'metrics.jsonl').write_text(text + '\n')
    with pytest.raises(InputError, match=r'jsonl, line 1: .* or remove .*retrain and run'):
      Logbook(folder).entries()


@pytest.mark.parametrize('total', [1, 7, 10, 1000])
def test_without_a_terminal_progress_is_a_line_per_tenth_and_ends_with_the_last(total, monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with logbook.progress(total, 'search') as bar:
    for step in range(total):
      bar.set_postfix(loss=f'{1 / (step + 1):.3f}')
      bar.update(1)
  lines = stream.getvalue().splitlines()
  assert 1 <= len(lines) <= 10
  assert f'{total} of {total}' in lines[-1] and lines[-1].startswith('search: ')
  assert f'loss={1 / total:.3f}' in lines[-1]
  assert len(set(lines)) == len(lines) and '\r' not in stream.getvalue()


def test_many_steps_are_shown_in_their_unit(monkeypatch):
  for stream in (io.StringIO(), _Terminal()):
    monkeypatch.setattr(sys, 'stderr', stream)
    with logbook.progress(891_000_000, 'download', unit='B') as bar:
      bar.update(891_000_000)
    assert '891M' in stream.getvalue()


def test_a_stage_that_stops_early_claims_nothing_more(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with logbook.progress(100, 'search') as bar:
    bar.update(5)
  assert stream.getvalue() == ''


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
  stream = _Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  with logbook.progress(3, 'retrain') as bar:
    bar.update(3)
  assert 'retrain: 100%' in stream.getvalue()


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0.4, '0 s'), (59.4, '59 s'), (59.6, '1 min 00 s'), (200, '3 min 20 s'), (3900, '1 h 05 min')],
)
def test_durations_are_written_for_people(seconds, text):
  assert logbook.format_duration(seconds) == text


def test_what_is_waited_for_goes_on_in_lines_of_a_log_and_in_seconds_on_a_terminal(
  monkeypatch, capsys
):
  for stream, step, shown in ((io.StringIO(), 30, 0), (_Terminal(), 1, 3)):
    ticks: list[float] = []
    over: Any = types.SimpleNamespace(
      wait=lambda seconds, ticks=ticks: ticks.append(seconds) or len(ticks) > 3
    )
    monkeypatch.setattr(sys, 'stderr', stream)
    logbook._tick('compiling', time.monotonic(), over)
    assert ticks == [step] * 4
    lines = capsys.readouterr().out.splitlines()
    assert lines == ['  compiling still, for 0 s'] * (3 - shown)
    assert stream.getvalue().count('compiling 0 s') == shown


def test_a_wait_has_a_line_before_and_after(capsys):
  with logbook.waiting('compiling', 'the step', done='compiled'):
    assert capsys.readouterr().out == '  compiling the step\n'
  assert capsys.readouterr().out == '  compiled  in 0 s\n'


def test_many_lines_that_differ_in_numbers_alone_become_one():
  found = [(f'case{i:02}', f'height {i}.5 pixels of case{i:02}; the median is 9') for i in range(5)]
  other = ('case7', 'it shows nothing')
  folded = logbook.fold([*found, other], unit='scan', where='check.html')
  assert folded == [
    '5 scans, all in check.html; the first, case00: height 0.5 pixels of case00; the median is 9',
    'case7: it shows nothing',
  ]
  (named,) = logbook.fold(found, unit='scan')
  assert named.startswith('5 scans, case00, case01, case02, case03, case04; the first, case00: ')
  assert logbook.fold(found[:3], unit='scan') == [f'{name}: {text}' for name, text in found[:3]]


def test_a_line_beside_a_bar_of_a_log_leaves_no_other_trace(monkeypatch, capsys):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with logbook.progress(100, 'search') as bar:
    bar.update(5)
    logbook.say('estimate', 'soon')
  assert stream.getvalue() == '' and capsys.readouterr().out == '  estimate  soon\n'
