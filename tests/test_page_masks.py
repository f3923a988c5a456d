"""The page's mask of a volume is the file that predict writes, in Node."""

import base64
from typing import Any

import enhanced_dicom
import handmade_dicom
import handmade_nifti
import laid_series
import nibabel
import numpy as np
import page_modules
import pytest
from scipy.spatial.transform import Rotation

from thrifty_jax import RESEARCH_USE
from thrifty_jax.scans import masks, sources

WRITE = """functions.openScan(input.files.map(([name, content]) =>
    ({ file: new File([Buffer.from(content, 'base64')], name), folder: 'a' })), input.settings)
  .then(({ channels: [voxels], write }) =>
    write(Uint8Array.from(voxels, (one) => (one > input.limit ? 1 : 0))))
  .then(async (content) => Buffer.from(await content.arrayBuffer()).toString('base64'))"""
VOXELS = np.random.default_rng(0).integers(0, 900, (4, 5, 6)).astype(np.int16)
AXES = ('axial', 'coronal', 'sagittal')
FORMS = ('matrix', 'quaternion', 'both', 'sizes', 'micrometres')
NIFTIS = {
  f'version {version}{order} {form}': (kind, order, form)
  for version, kind in (('1', nibabel.Nifti1Image), ('2', nibabel.Nifti2Image))
  for order in '<>'
  for form in FORMS
}
BY_HAND = handmade_nifti.READ | handmade_nifti.GEOMETRY
NAMES = (*NIFTIS, *BY_HAND, *laid_series.LAYS, 'leaning', 'enhanced')


def nifti_file(place, kind, order, form):
  """An oblique scan whose place is in the matrix, the quaternion or the sizes alone."""
  affine = np.eye(4)
  affine[:3, :3] = Rotation.from_euler('xyz', (20, -35, 100), degrees=True).as_matrix() * [2, 3, 4]
  affine[:3, 3] = -7.5, 8.25, 9
  header = kind.header_class(endianness=order)
  header.set_data_dtype(np.int16)
  header['dim_info'] = 57
  image = kind(VOXELS, None, header)
  image.header['descrip'] = b'Jane Doe'
  image.header.set_xyzt_units('micron' if form == 'micrometres' else 'mm', 'sec')
  if form in ('matrix', 'both', 'micrometres'):
    image.set_sform(affine * (1000 if form == 'micrometres' else 1), 3)
  if form in ('quaternion', 'both'):
    image.set_qform(affine @ np.diag((1, 1, -1, 1)), 1)
  if form == 'sizes':
    image.header['pixdim'][1:4] = 2, 3, 4
  if form == 'matrix':
    image.header['pixdim'][1:4] = 0, np.nan, -1  # beside a matrix they say nothing
  place.write_bytes(image.to_bytes())
  return place


def make_all(folder):
  """Files and folders of DICOM series by name."""
  made = {}
  for name, given in NIFTIS.items():
    made[name] = nifti_file(folder / f'{len(made)}.nii', *given)
  for name, (fields, _) in BY_HAND.items():
    made[name] = folder / f'{len(made)}.nii'
    made[name].write_bytes(handmade_nifti.content(**fields))
  for lay in laid_series.LAYS:
    made[lay] = laid_series.write_series(folder / lay, lay=lay)
  (folder / 'leaning').mkdir()
  turned = {'directions': (1, 0, 0, 0, 1, 0.008)}
  handmade_dicom.series_of(folder / 'leaning', **turned)
  made['leaning'] = folder / 'leaning'
  stored = np.random.default_rng(1).integers(0, 900, (4, 6, 7)).astype(np.uint16)
  made['enhanced'] = enhanced_dicom.write(folder / 'enhanced.dcm', stored, frames=(3, 1, 0, 2))
  return made


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  return make_all(tmp_path_factory.mktemp('scans'))


def read(path):
  """The scan as predict reads it, and a number above which half of its voxels are."""
  volume, grid = sources.read(sources.find(path, channels=1)[0])
  image = volume.image[..., 0].astype(np.float32)
  return image, grid, float(np.median(image))


@pytest.fixture(scope='module')
def by_page(files):
  """The content of the mask of each scan, along each axis."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  inputs = []
  for path in files.values():
    content = [
      [one.name, base64.b64encode(one.read_bytes()).decode()]
      for one in (path.iterdir() if path.is_dir() else [path])
    ]
    for axis in AXES:
      settings = {'slice_axis': axis, 'note': RESEARCH_USE}
      inputs.append({'files': content, 'settings': settings, 'limit': read(path)[2]})
  found = page_modules.call('open.js', WRITE, inputs)
  keys = [(name, axis) for name in files for axis in AXES]
  return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize('name', NAMES)
def test_the_mask_is_that_of_predict_but_for_how_it_is_compressed(files, by_page, tmp_path, name):
  image, grid, limit = read(files[name])
  mask = (image > limit).astype(np.uint8)
  (tmp_path / 'wanted.nii.gz').write_bytes(masks.to_bytes(mask, grid, ending='.nii.gz'))
  wanted: Any = nibabel.load(tmp_path / 'wanted.nii.gz')
  for axis in AXES:
    assert isinstance(by_page[name, axis], str), by_page[name, axis]
    (tmp_path / f'{axis}.nii.gz').write_bytes(base64.b64decode(by_page[name, axis]))
    found: Any = nibabel.load(tmp_path / f'{axis}.nii.gz')
    assert found.header.keys() == wanted.header.keys() and type(found) is type(wanted)
    for field in wanted.header.keys():  # noqa: SIM118 a header has no items
      here, there = found.header[field], wanted.header[field]
      if field.startswith('quatern'):
        continue  # whose other sign is the same turn
      if np.asarray(there).dtype.kind == 'f':
        np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6, err_msg=field)
      else:
        np.testing.assert_array_equal(here, there, err_msg=field)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(wanted.dataobj))
    np.testing.assert_allclose(found.affine, wanted.affine, rtol=1e-6, atol=1e-6)
    if wanted.header['qform_code'] and 'beyond all' not in name:  # nibabel reads no such turn
      np.testing.assert_allclose(found.get_qform(), wanted.get_qform(), rtol=1e-5, atol=1e-5)
    assert found.get_data_dtype() == np.uint8 and len(np.unique(found.dataobj)) == 2
