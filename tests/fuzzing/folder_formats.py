"""Formats of what the program itself writes and reads again: models, slices, caches, records."""

import functools
import json
import random
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from data_prep import contents, fingerprint, folder, phantom, prepare
from fuzzing import damage
from fuzzing.scan_formats import Format
from fuzzing.volume_files import Files
from thrifty_jax import config as configs
from thrifty_jax import files, model_folder, predict
from thrifty_jax.data import data_file, prepared
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.scans.volumes import Case
from thrifty_jax.training import compiling


def change(chance: random.Random, data: bytes) -> bytes:
  """Changes values of JSON; of a file of weights the values of its header."""
  with_header = data[8:9] == b'{'
  size = int.from_bytes(data[:8], 'little') if with_header else 0
  text, rest = (data[8 : 8 + size], data[8 + size :]) if with_header else (data, b'')
  try:
    new = damage.change_json(chance, json.loads(text))
  except (ValueError, RecursionError):  # no JSON, or by an earlier change
    return damage.change_bytes(chance, data)
  return len(new).to_bytes(8, 'little') + new + rest if with_header else new


def read_files(place: Path) -> Files:
  """Every file below a folder."""
  paths = sorted(path for path in place.rglob('*') if path.is_file())
  return {str(path.relative_to(place)): path.read_bytes() for path in paths}


@functools.cache
def whole_model() -> Files:
  """A model folder of random weights."""
  config = configs.default()
  config.data.update({'name': 'phantom', 'classes': ('background', 'organ'), 'image_size': 16})
  config.model.update({'channels': 4, 'depth': 2})
  found = genotype.Genotype(
    down=(((0, 'down_max_pool'), (1, 'down_sep_conv_3x3')),),
    up=(((0, 'conv_3x3'), (1, 'up_se_conv_3x3')),),
  )
  spec = make_spec(config, {'mean': np.full(1, 0.3), 'std': np.full(1, 0.3)})
  shapes = build.find_shapes(build.build(spec, found), spec.image_channels)
  with tempfile.TemporaryDirectory() as place:
    genotype.save(Path(place, 'genotype.json'), found)
    model_folder.save(
      Path(place, 'model'),
      build.initialise(shapes, seed=0),
      spec=spec,
      genotype_file=Path(place, 'genotype.json'),
      card='# Made up',
    )
    model_folder.add_scores(Path(place, 'model'), {'dsc': 0.5})
    return read_files(Path(place, 'model'))


def read_signed_model(place: Path) -> Any:
  """Loads a model that whoever damaged it has signed anew."""
  model_folder.sign(place)
  return predict.load_model(place)


def check_model(place: Path, model: Any) -> bool:
  """Looks whether a model has the weights of its network, all of them finite."""
  (loaded,) = model.members
  expected = build.find_shapes(loaded.module, loaded.spec.image_channels)
  found: dict[str, Any] = traverse_util.flatten_dict(loaded.params, sep='/')
  assert {name: (list(leaf.shape), str(leaf.dtype)) for name, leaf in found.items()} == {
    name: (list(sizes), dtype) for name, (sizes, dtype) in expected.items()
  }
  assert all(np.isfinite(leaf).all() for leaf in found.values())
  return True


def check_same_model(place: Path, model: Any) -> bool:
  """Looks whether a model is the one that was signed."""
  sums = json.loads(whole_model()[model_folder.CHECKSUMS])['sha256']
  assert model.members[0].sha256 == sums['weights.safetensors']
  return check_model(place, model)


@functools.cache
def whole_run() -> Files:
  """Prepared slices of three patients, and the data.json of a run in run/."""
  with tempfile.TemporaryDirectory() as place:
    config = _config(Path(place))
    phantom.write_promise12(Path(place, 'raw'), patients=3, seed=0)
    data_file.write(Path(place, 'run'), prepare.prepare(config), config.data)
    found = read_files(Path(place))
    return {name: content for name, content in found.items() if not name.startswith('raw/')}


def _config(place: Path) -> Any:
  config = configs.default()
  config.data.update({'name': 'phantom', 'image_size': 16, 'folds': 3})
  config.data.update({'raw_dir': str(place / 'raw'), 'data_dir': str(place)})
  return config


@functools.cache
def whole_slices() -> Files:
  """Prepared slices alone."""
  run = whole_run().items()
  return {Path(name).name: content for name, content in run if name.startswith('phantom/')}


def read_slices(place: Path) -> tuple[Any, ...]:
  """Everything that is read of slices."""
  opened = prepared.open_folder(place)
  return (
    opened.cases,
    opened.classes,
    opened.padding,
    [opened.read(case) for case in opened.cases],
    [opened.label_volume(case) for case in opened.cases],
  )


def read_signed_slices(place: Path) -> Any:
  """Reads slices of which whoever damaged the metadata has made the checksum anew."""
  path = place / 'metadata.json'
  try:
    metadata = json.loads(path.read_bytes())
    metadata.pop('sha256', None)
    path.write_text(json.dumps(metadata | {'sha256': files.digest_json(metadata)}))
  except (ValueError, AttributeError, TypeError, RecursionError):
    pass
  return read_slices(place)


@functools.cache
def _slices_before() -> Any:
  with tempfile.TemporaryDirectory() as place:
    for name, content in whole_slices().items():
      Path(place, name).write_bytes(content)
    return read_slices(Path(place))


def check_slices(place: Path, found: Any) -> bool:
  """Looks whether slices are those that were prepared."""
  assert jax.tree.all(jax.tree.map(np.array_equal, found, _slices_before()))
  return True


def read_run(place: Path) -> Any:
  """Finds the slices of a run by its data.json, and what differs from its config."""
  config = _config(place)
  record = data_file.require(place / 'run')
  found, patients = data_file.find(place / 'run', record, config)
  differences = data_file.find_differences(config, record, place / 'run')
  return found, patients, differences


def check_run(place: Path, found: Any) -> bool:
  """Looks whether the slices of a run are its own."""
  where, patients, differences = found
  assert where.is_relative_to(place / 'phantom') and len(patients) == 3
  assert all('\n' not in line for line in differences)
  return True


def _step(state: jax.Array, batch: jax.Array) -> jax.Array:
  return jnp.tanh(state @ batch) + 1


@functools.cache
def _trace() -> bytes:
  shape = jax.ShapeDtypeStruct((3, 3), jnp.float32)
  return bytes(export.export(jax.jit(_step))(shape, shape).serialize())


def _cached(content: bytes) -> Files:
  with tempfile.TemporaryDirectory() as place:
    compiling.keep(Path(place, 'cached'), lambda: content, len)
    return read_files(Path(place))


def read_program(place: Path) -> str:
  """Takes a traced program out of its cache, or traces it."""
  return compiling.keep(place / 'cached', _trace, compiling._lower).as_text()


def check_program(place: Path, text: str) -> bool:
  """Looks whether a program is the one that was traced."""
  assert text == compiling._lower(_trace()).as_text()
  return True


_SHAPES = {'a/kernel': [[3, 3, 1, 8], 'float32'], 'a/scale': [[8], 'float32']}


def read_shapes(place: Path) -> Any:
  """Takes shapes of weights out of their cache, or finds them."""
  return compiling.keep(place / 'cached', json.dumps(_SHAPES).encode, build.parse_shapes)


def check_shapes(place: Path, found: Any) -> bool:
  """Looks whether shapes are those that were found."""
  assert found == _SHAPES
  return True


WINDOW = (-160.0, 240.0)


def read_window(place: Path) -> tuple[float, float]:
  """Takes the window of a fold's training patients out of its file, or learns it."""
  scans = types.SimpleNamespace(cases=[], contents=contents.Contents(place / 'absent.json'))
  with mock.patch.object(fingerprint, 'foreground_window', return_value=WINDOW):
    return folder._learned(_config(place), scans, ('a', 'b'))  # pyrefly: ignore


@functools.cache
def whole_window() -> Files:
  """The file of a window that was learned."""
  with tempfile.TemporaryDirectory() as place:
    read_window(Path(place))
    return read_files(Path(place))


def check_window(place: Path, found: tuple[float, float]) -> bool:
  """Looks whether a window is the one that was learned."""
  assert found == WINDOW
  return True


def read_contents(place: Path) -> tuple[str, Any]:
  """Hashes a scan, of which the file of hashes may know something."""
  kept = contents.Contents(place / 'contents.json')
  case = Case('a', 'a', (place / 'scan',), (place / 'mask',))
  found = kept.digest([case]), kept.classes_of([case], lambda cases: [[1, 2] for _ in cases])
  kept.keep()
  return found


@functools.cache
def whole_contents() -> Files:
  """A scan and its mask, and the file of their hashes."""
  with tempfile.TemporaryDirectory() as place:
    for name in ('scan', 'mask'):
      Path(place, name).write_text(name)
    read_contents(Path(place))
    return read_files(Path(place))


def check_contents(place: Path, found: tuple[str, Any]) -> bool:
  """Looks whether hashes are those of the files."""
  assert found == (
    contents.Contents(place / 'absent').digest(
      [Case('a', 'a', (place / 'scan',), (place / 'mask',))]
    ),
    [[1, 2]],
  )
  return True


_SIGNED = ('weights.safetensors', 'genotype.json', 'preprocessing.json', 'card.md', 'scores.json')
FORMATS = {
  'model': Format(whole_model, change, predict.load_model, check_same_model),
  'model, signed': Format(whole_model, change, read_signed_model, check_model, _SIGNED),
  'slices': Format(whole_slices, change, read_slices, check_slices),
  'slices, signed': Format(
    whole_slices, change, read_signed_slices, lambda where, found: True, ('metadata.json',)
  ),
  'run': Format(whole_run, change, read_run, check_run, ('run/data.json',)),
  'cache, program': Format(
    lambda: _cached(_trace()), damage.change_numbers, read_program, check_program
  ),
  'cache, shapes': Format(
    lambda: _cached(json.dumps(_SHAPES).encode()), change, read_shapes, check_shapes
  ),
  'cache, window': Format(whole_window, change, read_window, check_window),
  'cache, contents': Format(
    whole_contents, change, read_contents, check_contents, ('contents.json',)
  ),
}
