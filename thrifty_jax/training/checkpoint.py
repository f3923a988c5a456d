"""Checkpoints of a run: saved in the background, and restored only if they are intact."""

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

SEAL = 'checksums.json'  # file in the folder of each checkpoint
_METADATA = '_CHECKPOINT_METADATA'  # file of Orbax
_DAMAGED = 'damaged_'  # precedes the number of a checkpoint that was set aside
_REMOVED = 'removed'  # old ones are moved there before deletion: a kill leaves no partial one
_LAYOUT = 'arrays packed by type'


class Checkpoints:
  """The newest `keep` checkpoints in a folder.

  A state is a pytree of arrays and numbers; notes are JSON values of any structure. Random keys
  belong in neither: `jax.random.fold_in` derives them from the seed and the step.
  """

  def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
    """Opens or creates a folder for checkpoints only; of two, one is intact if the other is not."""
    self._folder = Path(folder).absolute()
    # Orbax logs warnings about what is normal here, and tracebacks of errors that it raises anyway.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    self._hook, sys.unraisablehook = sys.unraisablehook, _without_later_failures(sys.unraisablehook)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._empty()
    for path in self._folder.glob('*'):  # before Orbax reads them, which fails on some damage
      if path.name.isdigit() and (damage := _describe_damage(path)):
        self._set_aside(int(path.name), damage)
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_handlers=ocp.StandardCheckpointHandler(),  # otherwise guessed from the files
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        todelete_subdir=_REMOVED,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
        create=False,
        # Only one of several processes saves; it waits for no other.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=jax.process_index(), active_processes={jax.process_index()}
        ),
      ),
    )
    self._background = concurrent.futures.ThreadPoolExecutor(1)
    self._sealing: concurrent.futures.Future | None = None

  def latest(self) -> int | None:
    """Returns the number of the newest checkpoint or None; after restore(), of the restored one."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, notes: Mapping[str, Any] | None = None) -> None:
    """Saves a state in the background under a higher number; the state may be donated at once."""
    self._wait()
    if not self._folder.is_dir():  # Orbax would create it again, without the rest of the run
      raise InputError(f'{self._folder}: the folder is gone; put it back, or start again')
    self._manager.save(
      step,
      args=ocp.args.StandardSave(_pack(state)),
      custom_metadata={'structure': _structure(state), 'notes': dict(notes or {})},
    )
    self._sealing = self._background.submit(self._seal, step)

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the newest intact state, placed like another, and its notes; sets damaged ones aside.

    Raises:
      InputError: If no checkpoint is intact, or the newest intact one has another structure.
    """
    self._wait()
    for step in sorted(self._manager.all_steps(), reverse=True):
      # Unsealed ones (the process was killed between commit and seal) are tried too; tensorstore
      # and orbax raise many kinds of exceptions for a missing part.
      try:
        kept = self._manager.metadata(step).custom_metadata
        self._require_structure(step, kept['structure'], _structure(like))
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(_pack(like)))
        leaves, tree = jax.tree.flatten(like)
        placed = map(_place, _unpack(restored, kept['structure']), leaves)
        return jax.tree.unflatten(tree, placed), kept['notes']
      except InputError:
        raise
      except Exception as error:
        self._set_aside(step, str(error) or type(error).__name__)
        self._manager.reload()
    raise InputError(f'{self._folder}: no checkpoint is intact; remove this folder to start again')

  def close(self) -> None:
    """Waits until everything is written."""
    try:
      self._wait()
    finally:
      sys.unraisablehook = self._hook
    self._background.shutdown()
    self._manager.close()

  def _wait(self) -> None:
    """Waits until the last checkpoint is committed and sealed; raises its errors."""
    if self._sealing is not None:
      self._sealing.result()
      self._sealing = None

  def _require_structure(self, step: int, found: list[str], expected: list[str]) -> None:
    """Checks that a checkpoint was not written with other settings or by another version."""
    if found != expected:
      (has, *_) = [*(entry for entry in found if entry not in expected), 'nothing more']
      (needs, *_) = [*(entry for entry in expected if entry not in found), 'nothing more']
      raise InputError(
        f'{self._folder}: checkpoint {step} does not fit this run; it has {has}, expected {needs}; '
        'use another --workdir'
      )

  def _seal(self, step: int) -> None:
    """Writes the checksums of a checkpoint into it as soon as it is committed."""
    self._manager.wait_until_finished()
    folder = self._folder / str(step)
    files.write_json(folder / SEAL, _checksums(folder))
    self._empty()

  def _empty(self) -> None:
    """Deletes the checkpoints that Orbax has moved away."""
    shutil.rmtree(self._folder / _REMOVED, ignore_errors=True)

  def _set_aside(self, step: int, reason: str) -> None:
    """Renames a damaged checkpoint, so that its number is free again; only one such is kept."""
    line = next(iter(reason.strip().splitlines()), 'it cannot be read')[:100]
    text = f'warning: {self._folder}: checkpoint {step} is damaged and left out ({line})'
    print(text, file=sys.stderr, flush=True)
    for before in self._folder.glob(f'{_DAMAGED}*'):
      shutil.rmtree(before)
    (self._folder / str(step)).rename(self._folder / f'{_DAMAGED}{step}')


def _without_later_failures(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Returns a sys.unraisablehook that passes over the writes that fail after a first one.

  That one is raised, and closes the loop to which TensorStore's threads report the others.
  """

  def report(unraisable: Any) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  return report


def _describe_damage(folder: Path) -> str:
  """Describes the damage that the files of a checkpoint show; '' for an intact one."""
  if not (folder / SEAL).exists():  # killed before sealing; Orbax writes its metadata twice
    try:
      _read_description(folder)
    except InputError:
      return 'it was being written when the process ended'
    return ''
  try:
    expected, found = files.read_json(folder / SEAL), _checksums(folder)
    if _METADATA not in expected:
      return f'{SEAL} is incomplete'
    changed = [name for name in expected if found.get(name) != expected[name]]
  except (InputError, OSError, TypeError) as error:  # TypeError: the seal is no dictionary
    return str(error)
  return f'{changed[0]} is missing or has changed' if changed else ''


def _read_description(folder: Path) -> tuple[list[str], dict[str, Any]]:
  """Returns the structure and notes that are saved beside a checkpoint's arrays."""
  path = folder / _METADATA
  files.require_file(path, most_bytes=files.MOST_JSON_BYTES)
  try:
    # files.read_json would refuse its times, which Orbax stores in nanoseconds, with 19 digits.
    kept = json.loads(path.read_text(encoding='utf-8'))['custom_metadata']
    return kept['structure'], kept['notes']
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise InputError(f'{path}: does not describe a checkpoint; restore it') from error


def _checksums(folder: Path) -> dict[str, str]:
  """Returns the SHA-256 of each file below a folder except the seal, by its path."""
  checksums = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path.name != SEAL:
      with path.open('rb') as file:
        checksums[str(path.relative_to(folder))] = hashlib.file_digest(file, 'sha256').hexdigest()
  return checksums


def read(folder: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads one checkpoint without the settings, the network or the optimiser of its run.

  In its folder, `default/` is an Orbax checkpoint of a dictionary that has, for each type, a vector
  with all arrays of this type, concatenated. `_CHECKPOINT_METADATA` is JSON; its `custom_metadata`
  has the notes and `structure`: an entry that names this layout, then for each array, in the order
  of concatenation, its path, type and shape:
  `['state']['params']['stem']['kernel'] float32[3,3,1,16]`. Single numbers have entries such as
  `['best']['epoch'] int` and are in the vectors of int64, float64 and bool.

  Args:
    folder: Folder of the checkpoint, such as runs/brain/retrain/checkpoints/360.

  Returns:
    The arrays by their paths, and the notes; InputError if there is no checkpoint.
  """
  folder = Path(folder).absolute()
  structure, notes = _read_description(folder)
  vectors = ocp.PyTreeCheckpointer().restore(folder / 'default')
  paths = [entry.rpartition(' ')[0] for entry in structure[1:]]
  return dict(zip(paths, _unpack(vectors, structure), strict=True)), notes


def _pack(state: Any) -> dict[str, np.ndarray]:
  """Copies all leaves into one vector for each type, by the type's name.

  On one core Orbax takes 0.6 s for the 1,300 arrays of a small network, and 0.04 s if packed.
  """
  parts: dict[str, list[np.ndarray]] = {}
  for array in map(np.asarray, jax.tree.leaves(state)):
    parts.setdefault(array.dtype.name, []).append(array.ravel())
  return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _unpack(vectors: Mapping[str, np.ndarray], structure: list[str]) -> list[np.ndarray]:
  """Returns the leaves that `_pack` packed, in order."""
  left, leaves = dict(vectors), []
  for entry in structure[1:]:
    kind, _, shape = entry.rpartition(' ')[2].rstrip(']').partition('[')
    name = jnp.dtype(kind).name  # for Python numbers the type that numpy gives them
    sides = [int(side) for side in shape.split(',') if side]
    vector, left[name] = np.split(left[name], [math.prod(sides)])
    leaves.append(vector.reshape(sides))
  return leaves


def _place(array: np.ndarray, like: Any) -> Any:
  """Converts a restored leaf to the kind of `like`: on its devices, numpy, or a Python number."""
  if isinstance(like, jax.Array):
    return jax.device_put(array, like.sharding)
  return array if isinstance(like, np.ndarray) else type(like)(array.item())


def _structure(state: Any) -> list[str]:
  """Returns the name of the layout, then the path, type and shape of each leaf, see read."""
  entries = [_LAYOUT]
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    kind = type(leaf).__name__  # of a Python number
    if hasattr(leaf, 'dtype'):
      kind = f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
    entries.append(f'{jax.tree_util.keystr(path)} {kind}')
  return entries
