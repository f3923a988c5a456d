"""Figures of one scan, comparable with those of others, and a picture of it."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from ml_collections import ConfigDict

from data_prep import placement, reduction, slice_order
from thrifty_jax import labels
from thrifty_jax.scans import dicom_file, overlays, slices, volumes
from thrifty_jax.scans.volumes import Case, Volume
from thrifty_jax.words import list_some

PERCENTILES = (0.5, 50, 99.5)
_SAMPLES = 1 << 20  # voxels of a channel, evenly spread, for its percentiles


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
  """Figures of a scan, and a picture of its middle slice with a mask."""

  case: str
  patient: str
  shape: tuple[int, ...]  # numbers of voxels, [D, H, W], D along the axis of the slices
  spacing_mm: tuple[float, float, float]
  orientation: str  # directions of the file's axes, fastest first, such as LPS; '' if unknown
  intensity: np.ndarray  # PERCENTILES of each channel, [M, 3]
  class_size: np.ndarray  # of each foreground class, in ml, or pixels of a picture, [K - 1]
  image_digest: str  # of the voxels, independent of how the file stores them; '' if all are equal
  label_digest: str  # of the mask in the same way; '' for an empty one
  study_digest: str  # equal for DICOM files of one visit; '' if unknown
  disordered: tuple[int, ...]  # numbers, from 1, of slices that do not follow those before them
  blank: tuple[int, ...]  # numbers, from 1, of slices that show nothing but have a mask
  picture: str  # the slice, its mask outlined, as a PNG in a data URI
  pictured: int  # number of that slice, from 1
  placement: np.ndarray | None = None  # what lies under the mask, see placement.measure
  constant: tuple[int, ...] = ()  # numbers, from 0, of the channels that have one value
  # DSC of each foreground class of the mask, as the network sees it, with the mask itself, [K - 1];
  # NaN where there is none. None where it is not measured.
  kept: np.ndarray | None = None
  # Whether each foreground class lacks a slice between others of contours, [K - 1]; () of others.
  gaps: tuple[bool, ...] = ()
  unsure: str = ''  # files that do not say clearly where their axes point, and how these are taken


def measure(volume: Volume, source: Case, data: ConfigDict) -> Scan:
  """Returns the figures of a scan without problems, whose slices lie along data.slice_axis."""
  regions, image = labels.parse(data.regions), volume.image
  label = labels.leave_out_ignored(volume.truth, volume.truth)[0]
  voxels = image.reshape(-1, image.shape[-1])
  intensity = np.percentile(voxels[:: 1 + len(voxels) // _SAMPLES], PERCENTILES, axis=0).T
  counts = np.array(
    [np.count_nonzero(labels.belongs(label, k, regions)) for k in range(1, len(data.classes))]
  )
  labelled = np.flatnonzero(label.any(axis=(1, 2)))
  flat = (image.min(axis=(1, 2)) == image.max(axis=(1, 2))).all(axis=-1)
  middle = int(labelled[len(labelled) // 2]) if labelled.size else len(label) // 2
  shown = overlays.pick_channels(image[middle], unit=data.unit)
  limits = data.window if data.intensity == 'window' else (intensity[0, 0], intensity[0, 2])
  if limits[0] == limits[1]:  # nearly all voxels are equal
    limits = image[..., 0].min(), image[..., 0].max()
  return Scan(
    case=volume.case,
    patient=volume.patient,
    shape=label.shape,
    spacing_mm=volume.spacing_mm,
    orientation=volume.orientation,
    intensity=intensity,
    class_size=counts * (1 if data.unit == 'pixels' else np.prod(volume.spacing_mm) / 1000),
    image_digest=_digest(image) if image.min() < image.max() else '',
    label_digest=_digest(label) if labelled.size else '',
    study_digest=_study_digest(source),
    disordered=tuple(d + 1 for d in slice_order.find_out_of_order(image[..., 0])),
    blank=tuple(int(d) + 1 for d in labelled if flat[d]),
    picture=overlays.outline_slice(
      shown,
      labels.innermost(label[middle], regions),
      limits=overlays.colour_limits(shown) if shown.ndim == 3 else limits,
      spacing_mm=volume.spacing_mm[1:],
      colours=overlays.line_colours(data.colours),
    ),
    pictured=middle + 1,
    placement=placement.measure(
      slices.clip_to_unit(image[..., 0], *limits),
      labels.innermost(label, regions),
      len(data.classes),
    )
    if label is volume.truth  # else a class may end where nobody labelled
    else None,
    constant=tuple(np.flatnonzero(voxels.min(axis=0) == voxels.max(axis=0)).tolist()),
    kept=_measure_kept(volume.truth, data, regions),
    gaps=_find_gaps(volume, label, source, data.slice_axis),
    unsure=_describe_unsure((*source.image, *source.label)),
  )


def _describe_unsure(paths: Sequence[Path]) -> str:
  """Returns `Scan.unsure` of the files of a scan, with their names."""
  found = collections.defaultdict(list)
  for path in paths:
    found[volumes.find_unsure(path)].append(f'{path.parent.name}/{path.name}')
  return '; '.join(f'{list_some(names)}: {text}' for text, names in found.items() if text)


def _find_gaps(
  volume: Volume, label: np.ndarray, source: Case, slice_axis: str
) -> tuple[bool, ...]:
  """Returns `Scan.gaps` of the mask of a volume, [D, H, W], by the slices of its series."""
  if not source.segments or dicom_file.read_header(source.label[0]).kind != dicom_file.CONTOURS:
    return ()
  axes = nibabel.orientations.axcodes2ornt(volumes.SLICE_AXES[slice_axis])[:, 0]
  _, _, across = nibabel.orientations.axcodes2ornt(volume.orientation)[:, 0]
  planes = np.moveaxis(label, axes.tolist().index(across), 0)
  drawn = [(planes == k).any(axis=(1, 2)) for k in range(1, len(source.segments) + 1)]
  return tuple(bool((np.diff(np.flatnonzero(one)) > 1).any()) for one in drawn)


def _measure_kept(
  label: np.ndarray, data: ConfigDict, regions: labels.Regions
) -> np.ndarray | None:
  """Returns `Scan.kept` of what is drawn smaller, and of sparse labels."""
  factor = data.reduction or max(1.0, max(label.shape[1:]) / data.image_size)
  if factor == 1 and not data.ignore:
    return None
  masks = [plane for plane in label if plane.any()]
  found = reduction.measure_kept_by_class(masks, factor, regions)
  none = [(np.nan, np.nan)]
  # Over the slices of a volume, as scores are.
  sums = [np.sum(found.get(k, none), axis=0) for k in range(1, len(data.classes))]
  return np.array([twice / size for twice, size in sums])


def _digest(voxels: np.ndarray) -> str:
  digest = hashlib.blake2b(str(voxels.shape).encode())
  digest.update(np.ascontiguousarray(voxels).data)
  return digest.hexdigest()


def _study_digest(source: Case) -> str:
  """Returns the digest of the first file's DICOM study; the identifier itself is not kept."""
  is_dicom = source.segments or source.image[0].suffix.lower() == '.dcm'
  study = dicom_file.read_study(source.image[0]) if is_dicom else ''
  return hashlib.blake2b(study.encode()).hexdigest() if study else ''
