"""Compressed pixels that are not what their tags say are refused before a library takes them."""

import compressed_dicom as compressed
import pytest

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom_file


@pytest.mark.parametrize('name', compressed.DAMAGED)
def test_damaged_pixels_are_one_line(tmp_path, name):
  path = compressed.damaged(tmp_path, name)
  with pytest.raises(InputError) as caught:
    dicom_file.read_planes(path)
  assert str(caught.value).startswith(f'{path}: ') and '\n' not in str(caught.value)
  if ' of 1 samples' in (text := compressed.DAMAGED[name]) or ' of 3 samples' in text:
    assert text in str(caught.value)  # not only by luck, in what GDCM makes of it


@pytest.mark.parametrize('name', [*compressed.MADE, *compressed.SAMPLES])
def test_whole_pixels_are_read(tmp_path, name):
  make = compressed.MADE.get(name) or (lambda folder: compressed.of_pydicom(folder, name))
  path = make(tmp_path)
  if path is None:
    pytest.skip('this pydicom comes without it')
  assert len(dicom_file.read_planes(path)) == (4 if 'frames' in name else 1)
