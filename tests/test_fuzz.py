"""Whatever a file holds that somebody else may have made: it is loaded, or refused in one line."""

import ast
import contextlib
import functools
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import signal
import tracemalloc
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import fabricated
import jax
import numpy as np
import pytest
from fuzzing import damage

from thrifty_jax import files, logbook, model_folder, predict, records, stages
from thrifty_jax.data import data_file, likeness, split_file
from thrifty_jax.drawings import drawing, lean_drawing
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype, space
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.reporting import comparison, patients, plots, report
from thrifty_jax.scans import dataset_json, overlays

PROJECT = Path(__file__).resolve().parents[1]
GENOTYPE = (PROJECT / 'thrifty_jax' / 'genotypes' / 'thrifty_0.61m.json').read_bytes()
LEAN = (PROJECT / 'thrifty_jax' / 'genotypes' / 'lean_0.48m.json').read_bytes()
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
FILES_OF_A_MODEL = (
  *('weights.safetensors', 'preprocessing.json', 'genotype.json', 'card.md'),
  model_folder.CHECKSUMS,
)


def damaged_bytes(chance: random.Random, data: bytes) -> bytes:
  """Damages data in one to three places."""
  for _ in range(chance.randint(1, 3)):
    data = damage.change_bytes(chance, data)
  return data


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
def time_limit(seconds: float) -> Generator[None]:
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
      path.write_bytes(damage.change_json(random_, json.loads(valid)))
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
          assert name in space.derivable(space.resample_of(kind, source)) and source < 2 + node
    return found

  fuzz(path, GENOTYPE, read, times=1200, seed=0)


def test_a_damaged_lean_genotype_is_a_shape_of_the_space_or_refused(tmp_path):
  path = tmp_path / 'genotype.json'

  def read():
    found = genotype.load_any(path)
    if isinstance(found, LeanShape):  # damage may have taken its space
      lean_drawing.draw_shape(found).inline()
      assert 3 <= len(found.levels) <= 6 and found.stem in (1, 2, 4)
      assert all(1 <= level.width <= 1024 for level in found.levels)
    return found

  fuzz(path, LEAN, read, times=600, seed=0)


def test_a_damaged_dataset_json_describes_a_data_set_or_is_refused(tmp_path):
  def read():
    found = dataset_json.read(tmp_path)
    texts = [found.name, *found.classes, *found.channels]
    assert len(found.classes) > 0 and all(text.isprintable() for text in texts)
    return found

  valid = json.dumps(DATASET).encode()
  fuzz(tmp_path / 'dataset.json', valid, read, times=1000, seed=1)


def test_a_damaged_splits_json_splits_patients_or_is_refused(tmp_path, phantom_config):
  path, config = tmp_path / 'splits.json', phantom_config(tmp_path)

  def read():
    split_file.honour(config.copy_and_resolve_references(), tmp_path)
    found = split_file.read(path)
    names = [name for part in found.values() for name in part]
    assert len(names) == len({*names}) and all(name.isprintable() for name in names)
    return found

  fuzz(path, json.dumps(SPLITS).encode(), read, times=1000, seed=2)


def test_a_damaged_config_of_a_run_is_compared_or_refused(tmp_path, phantom_config):
  config = phantom_config(tmp_path)
  valid = json.dumps(stages.to_json(config)).encode()

  def read():
    return [stages.find_changes(stage, config, tmp_path) for stage in stages.STAGES]

  fuzz(tmp_path / 'config.json', valid, read, times=300, seed=3)


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


@functools.cache
def shapes(module, channels):
  image = jax.ShapeDtypeStruct((1, 16, 16, channels), np.float32)
  return jax.eval_shape(module.init, jax.random.key(0), image)['params']


def load(folder):
  """The model, which is the network that its folder describes, whatever was done to the folder."""
  loaded = predict.load_model(folder).members[0]
  expected = shapes(loaded.module, loaded.spec.image_channels)
  assert jax.tree.structure(loaded.params) == jax.tree.structure(expected)
  for leaf, wanted in zip(*map(jax.tree.leaves, (loaded.params, expected)), strict=True):
    assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype) and np.isfinite(leaf).all()
  return loaded


@pytest.mark.parametrize(('name', 'times'), [('preprocessing.json', 250), ('genotype.json', 160)])
def test_a_damaged_model_that_was_signed_anew_is_loaded_or_refused(folder, name, times):
  def read():
    model_folder.sign(folder)
    return load(folder)

  fuzz(folder / name, (folder / name).read_bytes(), read, times=times, seed=4)


def test_damaged_checksums_are_those_of_the_files_or_refused(folder):
  path = folder / model_folder.CHECKSUMS
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
      text = damage.change_json(random_, header)
      damaged = len(text).to_bytes(8, 'little') + text + tensors
    path.write_bytes(damaged)
    model_folder.sign(folder)
    loaded += outcome(lambda: load(folder)) is not None
  assert 0 < loaded < 300


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The files of a run that nobody has damaged, with a comparison."""
  workdir = tmp_path_factory.mktemp('run')
  fabricated.fabricate(workdir, size=8)
  # Few epochs are as good as many.
  for stage in ('search', 'retrain'):
    path = workdir / stage / 'metrics.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:3]))
  rivals = [fabricated.rival(name, ms=5.0, seeds=(0.8, 0.9)) for name in ('thrifty', 'unet')]
  records.write(workdir / 'compare' / 'summary.json', fabricated.compared(*rivals))
  of_one = {'seed': 0, 'architecture_dsc': 0.8, 'parameters': 90_000, 'epochs': 3}
  files.write_json(workdir / 'search' / 'seeds.json', {'picked': 0, 'searches': [of_one] * 2})
  rows = ['rival,patient,class,dsc', 'thrifty,p1,grey,0.5', 'unet,p1,grey,0.6']
  files.write_text(workdir / 'compare' / 'scores.csv', '\n'.join(rows) + '\n')
  return workdir


@pytest.fixture
def quick_pictures(monkeypatch):
  """Plots that look at all they are given and draw nothing; pictures of slices drawn once."""

  def curves(lines, *, mark=None, y_limits=(0, 1), **more):
    assert all(math.isfinite(value) for value in (*y_limits, *(mark or (0,))[:1]))
    for line in lines:
      assert len(line.x) == len(line.y)
      assert all(y is None or math.isfinite(y) for y in line.y) and all(map(math.isfinite, line.x))
    return '<svg/>'

  def dots(groups, **more):
    for of_group in groups.values():
      assert of_group and all(values and 0 <= min(values) <= 100 for values in of_group.values())
    return '<svg/>'

  def front(compared, part):
    for rival in compared.rivals:
      assert not rival.timed or 0 < rival.ms < math.inf
    return '<svg/>'

  frames = functools.cache(lambda path, changed, colours: overlays.frames(path, colours))
  by_time = types.SimpleNamespace(**vars(overlays))
  by_time.frames = lambda path, colours: frames(path, path.stat().st_mtime_ns, colours)
  monkeypatch.setattr(patients, 'overlays', by_time)
  monkeypatch.setattr(plots, 'draw_curves', curves)
  monkeypatch.setattr(plots, 'draw_dots', dots)
  monkeypatch.setattr(comparison, 'draw', front)


FILES_OF_A_RUN = {
  **dict.fromkeys(('evaluate/summary.json', 'compare/summary.json'), 100),
  **dict.fromkeys(('search/metrics.jsonl', 'retrain/metrics.jsonl', 'evaluate/scores.csv'), 60),
  **dict.fromkeys(('config.json', 'retrain/summary.json', 'compare/scores.csv'), 60),
  **dict.fromkeys(('search/genotype.json', 'evaluate/predictions/p1.npz'), 60),
  **dict.fromkeys(('environment.json', 'retrain/resources.json', 'search/seeds.json'), 30),
}


@pytest.mark.parametrize(('name', 'times'), FILES_OF_A_RUN.items())
def test_a_damaged_file_of_a_run_is_reported_on_or_refused(
  run, tmp_path, quick_pictures, name, times
):
  workdir = shutil.copytree(run, tmp_path / 'run')
  path, valid, random_, loaded = workdir / name, (run / name).read_bytes(), random.Random(8), 0
  for index in range(times):
    if index % 3 == 0 or path.suffix in ('.csv', '.npz'):
      damaged = damaged_bytes(random_, valid)
    elif path.suffix == '.json':
      damaged = damage.change_json(random_, json.loads(valid))
    else:
      lines = valid.splitlines(keepends=True)
      place = random_.randrange(len(lines))
      lines[place] = damage.change_json(random_, json.loads(lines[place])) + b'\n'
      damaged = b''.join(lines)
    path.write_bytes(damaged)
    loaded += outcome(lambda: report.report(workdir)) is not None
  assert loaded < times
  path.write_bytes(valid)
  assert outcome(lambda: report.report(workdir)) is not None


def test_lines_of_a_logbook_are_all_read_or_one_is_named(tmp_path):
  book = logbook.Logbook(tmp_path)
  book.append({'epoch': 1, 'step': 1, 'loss': 0.5})
  book.append({'epoch': 2, 'step': 2, 'loss': 0.4})
  valid = book.path.read_bytes()
  book.path.write_bytes(valid[:-3])  # a crash while it was written
  assert [entry['step'] for entry in book.entries()] == [1]
  book.path.write_bytes(valid.replace(b'0.5', b'0,5'))
  with pytest.raises(InputError, match='metrics.jsonl, line 1: '):
    book.entries()
  random_ = random.Random(9)
  for _ in range(500):
    book.path.write_bytes(damaged_bytes(random_, valid))
    for entry in outcome(book.entries) or ():
      assert isinstance(entry['step'], int)


def header(claimed):
  """The beginning of a file of weights, with a header of our making."""
  text = json.dumps(claimed).encode()
  return len(text).to_bytes(8, 'little') + text


TERABYTES = {'dtype': 'F32', 'shape': [1 << 38], 'data_offsets': [0, 1 << 40]}
CLAIMS = {
  'a tensor of a terabyte': header({'classes/kernel': TERABYTES}) + bytes(100),
  'a header of exabytes': (1 << 60).to_bytes(8, 'little') + b'{}',
  'sides that overflow': header(
    {'x': {'dtype': 'F32', 'shape': [1 << 62, 1 << 62], 'data_offsets': [0, 4]}}
  )
  + bytes(4),
  'a negative side': header({'x': {'dtype': 'F32', 'shape': [-1], 'data_offsets': [0, 4]}})
  + bytes(4),
  'a tensor outside of the file': header(
    {'x': {'dtype': 'F32', 'shape': [1], 'data_offsets': [1 << 62, (1 << 62) + 4]}}
  ),
  'more tensors than any network has': header(
    {f't{i}': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]} for i in range(30_000)}
  ),
}


@contextlib.contextmanager
def little_memory(most_bytes=100 << 20):
  tracemalloc.start()
  try:
    yield
    assert tracemalloc.get_traced_memory()[1] < most_bytes
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize('content', CLAIMS.values(), ids=CLAIMS)
def test_weights_that_claim_more_than_there_is_are_refused_at_once(folder, content):
  (folder / 'weights.safetensors').write_bytes(content)
  model_folder.sign(folder)
  with little_memory():
    assert outcome(lambda: load(folder)) is None


@pytest.mark.parametrize('size', [1 << 27, 1 << 42])
def test_weights_larger_than_the_network_are_refused_without_taking_memory(folder, size):
  path = folder / 'weights.safetensors'
  tensor = {'dtype': 'F32', 'shape': [size // 4], 'data_offsets': [0, size]}
  path.write_bytes(header({'classes/kernel': tensor}))
  with path.open('ab') as file:  # it takes no place on the disk either
    file.truncate(path.stat().st_size + size)
  sums = files.read_json(folder / model_folder.CHECKSUMS)
  if size < 1 << 30:  # else even the sum would take hours
    with path.open('rb') as file:
      sums['sha256'][path.name] = hashlib.file_digest(file, 'sha256').hexdigest()
    files.write_json(folder / model_folder.CHECKSUMS, sums)
  with little_memory(size // 8), pytest.raises(InputError, match='weights.safetensors'):
    load(folder)


HUGE = {
  **{name: 10**9 for name in ('image_size', 'channels', 'depth', 'modalities', 'context')},
  'classes': [f'c{i}' for i in range(1000)],
  'curvature_flow_iterations': 10**12,
  'mean': [1e300],
  'std': [1e-300],
}


@pytest.mark.parametrize(('field', 'value'), HUGE.items())
def test_a_description_of_what_no_memory_holds_is_refused(folder, field, value):
  path = folder / 'preprocessing.json'
  files.write_json(path, files.read_json(path) | {field: value})
  model_folder.sign(folder)
  with little_memory(), pytest.raises(InputError, match=rf'{field}.* is '):
    load(folder)


def test_a_genotype_with_a_million_edges_is_refused(tmp_path):
  content = json.loads(GENOTYPE)
  content['down'][0] *= 150_000
  (tmp_path / 'edges.json').write_text(json.dumps(content))
  content['down'] = [content['up'][0]] * 150_000
  (tmp_path / 'nodes.json').write_text(json.dumps(content))
  (tmp_path / 'long.json').write_bytes(GENOTYPE + b' ' * files.MOST_JSON_BYTES)
  for name, reason in (('edges', 'two edges'), ('nodes', '1 to 16'), ('long', 'bytes')):
    with time_limit(10), pytest.raises(InputError, match=reason):
      genotype.load(tmp_path / f'{name}.json')


def test_what_is_no_file_is_refused_and_not_waited_for(folder, tmp_path):
  readers: dict[str, tuple[Path, Callable[[], Any]]] = {
    name: (folder / name, lambda: load(folder)) for name in FILES_OF_A_MODEL
  }
  readers['dataset.json'] = (tmp_path / 'dataset.json', lambda: dataset_json.read(tmp_path))
  readers['splits.json'] = (
    tmp_path / 'splits.json',
    lambda: split_file.read(tmp_path / 'splits.json'),
  )
  readers['data.json'] = (tmp_path / 'data.json', lambda: data_file.require(tmp_path))
  readers['a genotype'] = (tmp_path / 'g.json', lambda: genotype.load(tmp_path / 'g.json'))
  readers['a logbook'] = (tmp_path / 'metrics.jsonl', logbook.Logbook(tmp_path).entries)
  for path, read in readers.values():
    before = path.read_bytes() if path.exists() else None
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/zero', path)):
      path.unlink(missing_ok=True)
      make(path)
      assert outcome(read) is None
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    if before is not None:
      path.write_bytes(before)
  assert outcome(lambda: load(folder)) is not None


@pytest.mark.parametrize('name', ['../secret', '/etc/passwd', '/dev/zero', 'weights\0', 'more'])
def test_checksums_lead_to_no_other_files(folder, tmp_path, name):
  (tmp_path / 'secret').write_text('x')
  path = folder / model_folder.CHECKSUMS
  content = files.read_json(path)
  content['sha256'][name] = '0' * 64
  files.write_json(path, content)
  with pytest.raises(InputError, match='is not a file of a model folder'):
    load(folder)


def test_a_model_of_links_is_loaded_as_download_caches_keep_them(folder, tmp_path):
  for name in FILES_OF_A_MODEL:
    (folder / name).rename(tmp_path / f'blob_{name}')
    (folder / name).symlink_to(tmp_path / f'blob_{name}')
  assert load(folder).spec.network.name == 'thrifty'


class Executed:
  """What unpickling would run."""

  def __init__(self, place):
    self.place = place

  def __reduce__(self):
    return os.mkdir, (str(self.place),)


def test_nothing_that_is_read_is_executed(folder, run, tmp_path, quick_pictures):
  bomb = pickle.dumps(Executed(tmp_path / 'executed'))
  objects = io.BytesIO()
  np.savez(objects, image=np.array([Executed(tmp_path / 'executed')], object))
  workdir = shutil.copytree(run, tmp_path / 'run')
  prediction = workdir / 'evaluate' / 'predictions' / 'p1.npz'
  for content in (bomb, objects.getvalue()):
    prediction.write_bytes(content)
    assert outcome(lambda: report.report(workdir)) is None
    for name in FILES_OF_A_MODEL[:4]:
      whole = (folder / name).read_bytes()
      (folder / name).write_bytes(content)
      model_folder.sign(folder)
      assert (outcome(lambda: load(folder)) is None) == (name != 'card.md')
      (folder / name).write_bytes(whole)
  assert not (tmp_path / 'executed').exists()


def test_the_program_has_no_means_to_execute_what_it_reads():
  names = {
    'pickle',
    'cPickle',
    'dill',
    'cloudpickle',
    'joblib',
    'marshal',
    'shelve',
    'yaml',
    'torch',
  }
  sources = [
    path for part in ('thrifty_jax', 'data_prep') for path in (PROJECT / part).rglob('*.py')
  ]
  assert len(sources) > 80
  for path in sources:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Import | ast.ImportFrom):
        modules = {getattr(node, 'module', None) or '', *(alias.name for alias in node.names)}
        assert not {module.split('.')[0] for module in modules} & names, path
      if isinstance(node, ast.Name):
        assert node.id not in ('eval', 'exec', 'compile', '__import__'), path
      if isinstance(node, ast.keyword):
        assert node.arg not in ('allow_pickle', 'shell'), path


def test_names_that_pictures_could_take_for_formulas_are_drawn(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  for name in ('summary.json', 'scores.csv'):
    path = workdir / 'evaluate' / name
    text = path.read_text(encoding='utf-8').replace(
      'grey', r'$\\frac$' if name.endswith('json') else r'$\frac$'
    )
    path.write_text(text.replace('white', 'w' * 4000))
  page = report.report(workdir).read_text(encoding='utf-8')
  assert r'$\frac$: ' in page and 'w' * 4000 in page
