"""The configured network: built, initialised, and kept as a folder that needs nothing else."""

import dataclasses
import functools
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from ml_collections import ConfigDict

from thrifty_jax import baselines, files, genotype, network
from thrifty_jax.config import MODELS
from thrifty_jax.errors import InputError
from thrifty_jax.preprocessing import check_image_settings, image_settings

Params = Any  # a pytree of arrays: {'stem': {'kernel': ...}, ...}
FORMAT = 'thrifty_jax.model'
VERSION = 2  # 1 did not say what else than limits makes an image
_STACKED = re.compile(r'(down|up)_from_\d+$')  # names of network's MixedEdges
# Whole numbers in a model's description.
_SIZES = ('channels', 'depth', 'modalities', 'context', 'image_size')


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
    return network.DerivedNetwork(found, channels=spec['channels'], depth=spec['depth'], **common)
  nested = spec['name'] == 'unet_plus_plus'
  return baselines.UNetPlusPlus(nested=nested, norm=spec['norm'], **common)


def describe(config: ConfigDict, statistics: dict[str, np.ndarray]) -> dict[str, Any]:
  """All that a network and its input depend on, as JSON: what preprocessing.json holds.

  Args:
    config: Of the run.
    statistics: Mean and deviation that intensities in [0, 1] are normalised by, [M] each.
  """
  data, model = config.data, config.model
  mean, std = statistics['mean'], statistics['std']
  return {
    'format': FORMAT,
    'version': VERSION,
    'name': model.name,
    'channels': model.channels,
    'depth': model.depth,
    'deep_supervision': model.deep_supervision,
    'norm': model.norm,
    'classes': list(data.classes),
    'modalities': data.modalities,
    'context': data.context,
    **image_settings(data),
    'mean': [float(value) for value in mean],
    'std': [float(value) for value in std],
    'background': background(statistics, context=data.context),
    'largest_component': [],  # classes of which one piece is kept: the validation patients decide
  }


def background(statistics: dict[str, np.ndarray], *, context: int) -> list[float]:
  """Normalised value of intensity 0, one per image channel."""
  shades = -np.asarray(statistics['mean'], float) / np.asarray(statistics['std'], float)
  return [float(shade) for shade in np.tile(shades, 2 * context + 1)]


def initialise(module: nn.Module, *inputs: Any, seed: int) -> Params:
  """Fresh parameters: He-normal kernels (fan in), scales 1, biases 0.

  The module is traced for its shapes only. Compiling its own initialiser takes minutes for a
  supernet on a CPU, and running it uncompiled seconds.

  Args:
    module: A network of this project.
    *inputs: What it is applied to; arrays or jax.ShapeDtypeStruct.
    seed: The values depend on it and on each parameter's name, not on the other parameters.
  """
  variables = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), *inputs)

  def draw(path: tuple[Any, ...], leaf: Any) -> jax.Array:
    if path[-1] in ('scale', 'bias'):
      return jnp.full(leaf.shape, float(path[-1] == 'scale'), leaf.dtype)
    generator = np.random.default_rng((seed, zlib.crc32('/'.join(path).encode())))
    # The edges of a supernet are stacked, [cells, E, ...]: neither axis feeds an output.
    stacked = 2 if _STACKED.match(path[0]) else 0
    fan_in = np.prod(leaf.shape[stacked:-1])
    return jnp.asarray(generator.normal(0, np.sqrt(2 / fan_in), leaf.shape), leaf.dtype)

  return traverse_util.path_aware_map(draw, variables['params'])


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
  """

  module: nn.Module
  params: Params
  preprocessing: dict[str, Any]
  genotype: genotype.Genotype | None

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
    folder: weights.safetensors, preprocessing.json, card.md and, if there is one, genotype.json.
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
  if folder.exists():
    shutil.rmtree(folder)
  unfinished.rename(folder)


def load(folder: Path | str) -> LoadedModel:
  """Reads a model folder.

  Raises:
    InputError: The folder or a file of it is missing, damaged, or of another version.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no model; train one with --stage=retrain')
  spec = _read_description(folder / 'preprocessing.json')
  found = None
  if spec['name'] == 'thrifty':
    found = genotype.load(folder / 'genotype.json')
    genotype.require_depth(found, spec['depth'], place=str(folder / 'genotype.json'))
  module = build(spec, found)
  return LoadedModel(module, _load_weights(folder, module, spec), spec, found)


def _read_description(path: Path) -> dict[str, Any]:
  """What `describe` recorded, every field checked: the network is built from them."""
  spec = files.read_json(path)
  if not isinstance(spec, dict) or spec.get('format') != FORMAT or spec.get('version') != VERSION:
    raise InputError(
      f'{path}: expected "format": "{FORMAT}", "version": {VERSION}; the folder is damaged or of '
      'another release'
    )

  def whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

  def numbers(value: Any, count: int) -> bool:
    return (
      isinstance(value, list)
      and len(value) == count
      and all(isinstance(one, int | float) and np.isfinite(one) for one in value)
    )

  def names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value)

  least = {'depth': 2, 'context': 0}
  fits = {name: whole(spec.get(name), least.get(name, 1)) for name in _SIZES}
  if all(fits.values()):  # else the lengths are not known
    modalities, slices = spec['modalities'], 2 * spec['context'] + 1
    fits['mean'] = numbers(spec.get('mean'), modalities)
    fits['std'] = numbers(spec.get('std'), modalities) and min(spec['std']) > 0
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
  fits |= check_image_settings(spec)
  for name, fine in fits.items():
    if not fine:
      raise InputError(
        f'{path}: "{name}" is {spec.get(name)!r:.80}, which no network has; the folder is damaged'
      )
  return spec


def _load_weights(folder: Path, module: nn.Module, spec: dict[str, Any]) -> Params:
  path = folder / 'weights.safetensors'
  try:
    flat = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise InputError(f'{path}: cannot be read ({error}); copy or train the model again') from error
  channels = spec['modalities'] * (2 * spec['context'] + 1)
  image = jax.ShapeDtypeStruct((1, spec['image_size'], spec['image_size'], channels), jnp.float32)
  shapes = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), image)['params']
  expected: dict[str, Any] = traverse_util.flatten_dict(shapes, sep='/')
  if {name: (leaf.shape, leaf.dtype) for name, leaf in flat.items()} != {
    name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()
  }:
    raise InputError(f'{path}: these are not the weights of the network that its folder describes')
  return traverse_util.unflatten_dict(
    {name: jnp.asarray(leaf) for name, leaf in flat.items()}, sep='/'
  )
