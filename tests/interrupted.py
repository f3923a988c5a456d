"""A search and a retraining that are interrupted at random moments, against the same in one piece.

  python tests/interrupted.py --signal=KILL --count=20

Each process is sent the signal some time after its loop has begun; the same command is then started
again, and so on until the count is reached; the last one runs to its end. What both leave must be
the same, bit for bit: weights, architecture variables, both optimisers' states, figures, genotype,
model. The last line is JSON with the figures; the exit status is 1 if anything differs.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from few_operations import FEW

PROJECT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
  sys.path.insert(0, str(PROJECT))

from thrifty_jax import main as main_  # noqa: E402

STAGES = ('search', 'retrain')
SETTINGS = (
  '--config.device=cpu',
  '--config.data.image_size=16',
  '--config.model.depth=3',
  '--config.model.nodes=1',
  '--config.search.channels=4',
  f'--config.search.operations={FEW}',
  '--config.search.batch_size=4',
  '--config.search.warmup_epochs=2',
  '--config.retrain.batch_size=4',
  '--config.retrain.validate_every=1',
  '--config.save_seconds=0.2',
)
WAIT_SECONDS = 300.0  # for a process to begin its loop


@dataclasses.dataclass
class Outcome:
  """What happened to the interrupted run of a stage.

  Attributes:
    stage: Its name.
    interrupted: Processes that got the signal.
    finished: Whether the last one came to its end by itself.
    resumed: Steps after which each process went on, 0 where nothing was saved yet.
    damaged: What was said of checkpoints that were left out as damaged.
    statuses: Exit statuses of the interrupted processes.
    seconds_to_leave: The longest that one took to end.
    differences: Between its results and those of the run in one piece, in words.
  """

  stage: str
  interrupted: int = 0
  finished: bool = False
  resumed: list[int] = dataclasses.field(default_factory=list)
  damaged: list[str] = dataclasses.field(default_factory=list)
  statuses: list[int] = dataclasses.field(default_factory=list)
  seconds_to_leave: float = 0.0
  differences: list[str] = dataclasses.field(default_factory=list)


class Runs:
  """Runs on the same made-up scans, prepared once; processes share a compilation cache."""

  def __init__(self, place: Path, *, epochs: int, quick: bool = False):
    """Takes a folder of its own; quick compiles in half the time, to slower programs."""
    self.place = place
    self.environment = os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': str(int(quick))}
    self.settings = (
      *SETTINGS,
      f'--config.data.raw_dir={place}/raw',
      f'--config.data.data_dir={place}/tfds',
      f'--config.compilation_cache={place}/xla',
      *(f'--config.{stage}.epochs={epochs}' for stage in STAGES),
    )

  def arguments(self, workdir: Path, stage: str) -> list[str]:
    """The arguments of the command."""
    config = f'--config={PROJECT}/configs/phantom.py'
    return [config, *self.settings, f'--workdir={workdir}', f'--stage={stage}']

  def prepare(self, workdir: Path) -> None:
    """Prepares the slices of a run in this process."""
    if main_.main(self.arguments(workdir, 'prepare')) != 0:
      raise RuntimeError('prepare failed')

  def start(self, workdir: Path, stage: str) -> subprocess.Popen:
    """The process of a stage; what it says goes to a file beside the workdir."""
    command = [sys.executable, '-m', 'thrifty_jax.main', *self.arguments(workdir, stage)]
    with self.log(workdir).open('wb') as log:
      return subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, env=self.environment)

  def log(self, workdir: Path) -> Path:
    return workdir.with_name(f'{workdir.name}.txt')

  def finish(self, workdir: Path, stage: str) -> None:
    """Runs a stage to its end."""
    process = self.start(workdir, stage)
    if process.wait() != 0:
      raise RuntimeError(f'{stage} failed:\n{self.log(workdir).read_text()}')

  def in_one_piece(self, stages: Sequence[str]) -> Path:
    """The workdir of a run that nothing interrupted."""
    workdir = self.place / 'unbroken'
    self.prepare(workdir)
    for stage in stages:
      self.finish(workdir, stage)
    return workdir

  def interrupt(
    self, stage: str, workdir: Path, *, signals: Sequence[int], seconds: float, chance: Any
  ) -> Outcome:
    """Sends a stage the signals, each within some seconds of its loop, and finishes it."""
    outcome = Outcome(stage)
    for number in signals:
      process = self.start(workdir, stage)
      if not self._wait_for_loop(process, workdir, stage):
        break  # it had only its results left to write
      try:
        process.wait(chance.uniform(0, seconds))
        break
      except subprocess.TimeoutExpired:
        process.send_signal(number)
      sent = time.monotonic()
      outcome.statuses.append(process.wait(60))
      outcome.seconds_to_leave = max(outcome.seconds_to_leave, time.monotonic() - sent)
      outcome.interrupted += 1
      self._note(outcome, workdir)
    self.finish(workdir, stage)
    self._note(outcome, workdir)
    outcome.finished = True
    return outcome

  def _wait_for_loop(self, process: subprocess.Popen, workdir: Path, stage: str) -> bool:
    """Whether the process comes to its loop before it ends."""
    ends = time.monotonic() + WAIT_SECONDS
    saved = any((workdir / stage / 'checkpoints').glob('[0-9]*'))
    while ('resumed' if saved else 'compiled') not in self.log(workdir).read_text():
      if process.poll() is not None:
        return False
      if time.monotonic() > ends:
        process.kill()
        raise RuntimeError(f'{stage} did not begin:\n{self.log(workdir).read_text()}')
      time.sleep(0.02)
    return True

  def _note(self, outcome: Outcome, workdir: Path) -> None:
    said = self.log(workdir).read_text()
    steps = [line.split()[3].strip(',') for line in said.splitlines() if 'resumed' in line]
    outcome.resumed.append(int(steps[0]) if steps else 0)
    outcome.damaged += [line for line in said.splitlines() if 'is damaged' in line]


def differences(found: Path, expected: Path, stage: str) -> list[str]:
  """In what two runs of a stage differ: files, figures of epochs, the last state."""
  told = []
  names = {
    'search': ['search/genotype.json', 'search/halves.json'],
    'retrain': ['model/weights.safetensors', 'model/preprocessing.json', 'model/genotype.json'],
  }[stage]
  for name in names:
    if (found / name).read_bytes() != (expected / name).read_bytes():
      told.append(f'{name} differs')
  lines = [_entries(folder / stage / 'metrics.jsonl') for folder in (found, expected)]
  if lines[0] != lines[1]:
    told.append(f'metrics.jsonl: {len(lines[0])} lines, expected {len(lines[1])}, or others')
  states = [last_state(folder / stage / 'checkpoints') for folder in (found, expected)]
  if states[0].keys() != states[1].keys():
    told.append('the last checkpoint has other arrays')
  else:
    told += [
      f'{name} differs'
      for name in states[0]
      if states[0][name].tobytes() != states[1][name].tobytes()
    ]
  return told


def _entries(path: Path) -> list[dict[str, Any]]:
  """The lines less the seconds, which differ from run to run."""
  lines = path.read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k != 'seconds'} for line in lines]


def last_state(folder: Path) -> dict[str, np.ndarray]:
  """Every array of the newest checkpoint, by its path."""
  newest = max(
    (path for path in folder.iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
  )
  with ocp.StandardCheckpointer() as checkpointer:
    vectors = {
      name: np.asarray(one) for name, one in checkpointer.restore(newest / 'default').items()
    }
  described = json.loads((newest / '_CHECKPOINT_METADATA').read_text())['custom_metadata']
  state = {}
  for line in described['structure'][1:]:
    name, kind = line.rsplit(' ', 1)
    kind, _, lengths = kind.rstrip(']').partition('[')
    shape = [int(length) for length in lengths.split(',') if length]
    kind = {'int': 'int64', 'float': 'float64'}.get(kind, kind)
    values, vectors[kind] = np.split(vectors[kind], [math.prod(shape)])
    state[name] = values.reshape(shape)
  assert state and not any(len(left) for left in vectors.values())
  return state


def interrupted_runs(
  place: Path,
  *,
  signals: Sequence[int],
  epochs: int,
  seed: int,
  seconds: float,
  stages: Sequence[str] = STAGES,
  quick: bool = False,
) -> list[Outcome]:
  """Sends each stage the signals, spread over so many seconds of their loops."""
  chance, runs = random.Random(seed), Runs(place, epochs=epochs, quick=quick)
  expected = runs.in_one_piece(stages)
  found = place / 'interrupted'
  runs.prepare(found)
  outcomes = []
  for stage in stages:
    outcome = runs.interrupt(
      stage, found, signals=signals, seconds=2 * seconds / len(signals), chance=chance
    )
    outcome.differences = differences(found, expected, stage)
    outcomes.append(outcome)
  return outcomes


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--signal', choices=['KILL', 'TERM', 'INT'], default='KILL')
  parser.add_argument('--count', type=int, default=20, help='interruptions of each stage')
  parser.add_argument('--epochs', type=int, default=60, help='of each stage')
  parser.add_argument('--seconds', type=float, default=20, help='of a loop, over which they fall')
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  place = Path(tempfile.mkdtemp(prefix='interrupted_'))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  outcomes = interrupted_runs(
    place,
    signals=[signal.Signals[f'SIG{options.signal}']] * options.count,
    epochs=options.epochs,
    seed=options.seed,
    seconds=options.seconds,
  )
  for outcome in outcomes:
    print(json.dumps(dataclasses.asdict(outcome)))
  different = sum(len(outcome.differences) for outcome in outcomes)
  if different:
    print(f'the runs are kept in {place}')
  else:
    shutil.rmtree(place)
  print(
    json.dumps(
      {
        'signal': options.signal,
        'interrupted': sum(outcome.interrupted for outcome in outcomes),
        'damaged_checkpoints': sum(len(outcome.damaged) for outcome in outcomes),
        'seconds_to_leave': round(max(outcome.seconds_to_leave for outcome in outcomes), 2),
        'differences': different,
      }
    )
  )
  return 1 if different else 0


if __name__ == '__main__':
  sys.exit(main())
