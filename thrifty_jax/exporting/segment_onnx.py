"""Segments scans with the exported network beside it. Research use only, no medical device.

    pip install numpy scipy nibabel onnxruntime     (and what README.md names)
    python segment.py SCAN.nii.gz MASK.nii.gz
    python segment.py SCAN_0000.nii.gz SCAN_0001.nii.gz MASK.nii.gz   (several channels, in order)
    python segment.py PICTURE.tif MASK.png   (a network of pictures)

The mask lies on the grid of the scan; preprocessing.json has the names of its numbers, and all that
this script knows of the network. Of the scan's header, which nifti.py checks, only geometry reaches
the mask. The mask of a picture is a PNG whose palette has a colour for each class.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
from nibabel import orientations

from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import runners
from thrifty_jax.scans import nifti, slices, unreadable
from thrifty_jax.scores import components

# Where axes D, H, W of the slices point to: S head, I feet, P back, L the patient's left.
SLICE_AXES = {'axial': 'SPL', 'coronal': 'PIL', 'sagittal': 'LIP'}


def load(folder, model='model.onnx', threads=0, runtime='onnxruntime'):
  """Reads preprocessing.json and the network, see `runners.start`."""
  path = Path(folder, 'preprocessing.json')
  try:
    settings, path = json.loads(path.read_text('utf-8')), Path(folder, model)
    if path.name not in (known := settings['files']):
      raise InputError(f'{path}: is not of this export, which has {", ".join(known)}')
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != known[path.name]['sha256']:
      raise ValueError('it is not the network that preprocessing.json describes')
    return settings, runners.start(runtime, content, threads)
  except (ImportError, InputError):
    raise
  except Exception as error:  # those of a runtime have no other type in common
    raise InputError(f'{path}: cannot be read ({error}); copy the whole export again') from error


def segment(voxels, affine, settings, network, name='the scan'):
  """Mask of a scan: class of each voxel, [X, Y, Z], uint8.

  Args:
    voxels: Intensities as the scanner stores them, [X, Y, Z] or [X, Y, Z, M].
    affine: Map from (x, y, z, 1) to RAS millimetres, [4, 4]; of a picture that of `read`.
    settings, network, name: Results of `load`, and what messages call the scan.
  """
  if voxels.dtype.kind not in 'buif':
    raise InputError(f'{name}: has voxels of {voxels.dtype}, not one number for each')
  volume = voxels[..., None] if voxels.ndim == 3 else voxels
  if volume.shape[3:] != (settings['modalities'],):
    raise InputError(f'{name}: has {volume.shape[3:]} channels, not {settings["modalities"]}')
  with np.errstate(over='ignore'):  # infinite then, and refused
    volume = volume.astype(np.float32)
  if not np.isfinite(volume).all():
    remedy = '' if np.isinf(volume).any() else 'take NaN as the lowest by --nan_is_lowest, or '
    raise InputError(f'{name}: has non-finite voxels, NaN or infinite; {remedy}export it again')
  if not of_pictures(settings) and (volume.min((0, 1, 2)) == volume.max((0, 1, 2))).any():
    raise InputError(f'{name}: all voxels of a channel are the same; expected an image')
  stored = orientations.io_orientation(affine)
  sliced = orientations.axcodes2ornt(SLICE_AXES[settings['slice_axis']])
  volume = orientations.apply_orientation(volume, orientations.ornt_transform(stored, sliced))
  image = prepare(np.ascontiguousarray(volume), settings)
  order = np.argsort(orientations.ornt_transform(stored, sliced)[:, 0])
  spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)[order]
  if training := settings['training_scans']:
    measures = likeness.measure(image, volume.shape[:3], spacing)
    kind = {'slice_axis': settings['slice_axis'], 'unit': settings.get('unit', 'mm')}
    for line in likeness.find_unlike(measures, training, **kind):
      print(f'unlike the scans of the training, check the mask: {line}', file=sys.stderr)
  mask = classes(image, volume.shape[1:3], settings, network)
  largest = [settings['classes'].index(name) for name in settings['largest_component']]
  mask = components.keep_largest(mask, largest, settings.get('regions', ()))
  return orientations.apply_orientation(mask, orientations.ornt_transform(sliced, stored))


def fill(voxels):
  """Takes the lowest value of its channel for NaN; infinite voxels stay, and are refused."""
  missing = np.isnan(voxels)
  lowest = np.where(missing, np.inf, voxels).min((0, 1, 2), keepdims=True)
  if missing.any():
    print(f'{missing.sum():,} voxels are NaN and taken as the lowest value', file=sys.stderr)
  return np.where(missing, lowest, voxels)


def prepare(volume, settings):
  """Slices [D, S, S, M], float16 in [0, 1], of a scan [D, H, W, M]; D T of them in windows."""
  if settings['padding']:
    first, value = settings['padding']
    volume = np.where(volume >= first, np.float32(value), volume)
  limits = settings[settings['intensity']]
  scan: Any = SimpleNamespace(image=volume)  # what slices.py uses of a Volume and ImageSettings
  how: Any = SimpleNamespace(**{'reduction': 0.0, **settings, 'limits': limits})
  return slices.image_to_slices(scan, how)


def classes(image, native_size, settings, network):
  """Label of each voxel [D, H, W] from slices [D, S, S, M], D T of them in windows."""
  context, reduction = settings['context'], settings.get('reduction', 0.0)
  rows = np.arange(len(image))[:, None] + np.arange(-context, context + 1)
  stacked = np.moveaxis(image[np.clip(rows, 0, len(image) - 1)], -1, 2)  # with their neighbours
  inputs = stacked.reshape(len(image), -1, *image.shape[1:3]).astype(np.float32)  # [D, C, S, S]
  count = slices.count_windows(native_size, image.shape[1], reduction)
  how = {'reductions': [reduction], 'regions': settings.get('regions', ())}
  mask = np.empty((len(image) // count, *native_size), np.uint8)
  for d in range(len(mask)):
    own = range(d * count, (d + 1) * count)
    # One by one, so that activations stay in the caches: half the time.
    logits = np.concatenate([network(inputs[t : t + 1]) for t in own])  # [T, K, S, S]
    mask[d : d + 1], _ = slices.native_classes([np.moveaxis(logits, 1, 3)], native_size, **how)
  return mask


def read(path, settings):
  """Reads a scan: header (None of a picture), affine and voxels, [X, Y, Z] or [X, Y, Z, M]."""
  if not of_pictures(settings):
    with unreadable.report_unreadable(path):
      found = nifti.read(path)
    if unsure := nifti.find_unsure(found.header):
      print(f'{path}: {unsure}', file=sys.stderr)
    return found
  from thrifty_jax.scans import pictures  # pip install pillow tifffile

  if not pictures.is_picture(path):
    raise InputError(f'{path}: is no picture ({", ".join(pictures.ENDINGS)}), as the model sees')
  return nifti.Nifti(None, pictures.AFFINE[:, [2, 1, 0, 3]], pictures.read(path).swapaxes(0, 2))


def read_channels(paths, settings):
  """Reads a scan as `read`, from one file or a file for each channel, all on one grid."""
  names = [re.sub(r'(?i)(\.nii)?\.\w+$', '', path.name) for path in paths]
  expected = [f'{names[0][:-5]}_{number:04d}' for number in range(len(names))]
  ends = [name[-5:] for name in names]  # with no _0000 those of subjects, or years
  if names != expected and '_0000' in ends and all(re.match(r'_\d{4}', end) for end in ends):
    raise InputError(f'the channels are {", ".join(names)}; expected {", ".join(expected)}')
  (header, affine, voxels), *others = found = [read(path, settings) for path in paths]
  for path, one in zip(paths[1:], others, strict=True):
    with unreadable.report_unreadable(path):
      nifti.require_grid(one.voxels.shape, one.affine, paths[0].name, voxels.shape, affine)
  return header, affine, np.stack([one.voxels for one in found], axis=-1) if others else voxels


def of_pictures(settings):
  """Whether the network was trained on pictures, not on volumes."""
  return settings.get('unit', 'mm') == 'pixels'


def write(path, mask, scan_header, settings):
  """Writes a mask [X, Y, Z]: as NIfTI with only the geometry of its scan's header, or as PNG."""
  unfinished = path.with_name(f'.unfinished_{os.getpid()}_{path.name}')
  try:
    if of_pictures(settings):
      from PIL import Image, ImageColor, PngImagePlugin

      picture, text = Image.fromarray(mask[..., 0].T), PngImagePlugin.PngInfo()
      picture.putpalette([n for one in settings['colours'] for n in ImageColor.getrgb(one)])
      text.add_text('Description', settings['note'])
      picture.save(unfinished, format='PNG', bits=8, pnginfo=text)
    else:
      image = nifti.image_like(mask, scan_header)
      image.header['descrip'] = settings['note'].encode()
      nibabel.save(image, unfinished)
    unfinished.replace(path)
  except OSError as error:
    raise InputError(f'{path}: cannot be written ({error.strerror or error})') from error
  finally:
    unfinished.unlink(missing_ok=True)


def run(asked):
  """Writes the mask that a command asks for."""
  if asked.mask.exists() and any(map(asked.mask.samefile, filter(Path.exists, asked.scan))):
    raise InputError(f'{asked.mask} is a scan; name another')
  if not asked.mask.parent.is_dir():
    raise InputError(f'{asked.mask.parent} is no folder; make it, or name another')
  if asked.mask.exists() and not asked.overwrite:
    raise InputError(f'{asked.mask} exists; add --overwrite or name another')
  settings, network = load(Path(__file__).parent, asked.model, asked.threads, asked.runtime)
  endings = ('.png',) if of_pictures(settings) else ('.nii', '.nii.gz')
  if not asked.mask.name.lower().endswith(endings):
    raise InputError(f'{asked.mask}: expected a mask ending in {" or ".join(endings)}')
  header, affine, voxels = read_channels(asked.scan, settings)
  voxels = fill(voxels) if asked.nan_is_lowest else voxels
  mask = segment(voxels, affine, settings, network, asked.scan[0])
  write(asked.mask, mask, header, settings)
  print(f'{asked.mask}: research use only, not a medical device', file=sys.stderr)


def main():
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('scan', nargs='+', type=Path, help='NIfTI files, or pictures, one a channel')
  parser.add_argument('mask', type=Path, help='to write: .nii or .nii.gz; .png of a picture')
  parser.add_argument('--model', default='model.onnx', help='or model_int8.onnx')
  parser.add_argument('--runtime', default='onnxruntime', choices=runners.RUNTIMES)
  parser.add_argument('--threads', type=int, default=0, help='default: as many as there are cores')
  parser.add_argument('--nan_is_lowest', action='store_true', help='NaN is the lowest value')
  parser.add_argument('--overwrite', action='store_true', help='replace a mask that is there')
  try:
    run(parser.parse_args())
  except ImportError as error:
    parser.error(f'{error}; install the packages that README.md names')
  except InputError as error:
    parser.error(' '.join(str(error).split()))


if __name__ == '__main__':
  main()
