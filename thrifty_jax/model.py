"""The configured network: built, initialised, and kept as a folder that needs nothing else."""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from ml_collections import ConfigDict

from thrifty_jax import files
from thrifty_jax.config import MODELS
from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, genotype, grid
from thrifty_jax.scans.preprocessing import FLIPS, check_image_settings, image_settings

Params = Any  # a pytree of arrays, {'stem': {'kernel': ...}, ...}, or those packed
Keep = Callable[[Callable[[], bytes]], bytes]
FORMAT = 'thrifty_jax.model'
VERSION = 5  # 4 did not say a baseline's width, which was 32; 3 lacked scores.json and the splits
OLDEST = 3  # 2 had no checksums and did not say what the training scans were like
CHECKSUMS = 'checksums.json'
SCORES = 'scores.json'
_SIGNED = ('weights.safetensors', 'genotype.json', 'preprocessing.json', 'card.md', SCORES)
_SHA256 = re.compile('[0-9a-f]{64}')
_STACKED = re.compile(r'(down|up)_from_\d+$')  # names of network's MixedEdges
# Whole numbers in a model's description: the least and the most that a network is built of, so that
# a damaged one does not ask for all memory.
_SIZES = {
  'channels': (1, 4096),
  'depth': (2, 8),
  'width': (1, 4096),
  'modalities': (1, 64),
  'context': (0, 32),
  'image_size': (1, 1 << 14),
}
_MOST_BYTES = 4 << 30  # of a file: a billion parameters
_MOST_CLASSES = 256  # masks are of bytes
_MOST_SHADE = 1e9  # of what is normalised, and its inverse the least deviation: float32 holds it


def build(spec: dict[str, Any], found: genotype.Genotype | None) -> nn.Module:
  """The network of a model's description, see `describe`.

  Args:
    spec: Its name, classes, background and sizes.
    found: The genotype, for `thrifty`; the baselines take none.
  """
  common = {
    'classes': len(spec['classes']),
    'background': tuple(spec['background']),
    'deep_supervision': spec['deep_supervision'],
  }
  if spec['name'] == 'thrifty':
    if found is None:
      raise ValueError('a thrifty network needs a genotype')
    return grid.DerivedNetwork(found, channels=spec['channels'], depth=spec['depth'], **common)
  nested = spec['name'] == 'unet_plus_plus'
  widths = baselines.widths_of(spec['width'])
  return baselines.UNetPlusPlus(nested=nested, norm=spec['norm'], widths=widths, **common)


def describe(
  config: ConfigDict,
  statistics: dict[str, np.ndarray],
  *,
  training_scans: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """All that a network and its input depend on, as JSON: what preprocessing.json holds.

  Args:
    config: Of the run.
    statistics: Mean and deviation that intensities in [0, 1] are normalised by, [M] each.
    training_scans: What they were like, see `likeness.of_training`; None where that is not known.
  """
  data, model = config.data, config.model
  statistics = {name: np.asarray(value, float) for name, value in statistics.items()}
  return {
    'format': FORMAT,
    'version': VERSION,
    'name': model.name,
    'channels': model.channels,
    'depth': model.depth,
    'width': model.width,
    'deep_supervision': model.deep_supervision,
    'norm': model.norm,
    'classes': list(data.classes),
    'modalities': data.modalities,
    'context': data.context,
    **image_settings(data),
    **{name: value.tolist() for name, value in statistics.items()},
    'background': [float(shade) for shade in background(statistics, context=data.context)],
    'padding': None,  # [from, value]: stored values that a data set replaces, as chaos.py does
    'flips': [flip for flip in FLIPS if config.augment[f'flip_{flip}']],  # that training saw
    'largest_component': [],  # classes of which one piece is kept: the validation patients decide
    'training_scans': dict(training_scans) if training_scans else None,
    'splits_sha256': None,  # of who trained, validated and tests, see split_file.digest
  }


def background(statistics: Mapping[str, Any], *, context: int) -> tuple[Any, ...]:
  """Normalised value of intensity 0, one per image channel; traced, where the statistics are."""
  return tuple(-statistics['mean'] / statistics['std']) * (2 * context + 1)


def initialise(module: nn.Module, *inputs: Any, seed: int, keep: Keep | None = None) -> Params:
  """Fresh parameters: He-normal kernels (fan in), scales 1, biases 0.

  The module is traced for its shapes only. Compiling its own initialiser takes minutes for a
  supernet on a CPU, and running it uncompiled seconds. What numpy draws it also rounds: JAX would
  compile that for every shape, a second in all.

  Args:
    module: A network of this project.
    *inputs: What it is applied to; arrays or jax.ShapeDtypeStruct.
    seed: The values depend on it and on each parameter's name, not on the other parameters.
    keep: Returns what an earlier run traced, or calls what it is given, see compiling.kept; None
      traces: for a supernet that takes a second or two.
  """

  def draw(name: str, shape: tuple[int, ...], dtype: str) -> jax.Array:
    top, *_, last = name.split('/')
    if last in ('scale', 'bias'):
      return jax.device_put(np.full(shape, last == 'scale', dtype))
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    # The edges of a supernet are stacked, [cells, E, ...]: neither axis feeds an output.
    stacked = 2 if _STACKED.match(top) else 0
    fan_in = np.prod(shape[stacked:-1])
    return jax.device_put(generator.normal(0, np.sqrt(2 / fan_in), shape).astype(dtype))

  def trace() -> bytes:
    traced = _trace(module, *inputs)
    return json.dumps({n: (leaf.shape, leaf.dtype.name) for n, leaf in traced.items()}).encode()

  shapes = json.loads(keep(trace) if keep else trace())
  drawn = {name: draw(name, tuple(shape), dtype) for name, (shape, dtype) in shapes.items()}
  return traverse_util.unflatten_dict(drawn, sep='/')


def count(params: Params) -> int:
  """Number of parameters."""
  return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def apply(net: nn.Module, params: Params, *inputs: Any) -> jax.Array:
  """Logits of a network: what its `apply` returns, whose type Linen does not know."""
  logits: Any = net.apply({'params': params}, *inputs)
  return logits


def last_logits(logits: jax.Array) -> jax.Array:
  """The network's own output, where deep supervision stacked others in front: [B, H, W, K]."""
  return logits[-1] if logits.ndim == 5 else logits


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A network from its folder.

  Attributes:
    module: The Linen module.
    params: Its parameters.
    preprocessing: What `describe` recorded.
    genotype: Of a thrifty network, else None.
    sha256: Of the file of its weights, which tells it from every other model.
  """

  module: nn.Module
  params: Params
  preprocessing: dict[str, Any]
  genotype: genotype.Genotype | None
  sha256: str

  @functools.cached_property
  def logits(self) -> Callable[[jax.Array], jax.Array]:
    """The compiled network: normalised slices [B, S, S, C] to logits [B, S, S, K]."""
    logits = jax.jit(lambda params, image: last_logits(apply(self.module, params, image)))
    return functools.partial(logits, self.params)


def save(
  folder: Path | str,
  params: Params,
  *,
  preprocessing: dict[str, Any],
  genotype_file: Path | None,
  card: str,
) -> None:
  """Writes the model folder, whole or not at all: an unfinished one has another name.

  Args:
    folder: weights.safetensors, preprocessing.json, card.md, if there is one genotype.json, and
      checksums.json with the SHA-256 of each.
    params: Parameters of the network.
    preprocessing: From `describe`.
    genotype_file: Of the network, copied with all it says of its origin; None for a baseline.
    card: What the model is, for a person.
  """
  folder = Path(folder)
  unfinished = folder.with_name(f'.{folder.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir(parents=True)
  flat = traverse_util.flatten_dict(params, sep='/')
  weights = {name: np.asarray(leaf) for name, leaf in flat.items()}
  files.write_bytes(unfinished / 'weights.safetensors', safetensors.numpy.save(weights))
  files.write_json(unfinished / 'preprocessing.json', preprocessing)
  if genotype_file is not None:
    files.write_bytes(unfinished / 'genotype.json', genotype_file.read_bytes())
  files.write_text(unfinished / 'card.md', card)
  sign(unfinished)
  if folder.exists():
    shutil.rmtree(folder)
  unfinished.rename(folder)


def add_scores(folder: Path, scores: Mapping[str, Any]) -> None:
  """Puts scores.json into a model folder, in the place of one that is there.

  Killed at any moment it leaves a folder that can be loaded: the scores are in its checksums only
  once they are whole.
  """
  sign(folder, without=(SCORES,))
  files.write_json(folder / SCORES, scores)
  sign(folder)


def sign(folder: Path, *, without: Sequence[str] = ()) -> None:
  """Writes checksums.json over the files of a model folder, but for those that are named."""
  names = [name for name in _SIGNED if name not in without and (folder / name).is_file()]
  sums = {name: _digest(folder / name) for name in names}
  files.write_json(folder / CHECKSUMS, {'format': FORMAT, 'version': VERSION, 'sha256': sums})


def load(folder: Path | str) -> LoadedModel:
  """Reads a model folder.

  Raises:
    InputError: The folder or a file of it is missing, was altered since it was saved, or is of
      another version.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no model; train one with --stage=retrain')
  _require_version(folder / 'preprocessing.json')
  sha256 = _require_unaltered(folder)
  spec = _read_description(folder / 'preprocessing.json')
  found = None
  if spec['name'] == 'thrifty':
    found = genotype.load(folder / 'genotype.json')
    genotype.require_depth(found, spec['depth'], place=str(folder / 'genotype.json'))
  module = build(spec, found)
  return LoadedModel(module, _load_weights(folder, module, spec), spec, found, sha256)


def _require_version(path: Path) -> None:
  """Refuses what this release cannot read, and says which release can."""
  spec = files.read_json(path)
  version = spec.get('version') if isinstance(spec, dict) else None
  if not isinstance(version, int) or spec.get('format') != FORMAT:
    raise InputError(
      f'{path}: expected "format": "{FORMAT}" and a "version"; this is no model folder, or damaged'
    )
  if version > VERSION:
    raise InputError(
      f'{path}: version {version} of the model folder is newer than this thrifty_jax, which reads '
      f'up to version {VERSION}; update thrifty_jax'
    )
  if version < OLDEST:
    raise InputError(
      f'{path}: version {version} of the model folder is of an earlier release, this one reads '
      f'from version {OLDEST} on; train the model again, or use that release'
    )


def _require_unaltered(folder: Path) -> str:
  """Refuses files that are not those that were saved together; returns the weights' SHA-256."""
  path = folder / CHECKSUMS
  found = files.read_json(path)
  sums = found.get('sha256') if isinstance(found, dict) else None
  sums = sums if isinstance(sums, dict) else {}
  for name in ('weights.safetensors', 'preprocessing.json'):
    if name not in sums:
      raise InputError(f'{path}: has no SHA-256 of {name}; the folder is damaged, copy it again')
  for name, digest in sums.items():
    if name not in _SIGNED:  # it could lead anywhere
      raise InputError(
        f'{path}: has a SHA-256 of {name!r:.80}, which no model folder has; copy it again'
      )
    if _digest(folder / name) != digest:
      raise InputError(
        f'{folder / name}: is not the file that was saved with this model: its SHA-256 is not '
        f'the one in {CHECKSUMS}; copy the whole folder again'
      )
  return sums['weights.safetensors']


def _digest(path: Path) -> str:
  try:
    files.require_file(path, most_bytes=_MOST_BYTES)
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except InputError as error:
    raise InputError(f'{error}; copy or train the model again') from error
  except OSError as error:
    raise InputError(
      f'{path}: cannot be read ({error.strerror}); copy or train the model again'
    ) from error


def _read_description(path: Path) -> dict[str, Any]:
  """What `describe` recorded, every field checked: the network is built from them."""
  spec = files.read_json(path)
  if spec['version'] < 5:
    spec['width'] = baselines.WIDTH

  def whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most  # True is none

  def numbers(value: Any, count: int) -> bool:
    return (
      isinstance(value, list)
      and len(value) == count
      and all(type(one) in (int, float) and abs(one) <= _MOST_SHADE for one in value)
    )

  def names(value: Any) -> bool:
    return (
      isinstance(value, list)
      and 1 < len(value) <= _MOST_CLASSES
      and all(isinstance(one, str) and one.isprintable() for one in value)
    )

  fits = {name: whole(spec.get(name), *limits) for name, limits in _SIZES.items()}
  if all(fits.values()):  # else the lengths are not known
    modalities, slices = spec['modalities'], 2 * spec['context'] + 1
    fits['mean'] = numbers(spec.get('mean'), modalities)
    fits['std'] = numbers(spec.get('std'), modalities) and min(spec['std']) >= 1 / _MOST_SHADE
    fits['background'] = numbers(spec.get('background'), modalities * slices)
  fits['name'] = spec.get('name') in MODELS
  fits['norm'] = spec.get('norm') in ('none', 'group')
  fits['deep_supervision'] = isinstance(spec.get('deep_supervision'), bool)
  fits['classes'] = names(spec.get('classes'))
  pieces = spec.get('largest_component')
  fits['largest_component'] = (
    fits['classes']
    and isinstance(pieces, list)
    and all(piece in spec['classes'][1:] for piece in pieces)
  )
  fits['flips'] = isinstance(spec.get('flips'), list) and all(one in FLIPS for one in spec['flips'])
  fits['padding'] = spec.get('padding', ()) is None or numbers(spec.get('padding'), 2)
  scans = spec.get('training_scans', ())
  fits['training_scans'] = scans is None or (
    isinstance(scans, dict)
    and {*likeness.NEEDED} <= {*scans}
    and all(numbers(pair, 2) and pair[0] <= pair[1] for pair in scans.values())
  )
  digest = spec.get('splits_sha256')  # version 3 has none
  fits['splits_sha256'] = digest is None or bool(
    isinstance(digest, str) and _SHA256.fullmatch(digest)
  )
  fits |= check_image_settings(spec)
  for name, fine in fits.items():
    if not fine:
      raise InputError(
        f'{path}: "{name}" is {spec.get(name)!r:.80}, which no network has; the folder is damaged'
      )
  return spec


def _load_weights(folder: Path, module: nn.Module, spec: dict[str, Any]) -> Params:
  """The parameters, float32, of exactly the names and shapes that the network has."""
  path = folder / 'weights.safetensors'
  channels = spec['modalities'] * (2 * spec['context'] + 1)
  try:
    with safetensors.safe_open(path, framework='np') as file:  # its header alone
      parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      found = {name: (tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()}
      expected = {name: (leaf.shape, 'F32') for name, leaf in shapes(module, channels).items()}
      if found != expected:  # before memory is taken for them
        raise InputError(
          f'{path}: these are not the weights of the network that its folder describes'
        )
      flat = {name: file.get_tensor(name) for name in found}
  except (OSError, safetensors.SafetensorError) as error:
    reason = ' '.join(str(error).split())  # it may quote what the file holds
    raise InputError(
      f'{path}: cannot be read ({reason:.200}); copy or train the model again'
    ) from error
  for name, leaf in flat.items():
    if not np.isfinite(leaf).all():
      raise InputError(
        f'{path}: {name} holds what is no finite number; copy or train the model again'
      )
  return traverse_util.unflatten_dict(
    {name: jnp.asarray(leaf) for name, leaf in flat.items()}, sep='/'
  )


@functools.lru_cache(maxsize=16)
def shapes(module: nn.Module, channels: int) -> dict[str, Any]:
  """Shapes of a network's parameters by their names; they do not depend on the image's size."""
  side = 2 ** getattr(module, 'depth', 5)
  return _trace(module, jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32))


def _trace(module: nn.Module, *inputs: Any) -> dict[str, Any]:
  """The parameters that a network asks for, by their names."""
  variables: Any = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), *inputs)
  return dict(traverse_util.flatten_dict(variables['params'], sep='/'))
