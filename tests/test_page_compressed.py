"""The page decompresses DICOM to the values of the program, or refuses it as well, in Node."""

import numpy as np
import page_modules
import pytest
from compressed_dicom import DAMAGED, MADE, PLANES, SAMPLES, damaged, of_pydicom

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_file


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A file by name, and None where this pydicom comes without it."""
  found = {name: of_pydicom(tmp_path_factory.mktemp('sample'), name) for name in SAMPLES}
  found |= {name: make(tmp_path_factory.mktemp('made')) for name, make in MADE.items()}
  return found | {name: damaged(tmp_path_factory.mktemp('damaged'), name) for name in DAMAGED}


@pytest.fixture(scope='module')
def by_page(files):
  """What the page has of each file; one after the other by one decoder."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  there = {name: path for name, path in files.items() if path}
  contents = [{path.name: path.read_bytes()} for path in there.values()]
  found = page_modules.series(contents, beside=page_modules.decoder())
  return dict(zip(there, found, strict=True))


@pytest.mark.parametrize('name', [*MADE, *SAMPLES])
def test_compressed_pixels_have_the_values_of_the_program(files, by_page, name):
  if files[name] is None:
    pytest.skip('this pydicom comes without it')
  saw = by_page[name]
  assert 'error' not in saw, saw
  wanted = np.stack([plane.pixels for plane in dicom_file.read_planes(files[name])])
  np.testing.assert_array_equal(np.reshape(saw['voxels'], saw['shape'][::-1]), wanted)
  assert len(np.unique(wanted)) > 6


def test_pixels_without_loss_are_the_stored_ones(by_page):
  for name in ('JPEG 2000', 'JPEG-LS', 'RLE'):
    np.testing.assert_array_equal(np.ravel(by_page[name]['voxels']), PLANES[0].ravel() - 1024.0)
  signed = by_page['JPEG without loss, of GDCM']['voxels']
  np.testing.assert_array_equal(np.ravel(signed), PLANES[0].ravel() - 1500.0)


@pytest.mark.parametrize('name', DAMAGED)
def test_damaged_pixels_are_refused_by_both(files, by_page, name):
  with pytest.raises(InputError):
    dicom_file.read_planes(files[name])
  saw = by_page[name]
  assert 'error' in saw and DAMAGED[name] in saw['error']
  assert saw['file'] == files[name].name


def test_without_its_decoder_the_page_says_so(files):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  (saw,) = page_modules.series([{'a.dcm': files['JPEG'].read_bytes()}])
  assert saw['error'].startswith('the decoder of compressed DICOM is missing beside this page')
