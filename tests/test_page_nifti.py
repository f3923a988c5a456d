"""The page's reader of NIfTI finds what nifti.py finds and refuses what it refuses, in Node."""

import base64
import gzip
import io
from typing import Any

import handmade_nifti as handmade
import nibabel
import numpy as np
import page_modules
import pytest
from scipy.spatial.transform import Rotation

from thrifty_jax.errors import InputError
from thrifty_jax.scans import sources

HAND = {  # a file of the table, byte by byte
  **{f'read, {name}': fields for name, (fields, _) in handmade.READ.items()},
  **{f'place, {name}': fields for name, (fields, _) in handmade.GEOMETRY.items()},
  **{f'refused, {name}': fields for name, (fields, _) in handmade.REFUSED.items()},
}
KINDS = ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8', 'f4', 'f8')
VERSIONS = {'1': nibabel.Nifti1Image, '2': nibabel.Nifti2Image}


def by_nibabel(kind, version, order):
  """A file by nibabel of an oblique scan, with an extension."""
  affine = np.eye(4)
  affine[:3, :3] = Rotation.from_euler('xz', (20, -35), degrees=True).as_matrix() * [2, 3, 4]
  affine[:3, 3] = -7, 8, 9
  voxels = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(kind)
  made = VERSIONS[version]
  header = made.header_class(endianness=order)
  header.set_data_dtype(kind)
  image = made(voxels, affine, header)
  image.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', b'x' * 50))
  return image.to_bytes()


FILES = {name: handmade.content(**fields) for name, fields in HAND.items()} | {
  f'nibabel, {kind} of version {version}, {order}': by_nibabel(kind, version, order)
  for kind in KINDS
  for version in VERSIONS
  for order in '<>'
}


@pytest.fixture(scope='module')
def by_page():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  found = page_modules.read('nifti.js', 'readNifti', list(FILES.values()))
  return dict(zip(FILES, found, strict=True))


@pytest.mark.parametrize('name', FILES)
def test_a_file_is_read_or_refused_as_by_predict_and_exports(by_page, tmp_path, name):
  path = tmp_path / 'a.nii'
  path.write_bytes(FILES[name])
  saw = by_page[name]
  try:
    volume, grid = sources.read(sources.find(path, channels=1)[0])
  except InputError:
    assert name.startswith('refused') and 'error' in saw
    return
  assert not name.startswith('refused') and 'error' not in saw
  voxels = np.reshape(saw['voxels'], saw['shape'][::-1])
  np.testing.assert_array_equal(voxels, volume.image[..., 0])
  np.testing.assert_allclose(saw['affine'], volume.affine[:3, [2, 1, 0, 3]], atol=1e-3)
  assert saw['unsure'] == grid.unsure
  assert bool(saw['unsure']) == ('without a form' in name or 'two forms apart' in name)


@pytest.mark.parametrize('name', [name for name in FILES if name.startswith('nibabel')])
def test_what_nibabel_writes_nibabel_reads_so(by_page, name):
  kind = VERSIONS[name.split(' version ')[1][0]]
  image: Any = kind.from_bytes(FILES[name])
  saw = by_page[name]
  wanted = np.asanyarray(image.dataobj).transpose()
  np.testing.assert_array_equal(np.reshape(saw['voxels'], saw['shape'][::-1]), wanted)
  np.testing.assert_allclose(saw['affine'], image.affine[:3], atol=1e-4)


CONTENT = handmade.content()


def named(data):
  """A gzip file with the name of another in its head."""
  stream = io.BytesIO()
  with gzip.GzipFile('a\x1f\x8b\x08.nii', 'wb', fileobj=stream) as file:
    file.write(data)
  return stream.getvalue()


WHOLE = {
  'not compressed': CONTENT,
  'one member': gzip.compress(CONTENT),
  'stored': gzip.compress(CONTENT, 0),
  'two members': gzip.compress(CONTENT[:400]) + gzip.compress(CONTENT[400:]),
  'five members': b''.join(gzip.compress(CONTENT[k : k + 130]) for k in range(0, 600, 130)),
  'an empty member': gzip.compress(CONTENT[:99]) + gzip.compress(b'') + gzip.compress(CONTENT[99:]),
  'padding': gzip.compress(CONTENT) + bytes(512),
  'a zero behind two members': gzip.compress(CONTENT[:9]) + gzip.compress(CONTENT[9:]) + b'\0',
  'a name': named(CONTENT),
}
DAMAGED = {
  'cut off': gzip.compress(CONTENT)[:-9],
  'a checksum less': gzip.compress(CONTENT)[:-1],
  'a wrong byte': gzip.compress(CONTENT, 0)[:99] + b'?' + gzip.compress(CONTENT, 0)[100:],
  'a wrong checksum': gzip.compress(CONTENT)[:-6] + b'??' + gzip.compress(CONTENT)[-4:],
  'the second cut off': gzip.compress(CONTENT[:400]) + gzip.compress(CONTENT[400:])[:-9],
  'more behind': gzip.compress(CONTENT) + b'more',
}


@pytest.fixture(scope='module')
def unpacked():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  files = WHOLE | DAMAGED
  found = page_modules.call(
    'nifti.js',
    "functions.unzipped(Uint8Array.from(Buffer.from(input, 'base64'))).then((found) => [...found])",
    [base64.b64encode(content).decode() for content in files.values()],
  )
  return dict(zip(files, found, strict=True))


@pytest.mark.parametrize('name', WHOLE)
def test_however_a_file_is_packed_its_content_is_the_same(unpacked, name):
  assert bytes(unpacked[name]) == CONTENT


@pytest.mark.parametrize('name', DAMAGED)
def test_a_damaged_gzip_file_is_one_line(unpacked, name):
  assert unpacked[name]['error'].startswith('the gzip file is damaged or cut off')
