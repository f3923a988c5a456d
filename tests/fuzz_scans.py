"""Files that are damaged or hostile: each is read right, or refused in a line.

  PYTHONPATH=. python tests/fuzz_scans.py --seconds=600 --seed=1
  PYTHONPATH=. python tests/fuzz_scans.py --count=10000 --formats=png,tiff --seed=1
  PYTHONPATH=. python tests/fuzz_scans.py --seed=1 --case=4711

Every case follows from the seed and its number: the files of one format (fuzzing/), in which one to
three things are changed, are read as the program reads them. Scans and masks must have the values,
and scans the place in space, that a reader of another origin finds. What the program wrote itself,
as models, slices and caches, must come back as it was, unless the damage was signed anew. A case
also fails by a crash, a traceback, over 10 seconds, by a file outside of its folder that is opened,
by voxels from there, and by more than 256 MiB of memory. Whatever fails is printed with the files
that repeat it. The last line is JSON with the counts; the exit status is 1 if anything failed.
`--case` reads one case in the process itself.
"""

import argparse
import base64
import collections
import contextlib
import faulthandler
import functools
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fuzzing import damage, folder_formats, scan_formats
from fuzzing.scan_formats import SECRET
from fuzzing.volume_files import VOXELS, Files

from thrifty_jax.errors import InputError

FORMATS = scan_formats.FORMATS | folder_formats.FORMATS
SECONDS = 10  # for a case to be read here
PATIENCE = 120  # seconds, for a case with the other reader, which may wait for what is not there
MOST_BYTES = 256 << 20  # of memory that a case may take
# Besides the folder of a case, these may be opened: libraries, and what tells of the process.
_PROJECT = Path(__file__).resolve().parents[1]
_LIBRARIES = (sys.prefix, sys.base_prefix, str(_PROJECT), '/proc/', '/sys/', os.devnull)
_opened: list[str] | None = None  # files that were opened, while a case is read


def _note(event: str, arguments: tuple[Any, ...]) -> None:
  if event == 'open' and _opened is not None and isinstance(arguments[0], str | bytes):
    _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)


def make_case(seed: int, number: int) -> tuple[str, Files]:
  """The format of a case and its files."""
  chance = random.Random(f'{seed} {number}')
  name = [*FORMATS][number % len(FORMATS)]
  form = FORMATS[name]
  files = form.make()
  changed = chance.choice(form.changed or [*files])
  data = files[changed]
  for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
    data = (form.change if chance.random() < 0.7 else damage.change_bytes)(chance, data)
  return name, files | {changed: data}


@contextlib.contextmanager
def bounded_memory() -> Generator[None]:
  """Fails if the body took more than MOST_BYTES, where the system can tell."""
  clear, status = Path('/proc/self/clear_refs'), Path('/proc/self/status')
  if not clear.exists():
    yield
    return
  clear.write_text('5')  # the peak is what is taken now
  before = _peak(status)
  try:
    yield
  finally:
    if (taken := _peak(status) - before) > MOST_BYTES:
      raise MemoryError(f'{taken >> 20} MiB were taken')


def _peak(status: Path) -> int:
  return int(status.read_text().partition('VmHWM:')[2].split()[0]) << 10


@contextlib.contextmanager
def only_below(place: Path) -> Generator[None]:
  """Fails if the body opened a file outside of a folder, by Python; temporary ones are its own."""
  global _opened
  with tempfile.TemporaryDirectory() as own, mock.patch.object(tempfile, 'tempdir', own):
    _opened = []
    try:
      yield
    finally:
      opened, _opened = _opened, None
  paths = [os.path.realpath(path) for path in opened]
  strange = [
    path for path in paths if not path.startswith((*_LIBRARIES, str(place.resolve()), own))
  ]
  assert not strange, f'opened {strange[:5]}'


def _write(files: Files, folder: Path) -> None:
  for file, content in files.items():
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)


@functools.cache
def _load_libraries(name: str) -> None:
  """Reads the whole files of a format, as libraries that are loaded for it take memory too."""
  with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
    _write(FORMATS[name].make(), Path(place))
    FORMATS[name].read(Path(place))


def run_case(seed: int, number: int, place: Path) -> str:
  """Reads a case: 'read', 'refused', or 'read here alone' where the other reader has no answer.

  Raises whatever should not happen.
  """
  name, files = make_case(seed, number)
  folder = place / 'case'
  shutil.rmtree(folder, ignore_errors=True)
  _write(files, folder)
  _load_libraries(name)
  began = time.monotonic()
  try:
    with only_below(folder), bounded_memory(), contextlib.redirect_stdout(sys.stderr):
      found = FORMATS[name].read(folder)
  except InputError as error:
    assert '\n' not in str(error) and len(str(error)) < 1000, error
    return 'refused'
  finally:
    assert time.monotonic() - began < SECONDS, f'took {time.monotonic() - began:.0f} s'
  return 'read' if FORMATS[name].check(folder, found) else 'read here alone'


def run_cases(seed: int, numbers: Iterable[int], *, seconds: float = math.inf) -> Iterator[Any]:
  """Yields the number of each case before it is read and its outcome, or its traceback, after."""
  ends = time.monotonic() + seconds
  with tempfile.TemporaryDirectory(prefix='fuzz_scans_') as place:
    Path(place, 'secret.raw').write_bytes(np.full(VOXELS.shape, SECRET, np.int16).tobytes())
    for number in numbers:
      if time.monotonic() > ends:
        return
      yield number
      try:
        outcome = run_case(seed, number, Path(place))
      except Exception:
        outcome = traceback.format_exc()
      yield outcome


def _run_child(seed: int, numbers: Iterable[int], seconds: float) -> None:
  """Runs cases and prints a line of JSON for each event."""
  with (
    os.fdopen(os.dup(2), 'w') as errors,  # as readers are silenced
    os.fdopen(os.dup(1), 'w') as events,  # as some print
  ):
    os.dup2(2, 1)
    faulthandler.enable(errors)
    for event in run_cases(seed, numbers, seconds=seconds):
      if isinstance(event, int):
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=errors)
      print(json.dumps(event), file=events, flush=True)
    faulthandler.cancel_dump_traceback_later()
    faulthandler.disable()


def _print_failure(seed: int, number: int, reason: str) -> None:
  name, files = make_case(seed, number)
  print(f'case {number} of seed {seed}, {name}:\n{reason.strip()}')
  whole = FORMATS[name].make()
  for file, content in files.items():
    if content != whole[file]:
      print(f'  {file}: {base64.b64encode(content).decode()}')
  sys.stdout.flush()


def _numbers(names: Sequence[str], first: int) -> Iterator[int]:
  """Numbers of the cases of formats whose names begin so, from one on."""
  own = [index for index, name in enumerate(FORMATS) if name.startswith(tuple(names))]
  return (number for number in itertools.count(first) if number % len(FORMATS) in own)


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--seconds', type=float, default=math.inf)
  parser.add_argument('--count', type=int, default=1 << 60, help='cases at most')
  parser.add_argument(
    '--formats', default='', help='beginnings of their names, separated by commas'
  )
  parser.add_argument('--case', type=int, help='one case, in this process')
  parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
  options = parser.parse_args()
  seed, names = options.seed, options.formats.split(',')
  if options.child is not None:
    numbers = itertools.islice(_numbers(names, options.child), options.count)
    _run_child(seed, numbers, options.seconds)
    return 0
  if options.case is not None:
    _print_failure(seed, options.case, str([*run_cases(seed, [options.case])][-1]))
    return 0
  if math.isinf(options.seconds) and options.count == 1 << 60:
    parser.error('give --seconds or --count')
  counts: collections.Counter[str] = collections.Counter()
  ends, number = time.monotonic() + options.seconds, -1
  while (left := ends - time.monotonic()) > 0 and (more := options.count - counts.total()) > 0:
    command = [sys.executable, __file__, f'--seed={seed}', f'--formats={options.formats}']
    command += [f'--child={number + 1}', f'--seconds={left}', f'--count={more}']
    with tempfile.TemporaryFile('w+') as said:
      process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
      assert process.stdout
      for line in process.stdout:
        event = json.loads(line)
        if isinstance(event, int):
          number = event
          continue
        known = event in ('read', 'refused', 'read here alone')
        counts[event if known else 'failed'] += 1
        if not known:
          _print_failure(seed, number, event)
      if process.wait() != 0:
        said.seek(0)
        counts['failed'] += 1
        _print_failure(seed, number, f'status {process.returncode}\n{said.read()[-5000:]}')
  print(json.dumps({'seed': seed, 'cases': counts.total(), **counts}))
  return 1 if counts['failed'] else 0


if __name__ == '__main__':
  with contextlib.suppress(KeyboardInterrupt):
    sys.exit(main())
