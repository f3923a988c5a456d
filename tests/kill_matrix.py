"""Every stage killed at system calls that change files and started again, against one in one piece.

  PYTHONPATH=. python tests/kill_matrix.py --seconds=600 --seed=0
  PYTHONPATH=. python tests/kill_matrix.py --stages=prepare,export --kills=20

It needs strace. A stage of a small run on made-up scans is first done twice without interruption:
what differs between the two, as times do, is no result. Then, again and again, its folders are put
back as they were before, and it is killed as one of its threads makes the n-th such call (rename,
unlink, mkdir, fsync and others, n at random), or after a random time. The same command then
has to end by itself with the same files, bit for bit; of checkpoints the last one's arrays count. A
race has the times of two networks beforehand, and is killed more often, as it takes long. The last
line is JSON with the kills of each stage; the exit status is 1 if anything differs.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import interrupted
import numpy as np

from thrifty_jax.data import prepared

CALLS = (
  *('rename', 'renameat', 'renameat2', 'unlink', 'unlinkat', 'mkdir', 'mkdirat', 'rmdir', 'link'),
  *('fsync', 'fdatasync', 'ftruncate', 'pwrite64', 'symlink', 'chmod', 'utimensat'),
)
MAIN, RACE = 'configs/phantom.py', 'configs/phantom.py:lean'
RUN = ('thrifty_jax.main', f'--config={MAIN}', '--workdir=run')
STAGES: dict[str, tuple[str, ...]] = {
  **{name: (*RUN, f'--stage={name}') for name in ('prepare', 'search', 'retrain', 'evaluate')},
  'report': (*RUN, '--stage=report'),
  'export': ('thrifty_jax.export', '--model=run', '--output=exported'),
  'predict': (
    *('thrifty_jax.predict', '--model=run', '--input=raw/TestData', '--output=masks'),
    *('--overlays', '--probabilities', '--overwrite', '--device=cpu'),
  ),
  'front': ('thrifty_jax.main', f'--config={RACE}', '--workdir=raced', '--stage=front'),
}
KILLS = {'front': (4, 6)}  # in a trial, else 1 or 2
AGAIN = {'export': ('--overwrite',)}  # options that a second call needs
SETTINGS = (
  *(*interrupted.SETTINGS, '--config.data.raw_dir=raw', '--config.data.data_dir=tfds'),
  *('--config.search.epochs=3', '--config.retrain.epochs=3', '--config.save_seconds=0.1'),
)
RACING = (
  *('--config.front.budgets_ms=(1000.0,)', '--config.front.entrants=2', '--config.front.rungs=1'),
  *('--config.front.steps=1', '--config.front.folds=1', '--config.front.workers=1'),
  *('--config.front.costs=costs.json', '--config.cost.size=16', '--config.cost.precision=int8'),
  *('--config.retrain.warmup_epochs=0', '--config.retrain.epochs=1'),
)
RACING_NETWORKS = ('cone_8', 'cone_16')
TIME = (  # the networks of the race, once: whoever takes part would follow from the times
  *('thrifty_jax.cost', '--genotypes=raced/front/genotypes', '--size=16', '--precision=int8'),
  *('--runtime=onnxruntime', '--threads=1', '--spread=1e9', '--output=costs.json'),
)
# Names of what a killed process may leave: unfinished files and folders, which count for nothing.
LEFT = re.compile(r'\..*\.([0-9a-f]{8}\.tmp|replaced)|\.lock|incomplete\..*|damaged_\d+')


class Matrix:
  """Runs in one folder, whose stages see the same paths in every trial."""

  def __init__(self, place: Path, seed: int):
    self.place, self.now, self.chance = place, place / 'now', random.Random(seed)
    self.kills: collections.Counter[str] = collections.Counter()
    self.now.mkdir()
    self.environment = os.environ | {
      'PYTHONPATH': str(interrupted.PROJECT),
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'XDG_CACHE_HOME': str(place / 'cache'),
    }
    (self.now / 'configs').symlink_to(interrupted.PROJECT / 'configs')

  def time_networks(self) -> None:
    """Times the networks of the race, which names them itself, and forgets the race."""
    self.run('front')  # refused, as they have no times yet
    for path in (self.now / 'raced' / 'front' / 'genotypes').iterdir():
      if path.stem not in RACING_NETWORKS:
        path.unlink()
    self.finish('time')
    shutil.rmtree(self.now / 'raced')

  def command(self, stage: str) -> list[str]:
    module, *arguments = TIME if stage == 'time' else STAGES[stage]
    command = [sys.executable, '-m', module, *arguments]
    if module == 'thrifty_jax.main':
      command += [*SETTINGS, *(RACING if RACE in arguments[0] else ())]
    return command

  def run(self, stage: str, *, tracer: tuple[str, ...] = (), seconds: float = 600) -> int:
    """The exit status of a stage, negative for the number of a signal."""
    command = [*tracer, *self.command(stage)]
    if (self.now / 'exported').exists():
      command += AGAIN.get(stage, ())
    with self.log.open('wb') as log:
      process = subprocess.Popen(
        command, cwd=self.now, env=self.environment, stdout=log, stderr=log
      )
      try:
        return process.wait(seconds)
      except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

  @property
  def log(self) -> Path:
    return self.place / 'log.txt'

  def finish(self, stage: str, **options: Any) -> None:
    if status := self.run(stage, **options):
      raise RuntimeError(f'{stage} ended with status {status}:\n{self.log.read_text()[-3000:]}')

  def put_back(self, name: str) -> None:
    shutil.rmtree(self.now)
    shutil.copytree(self.place / name, self.now, symlinks=True)

  def keep(self, name: str) -> None:
    shutil.rmtree(self.place / name, ignore_errors=True)
    shutil.copytree(self.now, self.place / name, symlinks=True)

  def measure(self, stage: str) -> tuple[int, float, dict[str, Any], set[str]]:
    """Does a stage twice.

    Returns:
      The most calls that one of its threads makes, its seconds, what it leaves, and the names of
      what differs between the two.
    """
    self.keep('before')
    began = time.monotonic()
    self.finish(stage)
    seconds, first = time.monotonic() - began, contents(self.now)
    self.put_back('before')
    told = self.place / 'calls'
    shutil.rmtree(told, ignore_errors=True)
    told.mkdir()
    trace = ('strace', '-ff', '--seccomp-bpf', '-o', f'{told}/t', '-e', f'trace={",".join(CALLS)}')
    self.finish(stage, tracer=trace)
    most = max(len(path.read_text().splitlines()) for path in told.iterdir())
    self.keep('after')
    second = contents(self.now)
    differs = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    return most, seconds, second, differs

  def kill(self, stage: str, most: int, seconds: float) -> tuple[str, int]:
    """Kills a stage; how, and the exit status that it came to."""
    if self.chance.random() < 0.25:
      after = self.chance.uniform(0, seconds)
      return f'after {after:.2f} s', self.run(stage, seconds=after)
    number = self.chance.randint(1, max(1, most))
    inject = f'inject={",".join(CALLS)}:signal=KILL:when={number}'
    tracer = ('strace', '-f', '--seccomp-bpf', '-o', '/dev/null', '-e', inject)
    return f'at call {number}', self.run(stage, tracer=tracer)

  def trial(self, stage: str, measured: tuple[int, float, dict[str, Any], set[str]]) -> list[str]:
    """Kills a stage once or several times, and finishes it; what then differs, in words."""
    most, seconds, expected, volatile = measured
    self.put_back('before')
    hows = []
    kills = self.chance.choice(KILLS.get(stage, (1, 1, 2)))
    for _ in range(kills):
      how, status = self.kill(stage, most // kills, seconds / kills)
      self.kills[stage] += status < 0  # else it ended before, or a process of it was killed
      hows.append(f'{how} (status {status})')
    try:
      self.finish(stage)
    except RuntimeError as error:
      return [f'{", ".join(hows)}: {error}']
    found = contents(self.now)
    names = [
      name
      for name in sorted(found.keys() | expected.keys())
      if name not in volatile and found.get(name) != expected.get(name)
    ]
    return [f'{", ".join(hows)}: {len(names)} differ, as {names[:3]}'] if names else []


def contents(folder: Path) -> dict[str, Any]:
  """Every file below a folder by its path, those of JSON by the path of each value."""
  found: dict[str, Any] = {}
  for path in sorted(folder.rglob('*')):
    name = str(path.relative_to(folder))
    if not path.is_file() or path.is_symlink() or any(map(LEFT.fullmatch, Path(name).parts)):
      continue
    # Checkpoints and slices are compared below; the hashes of scans stand under their times.
    if 'checkpoints' in path.parts or path.match('*.array_record*') or path.match('contents_*'):
      continue
    if path.suffix in ('.json', '.jsonl'):
      lines = path.read_text().splitlines() if path.suffix == '.jsonl' else [path.read_text()]
      for number, line in enumerate(lines):
        found |= dict(_values(json.loads(line), f'{name} {number}'))
    else:
      found[name] = path.read_bytes()
  for place in folder.rglob('checkpoints'):
    if any(path.name.isdigit() for path in place.iterdir()):
      try:
        state = interrupted.last_state(place)
      except FileNotFoundError as error:  # there is a part of one
        state = {str(error): np.zeros(0)}
      found |= {f'{place.relative_to(folder)} {n}': a.tobytes() for n, a in state.items()}
  for place in folder.glob('tfds/*/*/[0-9]*'):
    for number, slice_ in enumerate(prepared.open_folder(place).slices):
      found |= {f'{place.name} {number} {n}': np.asarray(v).tobytes() for n, v in slice_.items()}
  return found


def _values(value: Any, place: str) -> Any:
  if isinstance(value, dict):
    for name, inner in value.items():
      if name != 'seconds' and name != 'time':
        yield from _values(inner, f'{place}.{name}')
  elif isinstance(value, list):
    for number, inner in enumerate(value):
      yield from _values(inner, f'{place}[{number}]')
  else:
    yield place, value


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--stages', default=','.join(STAGES))
  parser.add_argument('--seconds', type=float, default=600, help='of kills, shared by the stages')
  parser.add_argument('--kills', type=int, default=1000, help='trials of each stage at most')
  options = parser.parse_args()
  chosen, place = options.stages.split(','), Path(tempfile.mkdtemp(prefix='kill_matrix_'))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  matrix = Matrix(place, options.seed)
  trials: collections.Counter[str] = collections.Counter()
  different = 0
  for stage in STAGES:
    if stage not in chosen:
      if stage != 'front' and {*chosen} - {'front'}:  # a race prepares for itself
        matrix.finish(stage)
      continue
    if stage == 'front':
      matrix.time_networks()
    measured = matrix.measure(stage)
    print(f'{stage}: {measured[0]} calls, {measured[1]:.1f} s, volatile {sorted(measured[3])[:8]}')
    ends = time.monotonic() + options.seconds / len(chosen)
    while time.monotonic() < ends and trials[stage] < options.kills:
      told = matrix.trial(stage, measured)
      trials[stage] += 1
      different += len(told)
      for line in told:
        print(f'{stage}, killed {line}', flush=True)
    matrix.put_back('after')
  if not different:
    shutil.rmtree(place)
  told = {'trials': trials, 'kills': matrix.kills, 'differences': different}
  print(json.dumps({'seed': options.seed, **told}))
  return 1 if different else 0


if __name__ == '__main__':
  sys.exit(main())
