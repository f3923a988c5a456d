"""The state of a run on disk: saved while the run goes on, found again whole or not at all."""

import concurrent.futures
import hashlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from thrifty_jax import files
from thrifty_jax.errors import InputError

SEAL = 'checksums.json'  # in each checkpoint's folder
_METADATA = '_CHECKPOINT_METADATA'  # Orbax's
_DAMAGED = 'damaged_'  # before the number of one that was set aside
_REMOVED = 'removed'  # old ones go there first, in one move: killed, no half of one stays in place
_LAYOUT = 'arrays packed by type'


class Checkpoints:
  """The newest `keep` checkpoints in a folder.

  A state is a pytree of arrays and numbers; notes are what JSON can hold, of any structure. Keys of
  random numbers belong in neither: they follow from the seed and the step by `jax.random.fold_in`.

    checkpoints = Checkpoints(folder)
    if checkpoints.latest() is not None:
      state, notes = checkpoints.restore(like=state)
    ...
    checkpoints.save(number, state, notes)
    checkpoints.close()
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    keep: int = 2,
    *,
    warn: Callable[[str], None] | None = None,
  ):
    """Opens the folder, made when it is missing.

    Args:
      folder: A folder for checkpoints only.
      keep: How many stay; two, so that one is whole when the newest is not.
      warn: Takes a line for the person at the console; by default it goes to stderr.
    """
    self._folder = Path(folder).absolute()
    self._warn = warn or (lambda line: print(line, file=sys.stderr, flush=True))
    # Orbax tells its doings through absl's log: warnings for what is normal here, and tracebacks of
    # what it raises all the same.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._empty()
    self._set_aside_damaged()
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_handlers=ocp.StandardCheckpointHandler(),  # else guessed from what lies there
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        todelete_subdir=_REMOVED,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
        create=False,
        # Of several processes one alone saves, with nobody to wait for.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=jax.process_index(), active_processes={jax.process_index()}
        ),
      ),
    )
    self._background = concurrent.futures.ThreadPoolExecutor(1)
    self._sealing: concurrent.futures.Future | None = None

  def latest(self) -> int | None:
    """The newest number there, or None; after restore(), the one that was restored."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, notes: Mapping[str, Any] | None = None) -> None:
    """Saves a state; the writing goes on in the background, the state may be donated at once.

    Args:
      step: A number above all saved before.
      state: A pytree of arrays and numbers.
      notes: Numbers, texts, lists and dictionaries; floats come back to the last bit.

    Raises:
      InputError: If the folder is gone: Orbax would make it anew, and the rest of a run would lack.
    """
    self._wait()
    if not self._folder.is_dir():
      raise InputError(f'{self._folder}: is gone; put it back, or start again')
    self._manager.save(
      step,
      args=ocp.args.StandardSave(_pack(state)),
      custom_metadata={'structure': _structure(state), 'notes': dict(notes or {})},
    )
    self._sealing = self._background.submit(self._seal, step)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """Loads the newest checkpoint that is whole; torn ones are reported and set aside.

    Args:
      like: A state of the same structure, shapes and types; arrays come back placed like its own.

    Returns:
      The state and its notes.

    Raises:
      InputError: If no checkpoint is whole, or the newest whole one has another structure.
    """
    self._wait()
    for step in sorted(self._manager.all_steps(), reverse=True):
      # Unsealed ones (the process was killed between commit and seal) are tried all the same, and
      # tensorstore and orbax raise many kinds of exceptions for a missing piece.
      try:
        kept = self._manager.metadata(step).custom_metadata
        found, notes = kept['structure'], kept['notes']
        self._check_structure(step, found, _structure(like))
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(_pack(like)))
        leaves, tree = jax.tree.flatten(like)
        placed = map(_place, _unpack(restored, found), leaves)
        return jax.tree.unflatten(tree, placed), notes
      except InputError:
        raise
      except Exception as error:
        self._set_aside(step, str(error) or type(error).__name__)
        self._manager.reload()
    raise InputError(f'{self._folder}: no checkpoint is whole; remove this folder to start again')

  def close(self) -> None:
    """Waits for what is still being written."""
    self._wait()
    self._background.shutdown()
    self._manager.close()

  def _wait(self) -> None:
    """Waits until the last checkpoint is committed and sealed; raises what went wrong there."""
    if self._sealing is not None:
      self._sealing.result()
      self._sealing = None

  def _check_structure(self, step: int, found: list[str], expected: list[str]) -> None:
    """Refuses a checkpoint that other settings or another version wrote."""
    if found == expected:
      return
    only_found = [entry for entry in found if entry not in expected]
    only_expected = [entry for entry in expected if entry not in found]
    raise InputError(
      f'{self._folder}: checkpoint {step} does not fit this run; it has '
      f'{only_found[0] if only_found else "nothing more"}, expected '
      f'{only_expected[0] if only_expected else "nothing more"}; use another --workdir'
    )

  def _seal(self, step: int) -> None:
    """Writes the checksums of a checkpoint into it as soon as it is committed."""
    self._manager.wait_until_finished()
    folder = self._folder / str(step)
    files.write_json(folder / SEAL, _checksums(folder))
    self._empty()

  def _empty(self) -> None:
    """Deletes what Orbax has moved away."""
    shutil.rmtree(self._folder / _REMOVED, ignore_errors=True)

  def _set_aside_damaged(self) -> None:
    """Looks at all checkpoints before Orbax does, which fails at some kinds of damage."""
    for folder in self._folder.glob('*'):
      if folder.name.isdigit() and (damage := self._damage(folder)):
        self._set_aside(int(folder.name), damage)

  def _damage(self, folder: Path) -> str:
    """What is wrong with a checkpoint as far as its files tell; '' for a whole one."""
    try:
      if not (folder / SEAL).exists():  # killed before it; Orbax writes its metadata once more
        try:
          _read_description(folder)
        except InputError:
          return 'it was being written when the process ended'
        return ''
      expected = files.read_json(folder / SEAL)
      if _METADATA not in expected:
        return f'{SEAL} is incomplete'
      found = _checksums(folder)
      changed = [name for name in expected if found.get(name) != expected[name]]
    except (InputError, OSError, TypeError, AttributeError) as error:
      return str(error) or type(error).__name__
    if not changed:
      return ''
    return f'{changed[0]} {"has changed" if changed[0] in found else "is missing"}'

  def _set_aside(self, step: int, reason: str) -> None:
    """Renames a torn checkpoint, so that its number can be saved again; only one such is kept."""
    line = next(iter(reason.strip().splitlines()), 'it cannot be read')[:100]
    self._warn(f'warning: {self._folder}: checkpoint {step} is damaged and left out ({line})')
    for before in self._folder.glob(f'{_DAMAGED}*'):
      shutil.rmtree(before)
    (self._folder / str(step)).rename(self._folder / f'{_DAMAGED}{step}')


def _read_description(folder: Path) -> tuple[list[str], dict[str, Any]]:
  """Structure and notes, which were saved beside a checkpoint's arrays."""
  path = folder / _METADATA
  files.require_file(path, most_bytes=files.MOST_JSON_BYTES)
  try:
    # files.read_json would refuse the times in it, which Orbax counts in nanoseconds: 19 digits.
    kept = json.loads(path.read_text(encoding='utf-8'))['custom_metadata']
    return kept['structure'], kept['notes']
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise InputError(f'{path}: does not describe a checkpoint; restore it') from error


def _checksums(folder: Path) -> dict[str, str]:
  """SHA-256 of each file below a folder but the seal, by its path."""
  checksums = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path.name != SEAL:
      with path.open('rb') as file:
        checksums[str(path.relative_to(folder))] = hashlib.file_digest(file, 'sha256').hexdigest()
  return checksums


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads one checkpoint, without the settings, the network or the optimiser of its run.

  In its folder, `default/` is an Orbax checkpoint of a dictionary: for each type a vector with all
  arrays of this type, one after the other. In `_CHECKPOINT_METADATA`, which is JSON,
  `custom_metadata` has the notes and under `structure`, after a first entry that names this layout,
  for each array a line with its path, type and shape, in the order in which they follow one
  another: `['state']['params']['stem']['kernel'] float32[3,3,1,16]`. Single numbers are lines such
  as `['best']['epoch'] int`, and lie in the vectors of int64, float64 and bool.

  Args:
    folder: One that has a number for its name, such as runs/brain/retrain/checkpoints/360.

  Returns:
    Path -> array, and the notes.

  Raises:
    InputError: If there is no checkpoint.
  """
  folder = Path(folder).absolute()
  structure, notes = _read_description(folder)
  vectors = ocp.PyTreeCheckpointer().restore(folder / 'default')
  paths = [entry.rpartition(' ')[0] for entry in structure[1:]]
  return dict(zip(paths, _unpack(vectors, structure), strict=True)), notes


def _pack(state: Any) -> dict[str, np.ndarray]:
  """Copies of all leaves, those of a type one after the other in one vector, by the type's name.

  On one core Orbax takes 0.6 s for the 1,300 arrays of a small network, and 0.04 s for them packed.
  """
  parts: dict[str, list[np.ndarray]] = {}
  for leaf in jax.tree.leaves(state):
    array = np.asarray(leaf)
    parts.setdefault(array.dtype.name, []).append(array.ravel())
  return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _unpack(vectors: Mapping[str, np.ndarray], structure: list[str]) -> list[np.ndarray]:
  """The leaves that `_pack` made the vectors of, in order."""
  left, leaves = dict(vectors), []
  for entry in structure[1:]:
    kind, _, shape = entry.rpartition(' ')[2].rstrip(']').partition('[')
    name = jnp.dtype(kind).name  # of Python's numbers that which numpy gives them
    sides = [int(side) for side in shape.split(',') if side]
    vector, left[name] = np.split(left[name], [math.prod(sides)])
    leaves.append(vector.reshape(sides))
  return leaves


def _place(array: np.ndarray, like: Any) -> Any:
  """Makes a restored leaf what the one of now is: on its devices, in numpy, or a Python number."""
  if isinstance(like, jax.Array):
    return jax.device_put(array, like.sharding)
  return array if isinstance(like, np.ndarray) else type(like)(array.item())


def _structure(state: Any) -> list[str]:
  """How a state is laid out, and for each leaf its path, type and shape, see read."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return [_LAYOUT, *(f'{jax.tree_util.keystr(path)} {_type(leaf)}' for path, leaf in leaves)]


def _type(leaf: Any) -> str:
  """The type and shape of a leaf; Python numbers by the type's name."""
  if not hasattr(leaf, 'dtype'):
    return type(leaf).__name__
  return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
