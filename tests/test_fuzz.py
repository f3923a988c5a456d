"""Whatever a file holds that somebody else may have made: it is loaded, or refused in one line."""

import contextlib
import copy
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_prep import dataset_json, split_file
from thrifty_jax import config as configs
from thrifty_jax import drawing, genotype, likeness, model, predict, stages
from thrifty_jax.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]
GENOTYPE = (PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json').read_bytes()
DATASET = {
  'name': 'Made up',
  'channel_names': {'0': 'CT', '1': 'T2'},
  'labels': {'background': 0, 'liver': 1, 'kidney': 2},
  'numTraining': 7,
  'file_ending': '.nii.gz',
}
SPLITS = {
  'train': ['a', 'b', 'c'],
  'validation': ['d'],
  'test': ['e', 'f'],
  'made_by': {'folds': 3, 'fold': 0, 'validation_patients': [], 'test_patients': []},
}
# JSON as text: some of it is what json.dumps refuses to write.
HOSTILE = (
  *('null', 'true', 'false', '-1', '0', '1', '2', '3', '-0.0', '0.5', '1e-320', '1e308', '-1e308'),
  *('1e999', 'NaN', 'Infinity', '-Infinity', '9' * 18, '9' * 30, '9' * 5000, '1000000000'),
  *('""', '"0"', '"1"', '"x"', '"none"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J"', '"\\n"'),
  *('"../../../../etc/passwd"', '"/dev/zero"', '"' + 'x' * 5000 + '"', '"\u0663"'),
  *('[]', '{}', '[[]]', '[null]', '{"": {}}', '[0, 1]', '[1, 0]', '["a", "a"]', '[true]'),
  '[' * 40 + ']' * 40,
  '{"a":' * 45 + '0' + '}' * 45,
  '[' * 900 + ']' * 900,
  '[' * 100_000 + ']' * 100_000,
)
MARK = '\x02mark\x03'


def damaged_bytes(random_: random.Random, data: bytes) -> bytes:
  """One to three of: bits flipped, a piece cut off, cut out, put elsewhere, or replaced."""
  for _ in range(random_.randint(1, 3)):
    a, b = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + random_.choice((1, 4, 64, 1 << 20)))
    kind = random_.randrange(6)
    if kind == 0 and data:
      flipped = bytearray(data)
      for _ in range(random_.randint(1, 8)):
        flipped[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
      data = bytes(flipped)
    elif kind == 1:
      data = data[:b]
    elif kind == 2:
      data = data[:a] + data[b:]
    elif kind == 3:
      place = random_.randrange(len(data) + 1)
      data = data[:place] + data[a:b] + data[place:]
    elif kind == 4:
      data = data[:a] + random_.randbytes(b - a) + data[b:]
    else:
      data = data[:a] + random_.choice(HOSTILE[:-2]).encode() + data[b:]
  return data


def damaged_json(random_: random.Random, value: Any) -> bytes:
  """Valid JSON in which one to three values are replaced, removed, renamed, repeated or swapped."""
  value, inserted = copy.deepcopy({'': value}), []
  for _ in range(random_.randint(1, 3)):
    places = list(_places(value))
    place, name = random_.choice(places)
    kind = random_.randrange(8)
    if kind == 0 and place is not value:
      del place[name]
    elif kind == 1 and isinstance(place, dict) and place is not value:
      place[random_.choice(('', '0', '9' * 5000, 'x', 'skipped', '\ud800'))] = place.pop(name)
    elif kind == 2 and isinstance(place, list):
      place += copy.deepcopy(place) * random_.choice((1, 1, 50))
    elif kind == 3:
      other, other_name = random_.choice(places)
      place[name], other[other_name] = copy.deepcopy((other[other_name], place[name]))
    else:
      place[name] = f'{MARK}{len(inserted)}'
      inserted.append(random_.choice(HOSTILE))
  text = json.dumps(value.get(''))
  for index, hostile in enumerate(inserted):
    text = text.replace(json.dumps(f'{MARK}{index}'), hostile)
  if random_.random() < 0.05 and text.startswith('{"'):  # a name that is there twice
    text = '{' + text[1 : text.index(':')] + ': 0, ' + text[1:]
  return text.encode('utf-8', errors='surrogatepass')


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
  """Every value in lists and objects: what holds it, and under which name."""
  for name in list(value) if isinstance(value, dict) else range(len(value)):
    yield value, name
    if isinstance(value[name], dict | list):
      yield from _places(value[name])


def outcome(read: Callable[[], Any]) -> Any:
  """What was read, or None where it was refused in one line; anything else comes through."""
  try:
    with time_limit(10):
      return read()
  except InputError as error:
    assert '\n' not in str(error), error
    assert len(str(error)) < 2000, error
    return None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
  def stop(*arguments):
    raise TimeoutError(f'not done in {seconds} s')

  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def fuzz(path: Path, valid: bytes, read: Callable[[], Any], *, times: int, seed: int) -> int:
  """Reads the file in as many damaged forms; how many of them were loaded."""
  random_, loaded = random.Random(seed), 0
  for index in range(times):
    if index % 3:
      path.write_bytes(damaged_json(random_, json.loads(valid)))
    else:
      path.write_bytes(damaged_bytes(random_, valid))
    loaded += outcome(read) is not None
  path.write_bytes(valid)
  assert outcome(read) is not None
  assert 0 < loaded < times  # else the damage never reaches what it should
  return loaded


def test_a_damaged_genotype_is_a_network_or_refused(tmp_path):
  path = tmp_path / 'genotype.json'

  def read():
    found = genotype.load(path)
    scores = drawing.edge_scores(path)
    drawing.draw_cells(found, scores)
    assert len(found.down) == len(found.up) <= 16
    for kind in ('down', 'up'):
      for node, edges in enumerate(getattr(found, kind)):
        assert [source for source, _ in edges] == sorted({source for source, _ in edges})
        for source, name in edges:
          assert name in genotype.operations_of(kind, source) and source < 2 + node
    return found

  fuzz(path, GENOTYPE, read, times=2000, seed=0)


def test_a_damaged_dataset_json_describes_a_data_set_or_is_refused(tmp_path):
  def read():
    found = dataset_json.read(tmp_path)
    texts = [found.name, *found.classes, *found.channels]
    assert len(found.classes) > 0 and all(text.isprintable() for text in texts)
    return found

  valid = json.dumps(DATASET).encode()
  fuzz(tmp_path / 'dataset.json', valid, read, times=2000, seed=1)


def test_a_damaged_splits_json_splits_patients_or_is_refused(tmp_path, phantom_config):
  path, config = tmp_path / 'splits.json', phantom_config(tmp_path)

  def read():
    split_file.honour(config.copy_and_resolve_references(), tmp_path, needs_scans=False)
    found = split_file.read(path)
    names = [name for part in found.values() for name in part]
    assert len(names) == len({*names}) and all(name.isprintable() for name in names)
    return found

  fuzz(path, json.dumps(SPLITS).encode(), read, times=2000, seed=2)


def test_a_damaged_config_of_a_run_is_compared_or_refused(tmp_path, phantom_config):
  config = phantom_config(tmp_path)
  valid = json.dumps(stages.as_json(config)).encode()

  def read():
    return [stages.changes(stage, config, tmp_path) for stage in stages.STAGES]

  fuzz(tmp_path / 'config.json', valid, read, times=1000, seed=3)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, phantom_config, random_model):
  """A model folder that nobody has damaged."""
  config = phantom_config(tmp_path_factory.mktemp('config'))
  config.data.classes = ('background', 'organ')
  config.model.update({'channels': 4, 'depth': 2})
  ranges = {name: [1, 9] for name in likeness.NEEDED}
  return random_model(tmp_path_factory.mktemp('whole') / 'model', config, training_scans=ranges)


@pytest.fixture
def folder(tmp_path, whole):
  """A model folder to be damaged."""
  return shutil.copytree(whole, tmp_path / 'model')


def load(folder):
  """The model, which is the network that its folder describes, whatever was done to the folder."""
  loaded = predict.load_model(folder).members[0]
  spec = loaded.preprocessing
  channels = spec['modalities'] * (2 * spec['context'] + 1)
  image = jax.ShapeDtypeStruct((1, 16, 16, channels), np.float32)
  expected = jax.eval_shape(loaded.module.init, jax.random.key(0), image)['params']
  jax.tree.map(
    lambda a, b: _require((a.shape, a.dtype) == (b.shape, b.dtype)), loaded.params, expected
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.params))
  return loaded


def _require(holds):
  assert holds


@pytest.mark.parametrize(('name', 'times'), [('preprocessing.json', 300), ('genotype.json', 100)])
def test_a_damaged_model_that_was_signed_anew_is_loaded_or_refused(folder, name, times):
  def read():
    model.sign(folder)
    return load(folder)

  fuzz(folder / name, (folder / name).read_bytes(), read, times=times, seed=4)


def test_damaged_checksums_are_those_of_the_files_or_refused(folder):
  path = folder / model.CHECKSUMS
  fuzz(path, path.read_bytes(), lambda: load(folder), times=150, seed=5)


@pytest.mark.parametrize(
  'name', ['weights.safetensors', 'preprocessing.json', 'genotype.json', 'card.md']
)
def test_no_damage_passes_the_checksums(folder, name):
  random_, path = random.Random(6), folder / name
  valid = path.read_bytes()
  for _ in range(50):
    path.write_bytes(damaged_bytes(random_, valid))
    assert path.read_bytes() == valid or outcome(lambda: load(folder)) is None


def test_damaged_weights_that_were_signed_anew_have_the_shapes_of_the_network_or_are_refused(
  folder,
):
  random_, path, loaded = random.Random(7), folder / 'weights.safetensors', 0
  valid = path.read_bytes()
  size = int.from_bytes(valid[:8], 'little')
  header, tensors = json.loads(valid[8 : 8 + size]), valid[8 + size :]
  for index in range(300):
    if index % 3 == 0:
      damaged = damaged_bytes(random_, valid)
    elif index % 3 == 1:
      damaged = valid[: 8 + size] + damaged_bytes(random_, tensors)
    else:
      text = damaged_json(random_, header)
      damaged = len(text).to_bytes(8, 'little') + text + tensors
    path.write_bytes(damaged)
    model.sign(folder)
    loaded += outcome(lambda: load(folder)) is not None
  assert 0 < loaded < 300
