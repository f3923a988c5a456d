"""Saves, signs and loads a trained network as a self-contained folder."""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from thrifty_jax import RESEARCH_USE, files, records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, build, genotype, inference, lean_space
from thrifty_jax.networks.model_spec import ModelSpec, find_faults
from thrifty_jax.weights import WEIGHTS, Checksums

FORMAT = 'thrifty_jax.model'
# 6 had no regions; 5 lacked the unit, which was mm; 4 lacked a baseline's width, which was 32; 3
# lacked scores.json and the splits.
VERSION = 7
OLDEST = 3  # 2 lacked checksums and the description of the training scans
CHECKSUMS = 'checksums.json'
SCORES = 'scores.json'
_SIGNED = (WEIGHTS, 'genotype.json', 'preprocessing.json', 'card.md', SCORES)
_MOST_BYTES = 4 << 30  # of a file; holds a billion parameters
_COPY = 'copy the whole folder again'
_COPY_OR_TRAIN = 'copy or train the model again'


@dataclasses.dataclass(frozen=True)
class DescribedModel:
  """What a model folder says of its network, without the weights."""

  spec: ModelSpec
  genotype: genotype.Genotype | lean_space.LeanShape | None  # None for a baseline
  sha256: str  # of the weights file, which identifies the model


@dataclasses.dataclass(frozen=True)
class LoadedModel(DescribedModel):
  """A network loaded from its folder."""

  params: build.Params

  def __repr__(self) -> str:
    return f'{self.spec.network.name}, {self.parameters:,} parameters'

  @functools.cached_property
  def module(self) -> nn.Module:
    """Linen module of the network."""
    return build.build(self.spec, self.genotype)

  @property
  def parameters(self) -> int:
    """Number of parameters."""
    return build.count(self.params)

  @functools.cached_property
  def logits(self) -> Callable[[Any], jax.Array]:
    """Compiled network, from normalised slices [B, S, S, C] to logits [B, S, S, K]."""
    background = np.asarray(self.spec.background, np.float32)
    predict = build.predict_logits(self.module)
    return lambda image: predict(self.params, image, background)

  def predict_with(self, *, batch_size: int, flips: Sequence[str] = ()) -> inference.Predict:
    """Returns the function from slices of a scan to logits, see inference.predict_with."""
    return inference.predict_with(self.logits, self.spec, batch_size=batch_size, flips=flips)


def save(
  folder: Path, params: build.Params, *, spec: ModelSpec, genotype_file: Path | None, card: str
) -> None:
  """Writes the model folder, whole or not at all; an older one is replaced.

  It gets weights.safetensors, preprocessing.json, card.md (the description for a person),
  genotype.json with its provenance (not of a baseline), and checksums.json with their SHA-256.
  """
  flat = traverse_util.flatten_dict(params, sep='/')
  weights = {name: np.asarray(leaf) for name, leaf in flat.items()}
  about = {'format': FORMAT, 'network': spec.network.name, 'classes': spec.classes}
  # One text, as safetensors writes several of them in any order.
  metadata = {'thrifty_jax': json.dumps({**about, 'note': RESEARCH_USE})}
  content = safetensors.numpy.save(weights, metadata=metadata)
  with files.whole_folder(folder) as unfinished:
    files.write_bytes(unfinished / WEIGHTS, content)
    write_spec(unfinished, spec)
    if genotype_file is not None:
      files.write_bytes(unfinished / 'genotype.json', genotype_file.read_bytes())
    files.write_text(unfinished / 'card.md', card)
    sign(unfinished)


def write_spec(folder: Path, spec: ModelSpec) -> None:
  """Writes preprocessing.json into a model folder."""
  described = {'format': FORMAT, 'version': VERSION, **records.to_json(spec)}
  files.write_json(folder / 'preprocessing.json', described)


def add_scores(folder: Path, scores: Mapping[str, Any]) -> None:
  """Writes scores.json, with its research-use note, into a model folder; replaces an older one.

  The folder can be loaded even if the process is killed at any moment: the checksums include the
  scores only once they are complete.
  """
  sign(folder, without=(SCORES,))
  files.write_json(folder / SCORES, {'research_use': RESEARCH_USE, **scores})
  sign(folder)


def sign(folder: Path, *, without: Sequence[str] = ()) -> None:
  """Writes checksums.json for the files of a model folder, except those in `without`."""
  names = [name for name in _SIGNED if name not in without and (folder / name).is_file()]
  sums = {name: _digest(folder / name) for name in names}
  files.write_json(folder / CHECKSUMS, {'format': FORMAT, 'version': VERSION, 'sha256': sums})


def load(folder: Path | str) -> LoadedModel:
  """Reads a model folder.

  It is an InputError if the folder or one of its files is missing, was altered after it was saved,
  or has an unsupported version.
  """
  folder, found = Path(folder), describe(folder)
  shapes = build.find_shapes(build.build(found.spec, found.genotype), found.spec.image_channels)
  params = _load_weights(folder / WEIGHTS, shapes)
  return LoadedModel(found.spec, found.genotype, found.sha256, params)


def describe(folder: Path | str) -> DescribedModel:
  """Reads a model folder without its weights, whose file is checked; see `load`.

  It uses no device.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(f'{folder}: there is no model; train one with --stage=retrain')
  _require_version(folder / 'preprocessing.json')
  sha256 = _require_unaltered(folder)
  spec = _read_description(folder / 'preprocessing.json')
  found = None
  if spec.network.name in ('thrifty', 'lean'):
    found = genotype.load_any(folder / 'genotype.json')
    genotype.require_depth(found, spec.network.depth, place=str(folder / 'genotype.json'))
  return DescribedModel(spec, found, sha256)


def copy(folder: Path, place: Path) -> None:
  """Copies a model folder, whole or not at all; an older one at `place` is replaced."""
  with files.whole_folder(place) as unfinished:
    for name in (*_SIGNED, CHECKSUMS):
      if (folder / name).is_file():
        shutil.copyfile(folder / name, unfinished / name)


def _require_version(path: Path) -> None:
  """Refuses a version that this release cannot read, and says what to do."""
  spec = files.read_json(path)
  version = spec.get('version') if isinstance(spec, dict) else None
  if not isinstance(version, int) or spec.get('format') != FORMAT:
    raise InputError(
      f'{path}: expected "format": "{FORMAT}" and a "version"; this is not a model folder, or it '
      f'is damaged: {_COPY}'
    )
  if not OLDEST <= version <= VERSION:
    older = 'train the model again, or use the earlier release that wrote it'
    raise InputError(
      f'{path}: version {version} of the model folder cannot be read, expected {OLDEST} to '
      f'{VERSION}; {"update thrifty_jax" if version > VERSION else older}'
    )


def read_checksums(path: Path) -> Mapping[str, str]:
  """Reads the SHA-256 of each file of a model folder from its checksums.json."""
  sums = records.parse(files.read_json(path), Checksums, path, remedy=_COPY).sha256
  needed = {WEIGHTS, 'preprocessing.json'}
  for name in sorted((needed - sums.keys()) | (sums.keys() - {*_SIGNED})):
    raise InputError(
      f'{path}: {name!r:.80} has no SHA-256 or is not a file of a model folder; the folder is '
      f'damaged: {_COPY}'
    )
  return sums


def _require_unaltered(folder: Path) -> str:
  """Refuses files other than those saved together; returns the weights' SHA-256."""
  sums = read_checksums(folder / CHECKSUMS)
  for name, digest in sums.items():
    if _digest(folder / name) != digest:
      raise InputError(
        f'{folder / name}: is not the file that was saved with this model: its SHA-256 is not '
        f'the one in {CHECKSUMS}; {_COPY}'
      )
  return sums[WEIGHTS]


def _digest(path: Path) -> str:
  try:
    files.require_file(path, most_bytes=_MOST_BYTES)
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except (InputError, OSError) as error:
    raise InputError(f'{error}; {_COPY_OR_TRAIN}') from error


def _read_description(path: Path) -> ModelSpec:
  """Reads the description that `save` wrote and checks every field."""
  found = files.read_json(path)
  if found['version'] < 5:
    found['width'] = baselines.WIDTH
  spec = records.parse(found, ModelSpec, path, remedy=_COPY)
  for name in find_faults(spec):
    raise InputError(
      f'{path}: {name} is {found.get(name)!r:.80}, which does not go with the rest; the file is '
      f'damaged: {_COPY}'
    )
  return spec


def _load_weights(path: Path, shapes: build.Shapes) -> build.Params:
  """Reads the float32 parameters; their names and shapes must be exactly the network's."""
  expected = {name: (shape, 'F32') for name, (shape, _) in shapes.items()}
  try:
    with safetensors.safe_open(path, framework='np') as file:  # reads only the header
      parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      found = {name: (tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()}
      if found != expected:  # checked before memory is allocated
        raise InputError(
          f'{path}: these are not the weights of the network that its folder describes; {_COPY}'
        )
      flat = {name: file.get_tensor(name) for name in found}
  except (OSError, safetensors.SafetensorError) as error:
    reason = ' '.join(str(error).split())  # it may quote content of the file
    raise InputError(f'{path}: cannot be read ({reason:.200}); {_COPY_OR_TRAIN}') from error
  for name, leaf in flat.items():
    if not np.isfinite(leaf).all():
      raise InputError(f'{path}: {name} has a non-finite value; {_COPY_OR_TRAIN}')
  on_device = {name: jnp.asarray(leaf) for name, leaf in flat.items()}
  return traverse_util.unflatten_dict(on_device, sep='/')
