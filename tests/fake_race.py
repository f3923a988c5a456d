"""A race whose stopwatch and trainings are stand-ins: what it does takes no time and is known."""

import contextlib
import dataclasses
import math
import zlib
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax import records, stopping
from thrifty_jax.cost import machine
from thrifty_jax.cost.costs import Candidate, Cost
from thrifty_jax.data.batching import Prepared, PreparedCase
from thrifty_jax.errors import NotFinite
from thrifty_jax.logbook import Logbook
from thrifty_jax.networks import genotype
from thrifty_jax.networks.layers import Counts
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.racing import jobs, short_trainings, timing
from thrifty_jax.racing.timing import Stopwatch
from thrifty_jax.run_files import PatientScore, Retrained
from thrifty_jax.training import trainings

PATIENTS = tuple(f'p{number:02d}' for number in range(15))
EPOCH_SECONDS = 3.0  # as the trainings write them
TEST = PATIENTS[::5]  # of fold 0 of 5


def count_macs(found):
  """Returns a rough number of multiplications for a slice of 64 x 64; of cells a fixed one."""
  if not isinstance(found, LeanShape):
    return 5_000_000
  side, total = 64 / found.stem, 0.0
  for number, level in enumerate(found.levels):
    convolutions = level.encoder + level.decoder + (found.skip == 'concat')
    total += 9 * level.width**2 * convolutions * (side / 2**number) ** 2
  return int(total)


def find_ms(found):
  """Returns the milliseconds that the stopwatch finds: 1 for 10^6 multiplications."""
  return (count_macs(found) / 1e6) ** 0.8


def score(found, epochs):
  """Returns the DSC that a network comes to: slower is better, and a little is left to chance."""
  luck = zlib.crc32(repr(found).encode()) % 1000 / 1e5
  return 0.8 + 0.02 * math.log10(count_macs(found) / 1e6) + luck + 0.001 * epochs


def make_cost(name, found, **changes):
  """Returns a cost as the stand-in for the stopwatch finds it."""
  cost = Cost(
    name=name, title=getattr(found, 'title', 'cells'), space='lean', parameters=1000,
    macs=count_macs(found), activation_bytes=None, size=64, runtime='jax', precision='float32',
    threads=1, ms=find_ms(found), ms_spread=0.01, file_bytes=None, machine=machine.describe(),
  )  # fmt: skip
  return dataclasses.replace(cost, **changes)


def make_config():
  """Returns the settings of a small race."""
  config = configs.default()
  configs.set_model(config, 'lean')
  config.data.image_size = 64
  config.cost.runtime = 'jax'
  config.retrain.batch_size = 4  # 9 steps are an epoch of 9 patients with 4 slices each
  config.front.update({'entrants': 6, 'rungs': 2, 'folds': 1, 'steps': 9, 'workers': 1})
  return config


class Stands:
  """Stand-ins for stopwatch, slices and trainings of a race.

  Attributes:
    timed: Names of the networks that were timed.
    trained: Each training, as (folder from that of the race, settings).
    diverges: Function from a genotype and the number of epochs to whether the loss is non-finite.
    stop: Function from the number of trainings that began to whether a signal stops the next one.
    measured: Function that is called with the names of networks before they are timed.
    ways: Runtime, precision and share of find_ms of each way in which networks are timed.
  """

  def __init__(self, monkeypatch):
    self.timed, self.trained = [], []
    self.diverges = lambda found, epochs: False
    self.stop = lambda count: False
    self.measured = lambda names: None
    self.ways = [('jax', 'float32', 1.0)]
    monkeypatch.setattr(timing, 'of_config', lambda name, config, found: Candidate(name, found))
    monkeypatch.setattr(timing.costs, 'measure', self._measure)
    monkeypatch.setattr(
      Stopwatch, 'count', lambda watch, one: Counts(1000, count_macs(one.genotype))
    )
    cases = tuple(PreparedCase(name, name, 0, 4, (4, 64, 64), (1, 1, 1), ()) for name in PATIENTS)
    slices = Prepared(Path(), cases, (), (64, 64, 1))
    monkeypatch.setattr(short_trainings, 'open_slices', lambda workdir, config: slices)
    monkeypatch.setattr(trainings.retrain, 'retrain', self._retrain)
    monkeypatch.setattr(trainings.data_file, 'pass_on', lambda workdir, place, config: None)
    monkeypatch.setattr(jobs.device, 'prepare', lambda config: None)
    monkeypatch.setattr(jobs.lock, 'hold', lambda *places, **settings: contextlib.nullcontext())

  def _measure(self, candidates, ways, *, threads, repeats, most_spread, activations):
    names = [one.name for one in candidates]
    self.measured(names)
    self.timed += names
    return [
      make_cost(
        one.name, one.member, runtime=runtime, precision=name, ms=share * find_ms(one.member)
      )
      for one in candidates
      for runtime, name, share in self.ways
    ]

  def _retrain(self, config, folder):
    if self.stop(len(self.trained)):
      raise stopping.Stopped(15)
    parts = folder.parts
    first = max(number for number, part in enumerate(parts) if part in ('search', 'front'))
    self.trained.append(('/'.join(parts[first + 1 :]), config))
    (folder / 'retrain' / 'checkpoints').mkdir(parents=True)
    Logbook(folder / 'retrain').append({'epoch': 1, 'step': 9, 'seconds': EPOCH_SECONDS})
    found = genotype.load_any(Path(config.genotype))
    genotype.save(folder / 'retrain' / 'genotype.json', found)
    if self.diverges(found, config.retrain.epochs):
      raise NotFinite('the loss is not finite')
    dsc = score(found, config.retrain.epochs)
    judges = config.data.validation_patients or PATIENTS[1::5]
    patients = [PatientScore(name, dsc + 0.01 * PATIENTS.index(name)) for name in judges]
    summary = Retrained(
      model='lean', parameters=1, macs=1, image=(8, 8, 1), genotype=None,
      epochs=config.retrain.epochs, planned_epochs=(config.retrain.epochs,), precision='float32',
      steps=1, best_epoch=1, validation_dsc=dsc, largest_component=(), selection='', seconds=1,
      patients=tuple(patients),
    )  # fmt: skip
    records.write(folder / 'retrain' / 'summary.json', summary)
    (folder / 'model').mkdir()
