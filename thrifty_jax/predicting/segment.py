"""Segments scans by trained networks: prepared as for training, with masks on the scan's grid.

For the same scan, model and batch size, evaluation finds the same class in every voxel.
"""

import dataclasses
import functools
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax import allowed, hub, labels, model_folder, records
from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import LoadedModel
from thrifty_jax.networks import build, inference
from thrifty_jax.predicting import BATCH_SIZE, by_rows, preparation
from thrifty_jax.predicting.file_mask import FileMask
from thrifty_jax.scans import missing, pictures, slices, sources, volumes
from thrifty_jax.scans.bands import Picture
from thrifty_jax.scans.sources import Grid, Source
from thrifty_jax.scans.volumes import Volume
from thrifty_jax.scores import components

# Axis of NIfTI's world (to the right, front and head) and sign of each letter.
_WORLD = {'R': (0, 1), 'L': (0, -1), 'A': (1, 1), 'P': (1, -1), 'S': (2, 1), 'I': (2, -1)}


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
  """Segmentation of a scan, turned as the networks see it (volumes.SLICE_AXES).

  Probabilities are from before `mask` was reduced to the largest component of some classes.
  """

  image: Picture  # [D, H, W, M] of a volume, [H, W, M] of a picture
  affine: np.ndarray  # of voxel indices to millimetres in the RAS world, [4, 4]
  mask: np.ndarray  # label of each voxel, [D, H, W], uint8
  probabilities: np.ndarray | None  # of foreground classes, [K - 1, D, H, W], float32, if requested
  unit: str  # of lengths: mm, or pixels of a picture
  unlike: tuple[str, ...]  # descriptions of how the scan differs from those of the training

  def turned(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turns voxels of this grid, [D, H, W], to the orientation of the file's affine."""
    return volumes.turn_like(voxels, self.affine, affine)


@dataclasses.dataclass(frozen=True, eq=False)
class Segmenter:
  """One network, or several whose probabilities are averaged."""

  members: tuple[LoadedModel, ...]  # which agree on classes, channels, slice axis and unit
  batch_size: int = BATCH_SIZE  # slices
  budget_bytes: int | None = None  # for activations; the batch shrinks to fit. None is no limit
  flips: bool = False  # whether to average logits over the flips that training saw

  def __repr__(self) -> str:
    return f'Segmenter({", ".join(map(repr, self.members))}: {", ".join(self.classes)})'

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers, background first."""
    return self.members[0].spec.classes

  @property
  def regions(self) -> labels.Regions:
    """Labels of each class from 1 on, the written one first, if classes are regions; else ()."""
    return self.members[0].spec.regions

  @property
  def colours(self) -> tuple[str, ...]:
    """Colours of the classes in masks that are pictures, '#rrggbb'; () if they have none."""
    return self.members[0].spec.colours

  @property
  def channels(self) -> int:
    """Number of image channels M that a scan must have."""
    return self.members[0].spec.modalities

  @property
  def of_pictures(self) -> bool:
    """Whether the scans are pictures, not volumes."""
    return self.members[0].spec.of_pictures

  @property
  def by_rows(self) -> bool:
    """Whether pictures are segmented by bands of rows, so that they may be of any size."""
    return all(by_rows.suits(member.spec) for member in self.members)

  @property
  def largest_component(self) -> tuple[str, ...]:
    """Classes of which at least half of the models keep only the largest component."""
    kept = [name for member in self.members for name in member.spec.largest_component]
    return tuple(name for name in self.classes if 2 * kept.count(name) >= len(self.members))

  def segment(
    self, volume: np.ndarray, spacing_mm: Sequence[float], *, axes: str = 'SPL'
  ) -> np.ndarray:
    """Segments a scan that is an array.

    Args:
      volume: Intensities as the scanner stores them (CT: Hounsfield units), finite, of any real
        type; [D, H, W], or [D, H, W, M] with the channels in the order of the training.
      spacing_mm: Distance of neighbouring voxels along D, H and W, in millimetres.
      axes: Directions of D, H and W in the patient, a letter each: S head, I feet, A front, P back,
        L the patient's left, R the patient's right. 'SPL' fits SimpleITK.GetArrayFromImage of an
        axial scan whose direction is the identity; an array [x, y, z] of nibabel has
        ''.join(nibabel.aff2axcodes(image.affine)).

    Returns:
      Class of each voxel, [D, H, W], uint8, with the axes of volume; `classes` has the names.

    Raises:
      InputError: If the array, the spacing or the axes cannot be those of a scan for this model.

    Warns:
      UserWarning: Difference between the scan and those of the training, a warning each.
    """
    image = np.asarray(volume)
    if self.of_pictures:
      raise InputError('the model was trained on pictures; use segment_picture(picture)')
    if image.ndim not in (3, 4) or image.dtype.kind not in 'buif':
      raise InputError(
        f'the scan is an array {image.shape} of {image.dtype}; expected real numbers, [D, H, W] or '
        '[D, H, W, M] with the channels last'
      )
    image = image[..., None] if image.ndim == 3 else image
    affine = _affine(spacing_mm, axes)
    return _take_mask(self.find(Volume(image, None, affine, 'the scan', 'the scan')), affine)

  def segment_picture(self, picture: np.ndarray) -> np.ndarray:
    """Segments a picture that is an array.

    Args:
      picture: Pixels as stored, finite, of any real type; [H, W] in grey or [H, W, 3] in colours.

    Returns:
      Class of each pixel, [H, W], uint8; `classes` has the names.

    Raises:
      InputError: If the array cannot be that of a picture for this model.

    Warns:
      UserWarning: Difference between the picture and those of the training, a warning each.
    """
    image = np.asarray(picture)
    if not self.of_pictures:
      raise InputError('the model was trained on volumes; use segment(volume, spacing_mm)')
    if image.ndim not in (2, 3) or image.dtype.kind not in 'buif':
      raise InputError(
        f'the picture is an array {image.shape} of {image.dtype}; expected real numbers, [H, W] or '
        '[H, W, 3] with the colours last'
      )
    found = self.find_picture(image[..., None] if image.ndim == 2 else image)
    return _take_mask(found, pictures.AFFINE)[0]

  def segment_file(self, path: Path | str, *, nan_is_lowest: bool = False) -> FileMask:
    """Segments a scan in a file, or in a folder with the slices of one DICOM series.

    Args:
      path: NIfTI, MetaImage, NRRD or enhanced DICOM file; folder of a series; for a model of
        pictures a PNG, TIFF, JPEG, BMP or GIF file. Of several channels in files CASE_0000,
        CASE_0001, ... it is any of these.
      nan_is_lowest: Whether NaN, as outside the head, is the lowest value; else it is refused.

    Returns:
      The mask on the grid of the file; its `save` writes it, its `draw` a picture of it.

    Raises:
      InputError: If there is not exactly one scan, or it cannot be used with this model.

    Warns:
      UserWarning: Difference between the scan and those of the training, a warning each; and a
        header that does not say clearly where the axes point.
    """
    place = Path(path).expanduser()
    scans = sources.find(place, channels=self.channels)
    if len(scans) > 1:
      raise InputError(f'{place}: holds {len(scans)} scans, {scans[0].name} among them; name one')
    sources.require_kind(scans, of_pictures=self.of_pictures)
    try:
      _, grid, found = self.find_source(scans[0], nan_is_lowest=nan_is_lowest)
    except InputError as error:
      if str(place) in str(error):
        raise
      raise InputError(f'{place}: {error}') from error
    mask = _take_mask(found, grid.affine, scans[0].name, grid.unsure)
    mask = mask[0] if self.of_pictures else mask
    lines = (*([grid.unsure] if grid.unsure else ()), *found.unlike)
    about = self.classes, lines, scans[0], grid, self.colours, self.regions
    return FileMask(mask, *about, slice_axis=self.members[0].spec.image.slice_axis)

  def find_source(
    self, source: Source, *, probabilities: bool = False, nan_is_lowest: bool = False
  ) -> tuple[Picture, Grid, Segmentation]:
    """Segments a scan in files; returns its image as stored, [D, H, W, M] or [H, W, M], and grid.

    InputError is raised if it cannot be read or used with these models.
    """
    if self.of_pictures and not nan_is_lowest:
      picture, grid = sources.open_picture(source)
      return picture, grid, self.find_picture(picture, probabilities=probabilities)
    volume, grid = sources.read(source)
    volume = missing.fill(volume) if nan_is_lowest else volume
    image = volume.image[0] if self.of_pictures else volume.image
    return image, grid, self.find(volume, probabilities=probabilities)

  def find(self, volume: Volume, *, probabilities: bool = False) -> Segmentation:
    """Segments a scan with axes in any orientation; a truth is ignored.

    Each class takes as much memory as the scan if its probabilities are wanted. InputError is
    raised if the scan cannot be used with these models.
    """
    specs = [member.spec for member in self.members]
    volume = preparation.turn(volume, specs[0])
    scores, measures = [], {}
    for spec, predict in zip(specs, self._predictions, strict=True):
      image = preparation.prepare(volume, spec)
      scores.append(predict(image))
      measures = measures or likeness.measure(image, volume.image.shape[:3], volume.spacing_mm)
    mask, shares = slices.native_classes(
      scores,
      volume.image.shape[1:3],
      reductions=[spec.image.reduction for spec in specs],
      probabilities=probabilities,
      regions=self.regions,
    )
    image = volume.image[0] if self.of_pictures else volume.image
    return self._finish(image, volume.affine, mask, shares, measures)

  def find_picture(self, picture: Picture, *, probabilities: bool = False) -> Segmentation:
    """Segments a picture, [H, W, M], as `find` segments a volume.

    If the models allow it (`by_rows`) only some of its rows are in memory at a time, besides the
    mask and, if they are wanted, the probabilities.
    """
    if not self.by_rows:
      image = picture[: picture.shape[0]]
      whole = Volume(image[None], None, pictures.AFFINE, 'the picture', 'the picture')
      return self.find(whole, probabilities=probabilities)
    specs = [member.spec for member in self.members]
    mask, shares, measures = by_rows.segment(
      picture,
      list(zip(specs, self._predictions, strict=True)),
      batch_size=self.fitting_batch,
      probabilities=probabilities,
    )
    shares = None if shares is None else shares[:, None]
    return self._finish(picture, pictures.AFFINE, mask[None], shares, measures)

  def _finish(
    self,
    image: Picture,
    affine: np.ndarray,
    mask: np.ndarray,
    shares: np.ndarray | None,
    measures: likeness.Measures,
  ) -> Segmentation:
    """Removes small pieces from a mask, and describes how the scan differs from the training."""
    specs = [member.spec for member in self.members]
    numbers = [self.classes.index(name) for name in self.largest_component]
    mask = components.keep_largest(mask, numbers, self.regions)
    training = [spec.training_scans for spec in specs if spec.training_scans]
    kind = {'slice_axis': specs[0].image.slice_axis, 'unit': specs[0].unit}
    unlike = likeness.find_unlike(measures, likeness.merge(training), **kind) if training else []
    return Segmentation(image, affine, mask, shares, specs[0].unit, tuple(unlike))

  @functools.cached_property
  def fitting_batch(self) -> int:
    """Slices per batch, fewer to fit the memory budget; InputError if a single one exceeds it."""
    size, budget = self.batch_size, self.budget_bytes
    if budget is None:
      return size
    for member in self.members:
      while (planned := planned_bytes(member, size)) > budget:
        if size == 1:
          raise InputError(
            f'one slice takes {planned / 2**20:.1f} MiB of activations, but the budget for them is '
            f'{budget / 2**20:.1f} MiB; give more memory'
          )
        size = max(1, min(size - 1, size * budget // planned))
    return size

  @functools.cached_property
  def _predictions(self) -> tuple[inference.Predict, ...]:
    """Functions of the networks from slices to logits, averaged over flips."""
    size, wanted = self.fitting_batch, self.flips
    return tuple(
      member.predict_with(batch_size=size, flips=member.spec.flips if wanted else ())
      for member in self.members
    )


def planned_bytes(member: LoadedModel, batch_size: int) -> int:
  """Temporary memory in bytes that XLA plans for a batch; InputError if it does not report it."""
  spec = member.spec
  at_once, each = inference.split_batch(batch_size)
  shape = (each, spec.image.image_size, spec.image.image_size, spec.image_channels)
  background = jax.ShapeDtypeStruct((spec.image_channels,), jnp.float32)
  predict = build.predict_logits(member.module)
  lowered = predict.lower(member.params, jax.ShapeDtypeStruct(shape, jnp.float32), background)
  planned = lowered.compile().memory_analysis()
  if planned is None:
    raise InputError('how much memory a batch takes is not known on this device; set a batch size')
  return at_once * int(planned.temp_size_in_bytes)


def load_model(
  folder: Path | str | Sequence[Path | str],
  *,
  flips: bool = False,
  batch_size: int = BATCH_SIZE,
  memory_budget_mb: float | None = None,
) -> Segmenter:
  """Loads a trained model, or several whose probabilities are averaged, to segment arrays.

      mask = load_model('runs/brain/model').segment(volume, spacing_mm)

  Args:
    folder: Model folder, folder of a run, or of a run with several folds; 'hf://OWNER/NAME', or
      with '@REVISION', a model of the Hugging Face Hub; or a list of these.
    flips: Whether to average over the flips that the model saw in training.
    batch_size: Number of slices per batch.
    memory_budget_mb: Memory for the network's activations, MiB; the batch shrinks to fit.

  Returns:
    A Segmenter; its `segment` describes the arrays and their orientation.

  Raises:
    InputError: If there is no model, a file was altered, the models cannot be combined, or a number
      cannot be used.
  """
  if batch_size < 1 or batch_size % 1:
    raise InputError(f'batch_size is {batch_size!r}; expected a whole number from 1')
  if memory_budget_mb is not None and not 0 < memory_budget_mb < math.inf:
    raise InputError(f'memory_budget_mb is {memory_budget_mb!r}; expected MiB above 0, or None')
  several = [folder] if isinstance(folder, Path | str) else folder
  folders = [found for one in several for found in find_models(one)]
  if not folders:
    raise InputError('no model is named; expected the folder of a model or of a run')
  members = tuple(model_folder.load(found) for found in folders)
  specs = [records.to_json(member.spec) for member in members]
  for place, spec in zip(folders, specs, strict=True):
    for name in ('classes', 'regions', 'modalities', 'slice_axis', 'unit'):
      value, expected = spec.get(name), specs[0].get(name)
      if value != expected:
        raise InputError(
          f'{place}: its "{name}" is {value!r}, that of {folders[0]} is {expected!r}; models that '
          'are averaged must agree on it'
        )
  budget_bytes = None if memory_budget_mb is None else int(memory_budget_mb * 2**20)
  return Segmenter(members, int(batch_size), budget_bytes, flips)


def find_models(place: Path | str) -> list[Path]:
  """Finds the model folders of a path: itself, its model/, or those of its folds.

  Of hf://OWNER/NAME it is the one that hub.fetch returns.
  """
  if hub.is_named(place):
    return [hub.fetch(place)]
  folder = Path(os.path.expanduser(place))
  if (folder / 'preprocessing.json').exists():
    return [folder]
  if (folder / 'model').is_dir():
    return [folder / 'model']
  if folds := sorted(path for path in folder.glob('fold_*/model') if path.is_dir()):
    return folds
  raise InputError(
    f'{folder}: there is no model; expected a model folder, a run with model/, or one with '
    'fold_0/model and so on. Train one with python -m thrifty_jax.main'
  )


def find_model(place: Path | str, option: str) -> Path:
  """Finds the one model folder of a path, as find_models; `option` is its name in a command.

  A path with a model for each fold is an InputError.
  """
  folders = find_models(place)
  if len(folders) > 1:
    raise InputError(
      f'--{option}={place}: has a model for each fold; name one of them, as {folders[0].parent}'
    )
  return folders[0]


def _take_mask(
  found: Segmentation, affine: np.ndarray, scan: str = 'the scan', unsure: str = ''
) -> np.ndarray:
  """Returns the mask as the scan was, and warns where it is unlike those of the training.

  `unsure` is that of its `Grid`, of which it warns too.
  """
  caller = sys._getframe(2)  # of the method that segments
  lines = [f'{scan}: {unsure}'] if unsure else []
  for line in (*lines, *(f'{scan} is unlike those of the training: {one}' for one in found.unlike)):
    # Unlike `warn` this shows the same text again: it may be of the next scan in a loop.
    warnings.warn_explicit(
      line,
      UserWarning,
      caller.f_code.co_filename,
      caller.f_lineno,
      module=caller.f_globals.get('__name__'),
    )
  return found.turned(found.mask, affine)


def _affine(spacing_mm: Sequence[float], axes: str) -> np.ndarray:
  """Affine of an array whose axes are parallel to the patient's; its origin does not matter."""
  if sorted(_WORLD.get(letter, (3, 0))[0] for letter in axes) != [0, 1, 2]:
    raise InputError(
      f'axes is {axes!r}; expected three letters, one of S I, one of A P and one of L R, as in SPL'
    )
  allowed.require_spacing(spacing_mm, 3)
  affine = np.diag((0.0, 0.0, 0.0, 1.0))
  for column, letter in enumerate(axes):
    world, sign = _WORLD[letter]
    affine[world, column] = sign * spacing_mm[column]
  return affine
