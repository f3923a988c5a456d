"""The page's reader of DICOM finds the same voxels at the same places as the program's, in Node."""

import struct

import enhanced_dicom
import handmade_dicom as handmade
import numpy as np
import page_modules
import pydicom
import pytest
from pydicom import Sequence
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, dicom_file, volumes

STORED = np.random.default_rng(0).integers(0, 4000, (4, 6, 7)).astype(np.uint16)
SHARED = ('PlaneOrientationSequence', 'PixelMeasuresSequence', 'PixelValueTransformationSequence')
READ = {
  'in order': {},
  'interleaved': {'frames': (0, 2, 1, 3), 'slopes': (1, 2, 0.5, 3)},
  'what all share apart, backwards': {'shared': SHARED, 'frames': (3, 2, 1, 0)},
  'no rescaling': {'rescale': False},
  'types are not written': {'syntax': ImplicitVRLittleEndian, 'shared': SHARED[1:]},
  'without lengths': {'has_lengths': False, 'shared': SHARED[:2]},
  'neither types nor lengths': {'has_lengths': False, 'syntax': ImplicitVRLittleEndian},
}
REFUSED = {
  'a group less': {},
  'no place': {'drop': ('PlanePositionSequence',)},
  'no distances': {'drop': ('PixelMeasuresSequence',)},
  'twice at one place': {'frames': (0, 1, 2, 2)},
  'a frame less': {'frames': (0, 1, 3)},
  'a slope of 0': {'slopes': (1, 0)},
  'to the side': {},
  'another direction': {},
  'a scaling that not all have': {},
  'a tag twice': {},
}


def change(path, name):
  """Writes a file of REFUSED again with what no argument of the writer makes."""
  dataset = pydicom.dcmread(path)
  groups = dataset.PerFrameFunctionalGroupsSequence
  if name == 'a group less':
    del groups[2]
  for d, group in enumerate(groups):
    if name == 'to the side':
      group.PlanePositionSequence[0].ImagePositionPatient = [-20.5, 11.25 + d, 300 + 2.5 * d]
  if name == 'another direction':
    groups[1].PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, -1, 0, 0]
  if name == 'a scaling that not all have':
    groups[1].PixelValueTransformationSequence = Sequence()
  dataset.save_as(path)
  if name == 'a tag twice':
    rows = struct.pack('<HH', 0x28, 0x10) + b'US' + struct.pack('<HH', 2, 6)
    content = path.read_bytes()
    assert content.count(rows) == 1
    path.write_bytes(content.replace(rows, rows * 2))


def convert(path):
  """An enhanced CT by highdicom from slices that were one each, and its voxels by highdicom."""
  highdicom = pytest.importorskip('highdicom')
  from highdicom.legacy import LegacyConvertedEnhancedCTImage

  slices = []
  for k in (2, 0, 3, 1):
    one = pydicom.dcmread(str(get_testdata_file('CT_small.dcm')))
    one.ImagePositionPatient = [-158.1358, -179.0358, -75.7 + 5 * k]
    one.SOPInstanceUID, one.InstanceNumber = generate_uid(), k + 1
    one.PixelData = np.roll(one.pixel_array, 9 * k, axis=0).tobytes()
    slices.append(one)
  made = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 2, generate_uid(), 1)
  made.save_as(path)
  volume = highdicom.imread(path).get_volume()
  return volume.array, np.diag((-1.0, -1.0, 1.0, 1.0)) @ volume.affine


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('enhanced')
  for name, settings in (READ | REFUSED).items():
    path = enhanced_dicom.write(folder / f'{name}.dcm', STORED, **settings)
    if name in REFUSED and not settings:
      change(path, name)
  return folder


@pytest.fixture(scope='module')
def by_page(files):
  """What the page reads of all files, by their names."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  convert(files / 'highdicom.dcm')
  paths = sorted(files.iterdir())
  found = page_modules.series([{path.name: path.read_bytes()} for path in paths])
  return {path.stem: one for path, one in zip(paths, found, strict=True)}


def array_of(one):
  """Voxels [D, H, W] and the affine of (w, h, d) to RAS millimetres."""
  assert 'error' not in one, one
  return np.reshape(one['voxels'], one['shape'][::-1]), np.array([*one['affine'], [0, 0, 0, 1]])


@pytest.mark.parametrize('name', READ)
def test_frames_are_slices_as_the_program_has_them(files, by_page, name):
  wanted = dicom.read_series([files / f'{name}.dcm'])
  voxels, affine = array_of(by_page[name])
  np.testing.assert_array_equal(voxels, wanted.voxels)
  np.testing.assert_allclose(affine, wanted.affine[:, [2, 1, 0, 3]], atol=1e-5)


def test_what_highdicom_writes_is_what_highdicom_reads(files, by_page):
  path = files / 'highdicom.dcm'
  wanted, lies = convert(path)
  voxels, affine = array_of(by_page['highdicom'])
  there = volumes.on_grid(path, wanted, lies, path, voxels.shape, affine[:, [2, 1, 0, 3]])
  np.testing.assert_array_equal(voxels, there)


@pytest.mark.parametrize('name', REFUSED)
def test_both_refuse_what_is_no_series(files, by_page, name):
  with pytest.raises(InputError):
    dicom.read_series([files / f'{name}.dcm'])
  assert by_page[name].get('error') and by_page[name]['file'].startswith(f'{name}.dcm')


def us(number, value):
  """A tag of group 0028 of so many bytes, which shall be a number of two."""
  return {
    (0x28, number): struct.pack('<HH', 0x28, number) + b'US' + struct.pack('<H', len(value)) + value
  }


WHITE_IS_LOW = handmade.text(0x28, 4, 'MONOCHROME1', kind='CS')
REPEATED = handmade.element(0x28, 0x1053, 'DS', '2')
# Elements of a slice by hand that differ; and what follows its pixels.
SLICES: dict[str, tuple[dict, bytes]] = {
  **{name: (instead, b'') for name, (instead, _) in handmade.UNREADABLE.items()},
  **{name: (instead, b'') for name, instead in (handmade.OTHERS | handmade.SAME).items()},
  'white is low, bits in the middle': (
    WHITE_IS_LOW | handmade.number(0x28, 0x101, 12) | handmade.number(0x28, 0x102, 13),
    b'',
  ),
  'white is low, with a sign': (WHITE_IS_LOW | handmade.number(0x28, 0x103, 1), b''),
  'white is low, falling': (WHITE_IS_LOW | handmade.text(*handmade.SLOPE, '-1'), b''),
  'white is low, small steps': (WHITE_IS_LOW | handmade.text(*handmade.SLOPE, '.1'), b''),
  'white is low, no scaling': (WHITE_IS_LOW | {handmade.SLOPE: b'', handmade.INTERCEPT: b''}, b''),
  'rows of no number': (us(0x10, b''), b''),
  'rows of two numbers': (us(0x10, struct.pack('<HH', 6, 6)), b''),
  'bits of no number': (us(0x101, b''), b''),
  'signs of four bytes': (us(0x103, bytes(4)), b''),
  'no channel': (handmade.number(0x28, 2, 0), b''),
  'no count of channels': ({(0x28, 2): b''}, b''),
  'a column more': (handmade.number(0x28, 0x11, 8), b''),
  'a slope behind the pixels': ({(0x28, 0x1053): b''}, REPEATED),
  'another slope behind the pixels': ({}, REPEATED),
  'pixels twice': ({}, handmade.element(0x7FE0, 0x10, 'OW', bytes(84))),
  'padding behind the pixels': ({}, handmade.element(0xFFFC, 0xFFFC, 'OB', bytes(6))),
  'zeros behind the pixels': ({}, bytes(32)),
  'a class in its head alone': ({(8, 0x16): b''}, b''),
  'in its head alone a class of no image': ({(8, 0x16): b''}, b''),
  'four bytes behind the pixels': ({}, bytes(4)),
  'no frames': (handmade.text(0x28, 8, '', kind='IS'), b''),
  'one frame': (handmade.text(0x28, 8, '1', kind='IS'), b''),
  'two numbers of frames': (handmade.text(0x28, 8, '1\\1', kind='IS'), b''),
  'a word like that of a localizer': (handmade.text(8, 8, 'ORIGINAL', 'SCOUTED', kind='CS'), b''),
  'directions of three digits': (
    handmade.text(*handmade.DIRECTIONS, '0.998\\0.004\\0\\0\\1\\0'),
    b'',
  ),
  'a tag with a tabulator': (handmade.text(*handmade.SPACING, '3.5\\\t3'), b''),
}


@pytest.fixture(scope='module')
def slices(tmp_path_factory):
  """Files by name, and what the page has of each."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  files = {}
  for name, (instead, more) in SLICES.items():
    files[name] = handmade.series_of(tmp_path_factory.mktemp('slice'), instead=instead)[1]
    content = files[name].read_bytes() + more
    if name.startswith('in its head'):  # whose class is that of a CT
      content = content.replace(b'5.1.4.1.1.2\0', b'5.1.4.1.1.30')
    files[name].write_bytes(content)
  found = page_modules.read_dicom([path.read_bytes() for path in files.values()])
  return files, dict(zip(files, found, strict=True))


@pytest.mark.parametrize('name', SLICES)
def test_a_slice_is_read_or_refused_as_by_the_program(slices, name):
  files, by_page = slices
  try:
    (plane,) = dicom_file.read_planes(files[name])
  except InputError:
    # The page takes no blanks but spaces.
    assert by_page[name].get('error', '').startswith('it')
    return
  if name == 'a tag with a tabulator':
    assert 'error' in by_page[name]
    return
  voxels, affine = array_of(by_page[name])
  np.testing.assert_array_equal(voxels[0], plane.pixels)
  row, column, normal = plane.directions.T
  columns = [row * plane.spacing[1], column * plane.spacing[0], normal, plane.position]
  np.testing.assert_allclose(affine[:3], np.transpose(columns) * [[-1], [-1], [1]], atol=1e-6)


def test_classes_without_an_image_are_those_that_the_program_names(slices):
  """Of all that pydicom knows, as if each had pixels."""
  from pydicom._uid_dict import UID_dictionary

  prefix = '1.2.840.10008.5.1.4.1.1.'
  names = {
    one: name for one, (name, *_) in UID_dictionary.items() if one.startswith(prefix) and name
  }
  plain = slices[0]['as it should be'].read_bytes()
  usual = handmade.element(8, 0x16, 'UI', prefix + '2')
  assert plain.count(usual) == 1
  contents = [plain.replace(usual, handmade.element(8, 0x16, 'UI', one)) for one in names]
  found = page_modules.read_dicom(contents)
  refused = {names[one] for one, saw in zip(names, found, strict=True) if 'error' in saw}
  assert refused == {name for name in names.values() if 'Image' not in name}
  assert len(refused) > 90
