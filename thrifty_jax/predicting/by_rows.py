"""Segments pictures of any size by networks that see windows: from the top, a band at a time.

Only a few bands of rows, and the mask in a byte a pixel, are in memory. The mask is that of the
whole picture at once, to the last pixel.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.networks.inference import Predict
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.predicting import preparation
from thrifty_jax.scans import bands, levels, slices, windows
from thrifty_jax.scans.bands import Picture

_MOST_SHARES = 1 << 29  # bytes of probabilities, which are in memory whole
_SHADES = np.arange(np.float16(1).view(np.uint16) + 1, dtype=np.uint16).view(np.float16)


def suits(spec: ModelSpec) -> bool:
  """Returns whether a network's input can be made by bands: nothing in it needs all rows."""
  image = spec.image
  whole = image.clahe_clip_limit or image.curvature_flow_iterations or spec.padding or spec.context
  return spec.of_pictures and bool(image.reduction) and not whole


def segment(
  picture: Picture,
  networks: Sequence[tuple[ModelSpec, Predict]],
  *,
  batch_size: int,
  probabilities: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, likeness.Measures]:
  """Segments a picture by one or more networks, whose probabilities are averaged.

  Args:
    picture: Pixels, [H, W, M].
    networks: Description of each network and its function from windows to logits.
    batch_size: Windows that a network sees at a time.
    probabilities: Whether probabilities are returned as well.

  Returns:
    Label of each pixel, [H, W], uint8; foreground probabilities, [K - 1, H, W], float32, or None;
    and the measures of the picture as the first network sees it.
  """
  found = preparation.survey(picture, networks[0][0])
  native_size = picture.shape[:2]
  classes, regions = len(networks[0][0].classes), networks[0][0].regions
  if probabilities:
    _require_memory(native_size, classes)
  shades = np.zeros((picture.shape[2], len(_SHADES)), np.int64)
  scores = []
  for number, (spec, predict) in enumerate(networks):
    reduced = bands.Reduced(picture, spec.image, found)
    parts = windows.iterate(reduced, spec.image.image_size)
    parts = _count_shades(parts, shades) if number == 0 else parts
    joined = windows.blend(_predict(parts, predict, batch_size), reduced.shape[:2])
    scores.append(bands.enlarge(joined, reduced.shape[:2], native_size))
  mask = np.empty(native_size, np.uint8)
  shares = np.empty((classes - 1, *native_size), np.float32) if probabilities else None
  for rows, *native in zip(bands.split(*native_size), *scores, strict=True):
    mask[rows], share = slices.choose_classes(native, probabilities=probabilities, regions=regions)
    if shares is not None:
      shares[:, rows] = share
  percentiles = [
    levels.make_levels(counts, _SHADES).percentiles(likeness.PERCENTILES) for counts in shades
  ]
  return mask, shares, likeness.describe(percentiles, (1, *native_size), (1.0, 1.0, 1.0))


def _require_memory(native_size: tuple[int, int], classes: int) -> None:
  """Refuses probabilities that take too much memory, as they grow with the picture."""
  taken = 4 * (classes - 1) * native_size[0] * native_size[1]
  if taken > _MOST_SHARES:
    raise InputError(
      f'the picture has {native_size[0]} x {native_size[1]} pixels, whose probabilities take '
      f'{taken / 2**30:.1f} GiB of memory; expected at most {_MOST_SHARES / 2**30:.1f}. Leave out '
      '--probabilities, or cut the picture into parts'
    )


def _predict(
  parts: Iterable[np.ndarray], predict: Predict, batch_size: int
) -> Iterator[np.ndarray]:
  """Yields the scores of each window, [S, S, K]."""
  parts = iter(parts)
  while batch := [*itertools.islice(parts, batch_size)]:
    yield from predict(np.stack(batch))


def _count_shades(parts: Iterable[np.ndarray], shades: np.ndarray) -> Iterator[np.ndarray]:
  """Yields windows, [S, S, M] float16 in [0, 1], and counts their values in each channel."""
  for part in parts:
    for m, counts in enumerate(shades):
      counts += np.bincount(part[..., m].view(np.uint16).ravel(), minlength=len(counts))
    yield part
