"""The steps from a scan to its classes, as evaluation takes them: pure functions of arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.data import batching
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices
from thrifty_jax.scans.volumes import Volume
from thrifty_jax.scores import scoring


def require_usable(volume: Volume, *, channels: int) -> None:
  """Refuses what no mask could be made of.

  Raises:
    InputError: If the scan is empty, has another number of channels, or a channel that is not
      finite or the same everywhere.
  """
  image = volume.image
  if image.shape[-1] != channels:
    raise InputError(
      f'the scan has {image.shape[-1]} channel(s), but the model was trained on {channels}; '
      'give all of them, in files CASE_0000, CASE_0001, ... or on the fourth axis'
    )
  if not image.size:
    raise InputError(f'the scan is empty, {image.shape[:3]} voxels (D, H, W)')
  if not np.isfinite(image).all():
    raise InputError('the scan has voxels that are NaN or infinite; export it again')
  if (image.min(axis=(0, 1, 2)) == image.max(axis=(0, 1, 2))).any():
    raise InputError('all voxels of a channel are the same; expected an image')


def prepare(volume: Volume, spec: Mapping[str, Any]) -> np.ndarray:
  """Slices of a scan as those of the training were made.

  Args:
    volume: The scan, turned to the model's slice axis.
    spec: The model's preprocessing.json.

  Returns:
    [D, S, S, M], float16 in [0, 1], not normalised yet.
  """
  if spec['padding']:
    first, value = spec['padding']
    image = np.where(volume.image >= first, np.float32(value), volume.image)
    volume = dataclasses.replace(volume, image=image)
  return slices.image_to_slices(volume, spec)


def class_scores(
  network: Callable[[jax.Array], jax.Array],
  image: np.ndarray,
  spec: Mapping[str, Any],
  *,
  batch_size: int,
) -> np.ndarray:
  """Logits of all slices.

  Args:
    network: From normalised slices [B, S, S, C] to logits [B, S, S, K].
    image: From `prepare`, [D, S, S, M].
    spec: The model's preprocessing.json.
    batch_size: B; the last batch is filled with repeats, so that one shape is compiled.

  Returns:
    [D, S, S, K], float32.
  """
  mean, std = (jnp.asarray(spec[name], jnp.float32) for name in ('mean', 'std'))
  offsets = np.arange(-spec['context'], spec['context'] + 1)
  # Gathered on the host, so that a scan with another number of slices compiles nothing anew.
  itself = np.arange(batch_size * len(offsets), dtype=np.int32).reshape(batch_size, -1)
  found = []
  for first in range(0, len(image), batch_size):
    middle = np.minimum(np.arange(first, first + batch_size), len(image) - 1)
    rows = np.clip(middle[:, None] + offsets, 0, len(image) - 1).ravel()
    found.append(
      np.asarray(network(batching.normalised(image[rows], itself, mean, std)), np.float32)
    )
  return np.concatenate(found)[: len(image)]


def to_native(
  scores: Sequence[np.ndarray], native_size: tuple[int, int], *, probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
  """Classes of the voxels of the native grid, a few slices at a time.

  Args:
    scores: Logits at network resolution, [D, S, S, K] float32, of one network or more; S may
      differ. The class with the largest logit wins; of several networks, that with the largest mean
      probability.
    native_size: (H, W).
    probabilities: Also those of the foreground classes.

  Returns:
    Class, [D, H, W], uint8, and probabilities, [K - 1, D, H, W], float32, or None.
  """
  depth, classes = len(scores[0]), scores[0].shape[-1]
  mask = np.empty((depth, *native_size), np.uint8)
  shares = np.empty((classes - 1, *mask.shape), np.float32) if probabilities else None
  for first in range(0, depth, scoring.NATIVE_CHUNK):
    part = slice(first, first + scoring.NATIVE_CHUNK)
    logits = [slices.to_native(one[part], native_size) for one in scores]
    if len(logits) == 1 and shares is None:
      mask[part] = slices.largest_class(logits[0])
      continue
    mean = np.stack([_softmax(one) for one in logits]).mean(axis=0)
    mask[part] = slices.largest_class(logits[0] if len(logits) == 1 else mean)
    if shares is not None:
      shares[:, part] = np.moveaxis(mean[..., 1:], -1, 0)
  return mask, shares


def _softmax(logits: np.ndarray) -> np.ndarray:
  """Over the last axis, float32."""
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)
