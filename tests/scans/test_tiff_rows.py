"""Rows of a TIFF against those of the whole, which another reader decodes."""

import itertools
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (70, 45, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (70, 45), np.uint16)
LAYOUTS: dict[str, Any] = {
  'one strip': {},
  'strips': {'rowsperstrip': 16},
  'compressed strips': {'rowsperstrip': 9, 'compression': 'zlib'},
  'differences': {'rowsperstrip': 9, 'compression': 'zlib', 'predictor': True},
  'compressed whole': {'rowsperstrip': 70, 'compression': 'zlib'},
  'tiles': {'tile': (32, 16)},
  'compressed tiles': {'tile': (16, 32), 'compression': 'zlib'},
  'other bytes': {'byteorder': '>', 'tile': (16, 16)},
}
PLANES: dict[str, Any] = {
  'planes': {'planarconfig': 'separate'},
  'planes in strips': {'planarconfig': 'separate', 'rowsperstrip': 16, 'compression': 'zlib'},
  'planes in tiles': {'planarconfig': 'separate', 'tile': (32, 16), 'compression': 'zlib'},
}


def check(path, pixels):
  rows = pictures.Rows([path])
  assert rows.shape == pixels.shape
  for first, last in [*itertools.combinations((0, 1, 15, 16, 33, 69, 70), 2), (3, 20), (0, 70)]:
    found = rows[first:last]
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels[first:last])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_rows_are_those_of_the_whole(tmp_path, layout):
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, COLOUR, photometric='rgb', **LAYOUTS[layout])
  check(path, COLOUR)
  tifffile.imwrite(path, DEEP, photometric='minisblack', **LAYOUTS[layout])
  check(path, DEEP[..., None])


@pytest.mark.parametrize('layout', PLANES)
def test_colours_in_planes_are_put_together(tmp_path, layout):
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, np.moveaxis(COLOUR, -1, 0), photometric='rgb', **PLANES[layout])
  check(path, COLOUR)


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.gif', 'lzw.tif'])
def test_rows_of_other_formats_are_those_of_the_whole(tmp_path, name):
  options = {'compression': 'tiff_lzw'} if name == 'lzw.tif' else {}
  Image.fromarray(COLOUR[..., 0]).save(tmp_path / name, **options)
  check(tmp_path / name, COLOUR[..., :1])


@pytest.mark.parametrize('layout', ['one strip', 'compressed tiles'])
def test_damage_is_found_where_it_is_read_and_not_before(tmp_path, layout):
  path = tmp_path / 'a.tif'
  tifffile.imwrite(path, COLOUR, photometric='rgb', **LAYOUTS[layout])
  with tifffile.TiffFile(path) as file:
    page = file.pages.first
    lost = page.dataoffsets[-1] + page.databytecounts[-1] // 2
  path.write_bytes(path.read_bytes()[:lost])
  rows = pictures.Rows([path])
  np.testing.assert_array_equal(rows[:10], COLOUR[:10])
  with pytest.raises(InputError, match='cannot be read'):
    rows[60:70]


def test_channels_in_files_of_their_own_are_one_picture_of_one_size(tmp_path):
  paths = [tmp_path / f'a_000{m}.tif' for m in range(2)]
  for m, path in enumerate(paths):
    tifffile.imwrite(path, COLOUR[..., m], photometric='minisblack')
  rows = pictures.Rows(paths)
  assert rows.shape == (70, 45, 2)
  np.testing.assert_array_equal(rows[20:40], COLOUR[20:40, :, :2])
  for wrong in (COLOUR[:69, :, 0], COLOUR):
    tifffile.imwrite(paths[1], wrong, photometric='rgb' if wrong.ndim == 3 else 'minisblack')
    with pytest.raises(InputError, match='expected one size, and one channel') as caught:
      pictures.Rows(paths)
    assert str(caught.value).startswith(f'{paths[1]}: ')
