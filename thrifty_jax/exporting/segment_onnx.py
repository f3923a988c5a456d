"""Segments NIfTI scans with the exported network beside it. Research use only, no medical device.

    pip install numpy scipy nibabel onnxruntime
    python segment.py SCAN.nii.gz MASK.nii.gz
    python segment.py SCAN_0000.nii.gz SCAN_0001.nii.gz MASK.nii.gz   (several channels, in order)

The mask lies on the grid of the scan; preprocessing.json has the names of its numbers, and all that
this script knows of the network. Of the scan's header, which nifti.py checks, only geometry reaches
the mask.
"""

import argparse
import functools
import json
import os
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations
from scipy import ndimage, sparse

from thrifty_jax.scans import nifti

# Where axes D, H, W of the slices point to: S head, I feet, P back, L the patient's left.
SLICE_AXES = {'axial': 'SPL', 'coronal': 'PIL', 'sagittal': 'LIP'}


def load(folder, model='model.onnx', threads=0):
  """Reads preprocessing.json and the network, a function of image [N, C, S, S] to [N, K, S, S]."""
  import onnxruntime  # here: preparing does without it # pyrefly: ignore[missing-import]

  settings = json.loads(Path(folder, 'preprocessing.json').read_text('utf-8'))
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads  # 0 uses all cores
  device = ['CPUExecutionProvider']
  session = onnxruntime.InferenceSession(str(Path(folder, model)), options, providers=device)
  return settings, lambda image: session.run(['logits'], {'image': image})[0]


def segment(voxels, affine, settings, network):
  """Mask of a scan: class of each voxel, [X, Y, Z], uint8.

  Args:
    voxels: Intensities as the scanner stores them, [X, Y, Z] or [X, Y, Z, M].
    affine: Map from (x, y, z, 1) to RAS millimetres, [4, 4].
    settings, network: Results of `load`.
  """
  if voxels.dtype.kind not in 'buif':
    raise SystemExit(f'the scan has voxels of {voxels.dtype}, not one number for each')
  volume = voxels[..., None] if voxels.ndim == 3 else voxels
  if volume.shape[3:] != (settings['modalities'],):
    raise SystemExit(f'the scan has {volume.shape[3:]} channels, not {settings["modalities"]}')
  with np.errstate(over='ignore'):  # infinite then, and refused
    volume = volume.astype(np.float32)
  if not np.isfinite(volume).all():
    remedy = 'add --nan_is_lowest to take NaN as the lowest value, or '
    raise SystemExit(
      'the scan has non-finite voxels, NaN or infinite; '
      f'{"" if np.isinf(volume).any() else remedy}export it again'
    )
  if (volume.min((0, 1, 2)) == volume.max((0, 1, 2))).any():
    raise SystemExit('all voxels of a channel are the same; expected an image')
  stored = orientations.io_orientation(affine)
  sliced = orientations.axcodes2ornt(SLICE_AXES[settings['slice_axis']])
  volume = orientations.apply_orientation(volume, orientations.ornt_transform(stored, sliced))
  image = prepare(np.ascontiguousarray(volume), settings)
  order = np.argsort(orientations.ornt_transform(stored, sliced)[:, 0])
  spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)[order]
  for line in unlike(image, volume.shape[:3], spacing, settings):
    print(f'unlike the scans of the training, check the mask: {line}', file=sys.stderr)
  mask = classes(image, volume.shape[1:3], settings, network)
  for name in settings['largest_component']:
    keep_largest(mask, settings['classes'].index(name))
  return orientations.apply_orientation(mask, orientations.ornt_transform(sliced, stored))


def fill(voxels):
  """Takes the lowest value of its channel for NaN; infinite voxels stay, and are refused."""
  missing = np.isnan(voxels)
  lowest = np.where(missing, np.inf, voxels).min((0, 1, 2), keepdims=True)
  if missing.any():
    print(f'{missing.sum():,} voxels are NaN and taken as the lowest value', file=sys.stderr)
  return np.where(missing, lowest, voxels)


def prepare(volume, settings):
  """Slices [D, S, S, M], float16 in [0, 1], of a scan [D, H, W, M], float32."""
  if settings['padding']:
    first, value = settings['padding']
    volume = np.where(volume >= first, np.float32(value), volume)
  size = settings['image_size']
  image = np.empty((len(volume), size, size, volume.shape[3]), np.float16)
  for m in range(volume.shape[3]):
    channel = volume[..., m]
    if settings['intensity'] == 'percentiles':
      low, high = np.percentile(channel, settings['percentiles'])
      if low == high:
        low, high = channel.min(), channel.max()
    else:
      low, high = settings['window']
    channel = np.clip((channel - np.float32(low)) / np.float32(high - low), 0, 1)
    for d, plane in enumerate(channel):
      image[d, ..., m] = np.clip(to_square(plane, settings), 0, 1)
  return image


# By what factor a length may lie outside the range of the training scans, and an intensity by how
# much; how many times thicker than its pixels are wide a thick slice is.
LIKE = {'slices': 2, 'slice_spacing_mm': 1.5, 'pixel_spacing_mm': 1.5, 'field_of_view_mm': 1.25}
SHADE, THICK = 0.15, 1.5


def unlike(image, shape, spacing, settings):
  """A line for each measure of a scan outside the range of the training scans, as predict has it.

  Args:
    image: Result of `prepare`.
    shape, spacing: Voxels, and millimetres between them, along D, H and W.
    settings: A result of `load`.
  """
  known, lines = settings['training_scans'] or {}, []
  values = {
    'slices': [shape[0]],
    'slice_spacing_mm': [spacing[0]],
    'pixel_spacing_mm': [*spacing[1:]],
    'field_of_view_mm': [max(np.multiply(shape, spacing)[1:])],
  }
  are_thick = known and known['slice_spacing_mm'][0] >= THICK * known['pixel_spacing_mm'][1]
  if are_thick and max(spacing[1:]) >= THICK * spacing[0]:
    lines.append(f'thick slices that are not {settings["slice_axis"]}')
  for name, factor in LIKE.items() if known else ():
    least, most = known[name]
    found = [value for value in values[name] if not least / factor <= value <= most * factor]
    lines += [f'{name} {value:.4g}, in training {least:.4g} to {most:.4g}' for value in found[:1]]
  for name in [name for name in known if name.startswith('intensity')]:
    _, channel, percentile = name.split('_')
    shade = np.percentile(image[..., int(channel)].astype(np.float32), int(percentile[1:]))
    least, most = known[name]
    if not least - SHADE <= shade <= most + SHADE:
      lines.append(f'{name} {shade:.2f} of the range, in training {least:.2f} to {most:.2f}')
  return lines


def to_square(plane, settings):
  """Resizes a slice [H, W] to the network's input, [S, S]."""
  limit, iterations = settings['clahe_clip_limit'], settings['curvature_flow_iterations']
  if limit and plane.min() != plane.max():
    from skimage import exposure  # pip install scikit-image

    plane = exposure.equalize_adapthist(plane, clip_limit=limit).astype(np.float32)
  side = max(plane.shape)
  top, left = ((side - length) // 2 for length in plane.shape)
  square = np.zeros((side, side), np.float32)
  square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
  square = resize(square, settings['image_size'], order=int(settings['resize'] == 'linear'))
  if iterations:
    import SimpleITK  # pip install SimpleITK

    flow = SimpleITK.CurvatureFlow(
      SimpleITK.GetImageFromArray(square),
      timeStep=settings['curvature_flow_time_step'],
      numberOfIterations=iterations,
    )
    square = SimpleITK.GetArrayFromImage(flow)
  return square


def classes(image, native_size, settings, network):
  """Class of each voxel [D, H, W] from slices [D, S, S, M]."""
  context = settings['context']
  rows = np.arange(len(image))[:, None] + np.arange(-context, context + 1)
  stacked = np.moveaxis(image[np.clip(rows, 0, len(image) - 1)], -1, 2)  # with their neighbours
  inputs = stacked.reshape(len(image), -1, *image.shape[1:3]).astype(np.float32)  # [D, C, S, S]
  mask = np.empty((len(image), *native_size), np.uint8)
  side = max(native_size)
  top, left = ((side - length) // 2 for length in native_size)
  for d in range(len(image)):  # one by one, so that activations stay in the caches: half the time
    logits = network(inputs[d : d + 1])[0]
    native = np.stack([resize(one, side) for one in logits])
    mask[d] = native.argmax(0)[top : top + native_size[0], left : left + native_size[1]]
  return mask


def resize(plane, size, order=1):
  """Resizes a square: linearly, with blur first if it shrinks (order 1), or to the nearest (0)."""
  if len(plane) == size:
    return plane
  each = weights(len(plane), size, order)
  return np.ascontiguousarray((each @ (each @ plane).T).T)


@functools.lru_cache(maxsize=64)
def weights(old, new, order):
  """Weights of a row's old pixels in each new one, [new, old], as in skimage.transform.resize."""
  unit = np.eye(old)
  if order and new < old:
    unit = ndimage.gaussian_filter(unit, ((old / new - 1) / 2, 0), mode='nearest')
  rows = ndimage.zoom(unit, (new / old, 1), order=order, mode='nearest', grid_mode=True)
  return sparse.csr_array(np.asarray(rows, np.float32))


def keep_largest(mask, number):
  """Turns all but the largest component of a class into background, in place."""
  pieces, count = ndimage.label(mask == number)
  if count > 1:
    mask[(pieces > 0) & (pieces != np.bincount(pieces.ravel())[1:].argmax() + 1)] = 0


def write(path, mask, scan_header):
  """Writes a mask [X, Y, Z] as NIfTI with only the geometry of its scan's header."""
  image = nifti.image_like(mask, scan_header)
  image.header['descrip'] = b'Research use only, not a medical device.'
  unfinished = path.with_name(f'.unfinished_{os.getpid()}_{path.name}')
  nibabel.save(image, unfinished)
  unfinished.replace(path)


def main():
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('scan', nargs='+', type=Path, help='NIfTI files, one a channel')
  parser.add_argument('mask', type=Path, help='NIfTI file to write, .nii or .nii.gz')
  parser.add_argument('--model', default='model.onnx', help='or model_int8.onnx')
  parser.add_argument('--threads', type=int, default=0, help='default: as many as there are cores')
  parser.add_argument('--nan_is_lowest', action='store_true', help='NaN is the lowest value')
  parser.add_argument('--overwrite', action='store_true', help='replace a mask that is there')
  asked = parser.parse_args()
  if asked.mask.exists() and not asked.overwrite:
    parser.error(f'{asked.mask} exists; add --overwrite or name another')
  settings, network = load(Path(__file__).parent, asked.model, asked.threads)
  scans = []
  for path in asked.scan:
    try:
      scans.append(nifti.read(path))
    except (OSError, EOFError, ValueError, zlib.error) as error:
      parser.error(f'{path}: {error}')
  first, *others = scans
  for one in others:
    same = one.voxels.shape == first.voxels.shape
    if not same or not np.allclose(one.affine, first.affine, atol=0.01):
      parser.error('the channels do not lie on one grid')
  voxels = np.stack([scan.voxels for scan in scans], axis=-1) if others else first.voxels
  voxels = fill(voxels) if asked.nan_is_lowest else voxels
  try:
    mask = segment(voxels, first.affine, settings, network)
  except SystemExit as refused:
    parser.error(f'{asked.scan[0]}: {refused}')
  write(asked.mask, mask, first.header)
  print(f'{asked.mask}: research use only, not a medical device', file=sys.stderr)


if __name__ == '__main__':
  main()
