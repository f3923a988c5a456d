"""A download from a server that does whatever servers do; never from the real one."""

import dataclasses
import hashlib
import http.client
import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from data_prep import data_sets, download, phantom
from thrifty_jax import config as configs
from thrifty_jax import main, settings
from thrifty_jax.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
CHUNK = 1000


def scans_zip(tmp_path, *, patients=3):
  """PROMISE12's archive, of phantoms and a few bytes that do not shrink."""
  phantom.write_promise12(tmp_path / 'made', patients=patients, seed=0)
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, 'w') as archive:
    for path in sorted((tmp_path / 'made' / 'TrainingData').iterdir()):
      archive.write(path, f'training_data/{path.name}')
    archive.writestr('noise', np.random.default_rng(0).bytes(20 * CHUNK))
  shutil.rmtree(tmp_path / 'made')
  return packed.getvalue()


@dataclasses.dataclass
class Server:
  """What the server has, how it behaves, and what it was asked.

  `script` has a word for each request, '' once it is used up: 'break' sends a part, 'refuse'
  nothing, 'short' promises more than it sends, 'other' sends other bytes, a number is an error.
  """

  content: bytes
  url: str = ''
  ranges: bool = True
  script: list[str] = dataclasses.field(default_factory=list)
  asked: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A server with PROMISE12's archive, which the downloads of the test go to."""
  for name in list(os.environ):
    if name.lower() in ('http_proxy', 'https_proxy', 'all_proxy'):
      monkeypatch.delenv(name)
  monkeypatch.setenv('no_proxy', '127.0.0.1')
  monkeypatch.setattr(download, '_PAUSE_S', 0.0)
  monkeypatch.setattr(download, '_CHUNK_BYTES', CHUNK)
  state = Server(scans_zip(tmp_path))

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.asked.append(self.headers.get('Range', ''))
      assert self.headers['User-Agent'].startswith('thrifty_jax/')
      answer(self, state)

    def log_message(self, format, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    state.url = f'http://127.0.0.1:{running.server_address[1]}'
    known(monkeypatch, state)
    yield state
    running.shutdown()
    thread.join()


def known(monkeypatch, state, **changes):
  """Makes the server's file the known one."""
  archive = dataclasses.replace(
    download.ARCHIVES['promise12'],
    record=state.url,
    size=len(state.content),
    sha256=hashlib.sha256(state.content).hexdigest(),
  )
  changed = dataclasses.replace(archive, **changes)
  monkeypatch.setitem(download.ARCHIVES, 'promise12', changed)


def answer(handler, state):
  word = state.script.pop(0) if state.script else ''
  content = bytes(reversed(state.content)) if word == 'other' else state.content
  if word.isdigit():
    return handler.send_error(int(word))
  if word == 'refuse':
    return None
  start = int(handler.headers.get('Range', 'bytes=0-')[6:-1]) if state.ranges else 0
  if start >= len(content):
    return handler.send_error(416)
  handler.send_response(206 if start else 200)
  if start:
    handler.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
  handler.send_header('Content-Length', str(len(content) - start))
  handler.end_headers()
  sent = content[start:]
  sent = {'break': sent[: 5 * CHUNK + 7], 'short': sent[:-1]}.get(word, sent)
  handler.wfile.write(sent)
  return None


@pytest.fixture
def raw(tmp_path):
  return tmp_path / 'raw'


def left(folder):
  return sorted(path.name for path in folder.iterdir())


def assert_provided(raw):
  assert left(raw) == ['TrainingData', 'training_data.zip']
  assert left(raw / 'TrainingData')[:2] == ['Case00.mhd', 'Case00.zraw']
  assert not (raw / 'noise').exists()


def test_scans_arrive_unpacked_and_a_second_call_asks_nobody(server, raw, capfd):
  download.provide('promise12', raw)
  assert_provided(raw)
  out, err = capfd.readouterr()
  assert 'second-hand. Read the terms at https://promise12.grand-challenge.org' in out
  assert 'research use, with citation' in out
  for what in ('download', 'verify', 'unpack'):
    assert f'{what} training_data.zip:' in err
  download.provide('promise12', raw)
  assert server.asked == ['']


def test_a_download_that_breaks_off_goes_on_where_it_was(server, raw):
  server.script = ['break', 'break', '503', 'refuse', '429', 'short']
  download.provide('promise12', raw)
  assert_provided(raw)
  went_on = f'bytes={10 * CHUNK + 14}-'
  last = f'bytes={len(server.content) - 1}-'
  assert server.asked == ['', f'bytes={5 * CHUNK + 7}-', went_on, went_on, went_on, went_on, last]


def test_a_killed_download_goes_on_in_the_next_call(server, raw):
  raw.mkdir()
  (raw / 'training_data.zip.part').write_bytes(server.content[: 3 * CHUNK])
  download.provide('promise12', raw)
  assert_provided(raw)
  assert server.asked == [f'bytes={3 * CHUNK}-']


def test_ctrl_c_keeps_what_has_come(server, raw, monkeypatch):
  read, calls = http.client.HTTPResponse.read, []

  def interrupted(answer, most):
    calls.append(most)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return read(answer, most)

  with monkeypatch.context() as patched:
    patched.setattr(http.client.HTTPResponse, 'read', interrupted)
    with pytest.raises(KeyboardInterrupt):
      download.provide('promise12', raw)
  assert (raw / 'training_data.zip.part').read_bytes() == server.content[: 3 * CHUNK]
  download.provide('promise12', raw)
  assert_provided(raw)


def test_a_server_that_sends_no_pieces_starts_over(server, raw):
  server.ranges = False
  server.script = ['break']
  download.provide('promise12', raw)
  assert_provided(raw)
  assert server.asked == ['', f'bytes={5 * CHUNK + 7}-']


@pytest.mark.parametrize('size', [CHUNK, 10**6])
def test_a_part_of_another_file_is_thrown_away(server, raw, size, capsys):
  raw.mkdir()
  (raw / 'training_data.zip.part').write_bytes(bytes(size))
  download.provide('promise12', raw)
  assert_provided(raw)
  assert 'is not the known file; it is fetched once more' in capsys.readouterr().out
  assert server.asked[-1] == ''


def test_a_file_that_changes_between_two_pieces_is_fetched_again(server, raw):
  server.script = ['break', 'other']
  download.provide('promise12', raw)
  assert_provided(raw)
  assert server.asked == ['', f'bytes={5 * CHUNK + 7}-', '']


def test_a_wrong_hash_is_one_line_and_nothing_is_left(server, raw):
  server.script = ['other', 'other']
  with pytest.raises(InputError, match=r'not the known file, whose SHA-256 is .* was removed'):
    download.provide('promise12', raw)
  assert left(raw) == [] and server.asked == ['', '']


def test_a_file_of_another_size_is_refused_before_it_comes(server, raw, monkeypatch):
  known(monkeypatch, server, size=len(server.content) + 1)
  with pytest.raises(InputError, match=rf'has a file of {len(server.content)} bytes; expected'):
    download.provide('promise12', raw)
  assert left(raw) == []


@pytest.mark.parametrize('code', ['403', '404'])
def test_what_the_server_refuses_is_one_line_at_once(server, raw, code):
  server.script = [code]
  with pytest.raises(
    InputError, match=rf'the server answers {code} .* fetch training_data.zip you'
  ):
    download.provide('promise12', raw)
  assert left(raw) == [] and server.asked == ['']
  download.provide('promise12', raw)
  assert_provided(raw)


@pytest.mark.parametrize('word', ['500', 'refuse', 'break'])
def test_it_gives_up_when_nothing_new_comes_and_keeps_the_part(server, raw, word):
  server.ranges = False
  server.script = [word] * 20
  with pytest.raises(InputError, match='broke off 6 times') as raised:
    download.provide('promise12', raw)
  assert len(str(raised.value).splitlines()) == 1
  kept = [] if word != 'break' else ['training_data.zip.part']
  assert left(raw) == kept
  assert len(server.asked) == 6 + len(kept)


def test_a_server_that_is_not_there_is_one_line(server, raw, monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as closed:
    port = closed.getsockname()[1]
  known(monkeypatch, server, record=f'http://127.0.0.1:{port}')
  with pytest.raises(InputError, match=r'broke off 6 times \(.*refused'):
    download.provide('promise12', raw)


def test_an_archive_that_lies_there_is_used_and_one_of_other_content_refused(server, raw):
  raw.mkdir()
  path = raw / 'training_data.zip'
  path.write_bytes(server.content[::-1])
  with pytest.raises(InputError, match=r'training_data.zip: is not the file of .* Remove it'):
    download.provide('promise12', raw)
  assert path.read_bytes() == server.content[::-1]
  path.write_bytes(server.content)
  download.provide('promise12', raw)
  assert_provided(raw)
  assert server.asked == []


def test_a_full_disk_is_told_before_and_while_it_fills(server, raw, monkeypatch):
  usage = namedtuple('usage', 'total used free')
  with monkeypatch.context() as patched:
    patched.setattr(shutil, 'disk_usage', lambda folder: usage(10**6, 10**6, CHUNK))
    with pytest.raises(InputError, match=r'training_data.zip takes 0 MB, but only 0 MB are free'):
      download.provide('promise12', raw)
  assert server.asked == []

  opened = Path.open

  class Full(io.FileIO):
    def write(self, data):
      if self.tell() >= 2 * CHUNK:
        raise OSError(28, os.strerror(28))
      return super().write(data)

  def limited(path, mode='r', *arguments):
    return Full(path, mode) if path.suffix == '.part' else opened(path, mode, *arguments)

  with monkeypatch.context() as patched:
    patched.setattr(Path, 'open', limited)
    with pytest.raises(InputError, match=r'raw: cannot be written \(no space left on device\)'):
      download.provide('promise12', raw)
  assert left(raw) == ['training_data.zip.part']
  download.provide('promise12', raw)
  assert_provided(raw)
  assert server.asked == ['', f'bytes={2 * CHUNK}-']


def test_two_processes_with_the_same_task_download_once(server, raw):
  archive = download.ARCHIVES['promise12']
  code = f"""
import sys
from pathlib import Path
from data_prep import download
download.ARCHIVES['promise12'] = download.{archive!r}
download.provide('promise12', Path(sys.argv[1]))
"""
  command = [sys.executable, '-c', code, str(raw)]
  both = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) for _ in range(2)]
  assert [process.wait(120) for process in both] == [0, 0]
  assert_provided(raw)
  assert server.asked == ['']


def run(arguments, place):
  """Exit status of the command."""
  return main.main([*arguments, '--stage=prepare', f'--workdir={place / "run"}'])


def test_the_command_downloads_only_when_it_is_asked(server, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(PROJECT)
  command = ['--config=configs/promise12.py:small,unet', f'--config.data.data_dir={tmp_path}/tfds']
  command += ['--config.data.folds=3', '--config.data.image_size=32']
  assert run(command, tmp_path) == 2
  assert 'no PROMISE12 scan' in capsys.readouterr().err
  assert server.asked == [] and not (tmp_path / 'tfds').exists()
  assert run([*command, '--config.data.download=True'], tmp_path) == 0
  assert 'of 3 cases' in capsys.readouterr().out
  assert_provided(tmp_path / 'tfds' / 'downloads' / 'manual' / 'promise12')
  assert run([*command, '--config.data.download=True', '--config.data.fold=1'], tmp_path) == 0
  assert server.asked == ['']


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('../Case00.mhd', "has the path '../Case00.mhd', which leads out"),
    ('a/b/c.mhd', 'has 0 folders'),
  ],
)
def test_the_command_refuses_an_archive_that_cannot_be_unpacked(
  server, tmp_path, monkeypatch, capsys, path, message
):
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, 'w') as archive:
    archive.writestr(path, 'x')
  server.content = packed.getvalue()
  known(monkeypatch, server)
  monkeypatch.chdir(PROJECT)
  command = ['--config=configs/promise12.py', f'--config.data.raw_dir={tmp_path / "in" / "raw"}']
  assert run([*command, '--config.data.download=True'], tmp_path) == 2
  errors = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
  assert len(errors) == 1 and f'raw/training_data.zip: {message}' in errors[0]
  assert 'Download it again, or unpack it by hand' in errors[0]
  left_over = sorted(path.name for path in tmp_path.rglob('*'))
  assert left_over == ['in', 'raw', 'training_data.zip']


def test_a_data_set_that_cannot_be_downloaded_is_one_line(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(PROJECT)
  assert run(['--config=configs/brain.py', '--config.data.download=True'], tmp_path) == 2
  error = 'error: config.data.download is True; expected False: only chaos, chaos_t1, chaos_t2, '
  assert capsys.readouterr().err.startswith(error)


def test_the_archives_are_those_the_config_names_and_lead_to_where_readers_look():
  of_archives = {data_sets.raw_folder(name) for name in settings.DOWNLOADS}
  assert of_archives == download.ARCHIVES.keys()
  for name, archive in download.ARCHIVES.items():
    assert archive.url == f'{archive.record}/files/{archive.name}?download=1'
    assert (len(archive.sha256), archive.url[:8]) == (64, 'https://')
    config = configs.default()
    config.data.name, config.data.raw_dir = name, '/nowhere'
    with pytest.raises(InputError, match=f'/nowhere/{archive.folder}') as caught:
      data_sets.find(config)
    for part in (
      archive.terms,
      '--config.data.download=True fetches',
      archive.name,
      archive.record,
    ):
      assert part in str(caught.value)
