"""NRRD files written by hand and by SimpleITK: nothing of their headers is guessed."""

import gzip

import numpy as np
import pytest
import SimpleITK

from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes

VOXELS = np.random.default_rng(0).integers(0, 3000, (5, 6, 7)).astype(np.int16)
HEADER = {
  'type': 'short',
  'dimension': '3',
  'space': 'left-posterior-superior',
  'sizes': '7 6 5',
  'space directions': '(0,1.5,0) (-2,0,0) (0,0,2.5)',
  'kinds': 'domain domain domain',
  'endian': 'little',
  'encoding': 'raw',
  'space origin': '(5,6,7)',
}
# Columns of (d, h, w) in RAS.
AFFINE = np.array([[0, 2, 0, -5], [0, 0, -1.5, -6], [2.5, 0, 0, 7], [0, 0, 0, 1]])


def by_hand(folder, data=None, **changes):
  fields = HEADER | {name.replace('_', ' '): value for name, value in changes.items()}
  lines = ['NRRD0004', '# made up', *(f'{n}: {v}' for n, v in fields.items() if v is not None)]
  data = VOXELS.tobytes() if data is None else data
  (folder / 'scan.nrrd').write_bytes('\n'.join(lines).encode() + b'\n\n' + data)
  return folder / 'scan.nrrd'


READ = {
  'plain': {},
  'short names': {'space': 'LPS', 'type': 'int16'},
  'another world': {
    'space': 'right-anterior-superior',
    'space_directions': '(0,-1.5,0) (2,0,0) (0,0,2.5)',
    'space_origin': '(-5,-6,7)',
  },
  'axes that lean by rounding': {'space_directions': '(0,1.5,0) (-2,0,0) (0.002,0,2.5)'},
  'compressed': {'encoding': 'gzip', 'data': gzip.compress(VOXELS.tobytes())},
  'millimetres': {'space_units': '"mm" "mm" "mm"'},
  'the other byte order': {'endian': 'big', 'data': VOXELS.astype('>i2').tobytes()},
  'an axis of length 1 more': {
    'dimension': '4',
    'sizes': '7 6 5 1',
    'kinds': 'domain domain domain list',
    'space_directions': '(0,1.5,0) (-2,0,0) (0,0,2.5) none',
  },
  'an axis of length 1 before': {
    'dimension': '4',
    'sizes': '1 7 6 5',
    'kinds': 'list domain domain domain',
    'space_directions': 'none (0,1.5,0) (-2,0,0) (0,0,2.5)',
  },
  'a type of two words': {'type': 'signed short int'},
}


@pytest.mark.parametrize('name', READ)
def test_voxels_and_their_places_are_those_of_the_header(tmp_path, name):
  path = by_hand(tmp_path, **READ[name])
  voxels, affine = volumes.read_metaimage(path)
  np.testing.assert_array_equal(voxels, VOXELS)
  np.testing.assert_allclose(affine, AFFINE, atol=3e-3 if 'lean' in name else 1e-9)
  assert volumes.read_header(path)[0] == VOXELS.shape


def test_distances_alone_are_those_of_an_axial_scan(tmp_path):
  alone = dict.fromkeys(('space', 'space_directions', 'space_origin'))
  path = by_hand(tmp_path, **alone, spacings='1.5 2 2.5')
  np.testing.assert_allclose(
    volumes.read_metaimage(path)[1][:3, :3], [[0, 0, -1.5], [0, -2, 0], [2.5, 0, 0]]
  )


REFUSED = {
  'no distance': (dict.fromkeys(('space', 'space_directions', 'space_origin')), "spacings ''"),
  'a distance of 0': (
    {**dict.fromkeys(('space', 'space_directions', 'space_origin')), 'spacings': '1 0 2'},
    "spacings '1 0 2'",
  ),
  'a distance backwards': (
    {**dict.fromkeys(('space', 'space_directions', 'space_origin')), 'spacings': '1 1 -2'},
    'expected distances above 0',
  ),
  'a space of its own': ({'space': 'scanner-xyz'}, "space 'scanner-xyz'; expected LPS"),
  'a space without a name': ({'space': None, 'space_dimension': '3'}, "space ''; expected LPS"),
  'micrometres': ({'space_units': '"um" "um" "um"'}, 'space units .*expected millimetres'),
  'one axis in centimetres': ({'space_units': '"mm" "mm" "cm"'}, 'expected millimetres'),
  'an origin that is none': ({'space_origin': '(5,nan,7)'}, 'space origin .*expected 3 numbers'),
  'a direction that is none': ({'space_directions': '(1,0,0) (0,nan,0) (0,0,1)'}, 'directions'),
  'two directions': ({'space_directions': '(1,0,0) (0,1,0)'}, 'a vector of 3 numbers for each'),
  'a direction without length': (
    {'space_directions': '(1,0,0) (0,0,0) (0,0,1)'},
    'cannot be read|no valid',
  ),
  'slices that lean': ({'space_directions': '(0,1.5,0) (-2,0,0) (0.3,0,2.5)'}, 'lean by 6.8 deg'),
  'rows that lean': ({'space_directions': '(0.2,1.5,0) (-2,0,0) (0,0,2.5)'}, 'lean by 7.6 degrees'),
  'columns that lean': ({'space_directions': '(0,1.5,0) (-2,0,1) (0,0,2.5)'}, 'lean by 26.6 deg'),
  'two axes that are one': ({'space_directions': '(0,1.5,0) (0,2,0) (0,0,2.5)'}, 'lean|cannot be'),
  'a slice more': ({'sizes': '7 6 6'}, 'are 420 bytes; expected 504'),
  'a slice less': ({'sizes': '7 6 4'}, 'are 420 bytes; expected 336'),
  'wider numbers': ({'type': 'int'}, 'are 420 bytes; expected 840'),
  'a slice less, compressed': (
    {'sizes': '7 6 4', 'encoding': 'gzip', 'data': gzip.compress(VOXELS.tobytes())},
    'are 420 bytes; expected 336',
  ),
  'cut off': ({'data': VOXELS.tobytes()[:-3]}, 'are 417 bytes; expected 420'),
  'more axes than have a place': (
    {'dimension': '20000', 'sizes': '7 ' * 200},
    "dimension '20000'; expected the number of axes, 1 to 7",
  ),
  'more sizes than axes': ({'sizes': '7 ' * 200}, 'sizes .*expected 3 numbers above 0'),
  'two axes with more sizes': ({'dimension': '2', 'sizes': '7 ' * 200}, 'expected 2 numbers'),
  'blocks': ({'type': 'block'}, "type 'block'; expected one of numbers"),
  'bzip2': ({'encoding': 'bzip2'}, "encoding 'bzip2'; expected raw or gzip.*export the scan again"),
  'voxels as text': ({'encoding': 'ascii'}, "encoding 'ascii'; expected raw or gzip"),
  'voxels elsewhere': ({'data_file': 'a.raw'}, "data file 'a.raw'; expected the voxels right"),
  'voxels elsewhere, as one word': ({'datafile': 'a.raw'}, "data file 'a.raw'; expected the"),
  'skipped bytes': ({'byte_skip': '-1'}, "byte skip '-1'; expected the voxels right"),
  'skipped lines': ({'lineskip': '2'}, "line skip '2'; expected the voxels right"),
  'an origin as one word': ({'spaceorigin': '(0,0,0)'}, "space origin '.*; expected one value"),
  'an end of a line within it': ({'content': 'a\rsizes: 1 1 1'}, 'has the character'),
  'a line without a value': ({'a\nb': 'c'}, "a line 'a'; expected FIELD: VALUE"),
  'a field of thousands of letters': ({'co' + 'A' * 5000: 'x'}, 'a line .*expected FIELD: VALUE'),
  'bytes that unpack to many': (
    {'encoding': 'gzip', 'data': gzip.compress(bytes(3 << 20))},
    'are 2097152 bytes; expected 420',
  ),
  'a wrong byte, compressed': (
    {
      'encoding': 'gzip',
      'data': gzip.compress(VOXELS.tobytes(), 0)[:99]
      + b'?'
      + gzip.compress(VOXELS.tobytes(), 0)[100:],
    },
    r'are damaged \(Error -3.*incorrect data check',
  ),
  'cut off, compressed': (
    {'encoding': 'gzip', 'data': gzip.compress(VOXELS.tobytes())[:-9]},
    'are damaged',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_header_that_would_be_guessed_is_refused(tmp_path, name):
  changes, text = REFUSED[name]
  path = by_hand(tmp_path, **changes)
  with pytest.raises(InputError, match=rf'scan\.nrrd: .*({text})') as caught:
    volumes.require_affine(path, volumes.read_metaimage(path)[1])
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', ['u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8', 'f4', 'f8'])
@pytest.mark.parametrize('compressed', [False, True])
def test_what_simpleitk_writes_is_read(tmp_path, kind, compressed):
  image = SimpleITK.GetImageFromArray(VOXELS.astype(kind))
  SimpleITK.WriteImage(image, str(tmp_path / 'a.nrrd'), compressed)
  np.testing.assert_array_equal(volumes.read_metaimage(tmp_path / 'a.nrrd')[0], VOXELS.astype(kind))


def test_a_last_axis_of_length_1_is_no_axis(tmp_path):
  image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(VOXELS)])
  SimpleITK.WriteImage(image, str(tmp_path / 'a.nrrd'))
  np.testing.assert_array_equal(volumes.read_metaimage(tmp_path / 'a.nrrd')[0], VOXELS)
