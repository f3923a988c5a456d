"""DICOM series: the same voxels at the same places as other readers see, in whatever order."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import enhanced_dicom
import numpy as np
import phantom_chaos
import PIL.Image
import pytest
import SimpleITK
from handmade_dicom import (
  OTHERS,
  POSITION,
  SAME,
  STORED,
  UNREADABLE,
  element,
  number,
  series_of,
  slice_bytes,
  text,
)
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
  DeflatedExplicitVRLittleEndian,
  ExplicitVRBigEndian,
  ImplicitVRLittleEndian,
  RLELossless,
)
from scipy.spatial.transform import Rotation

from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, dicom_file

PATIENTS = 4  # one for each way the files lie


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('dicom') / 'raw'
  phantom_chaos.write(folder, patients=PATIENTS, seed=1)
  return folder / 'Train_Sets'


def slices_of(folder):
  return sorted(folder.glob('[!.]*.dcm'))


def itk_corners(image):
  """Position of the first pixel of each corner slice and so on, LPS, by index (d, h, w)."""
  w, h, d = (n - 1 for n in image.GetSize())
  corners = [(i * d, j * h, k * w) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
  return corners, [image.TransformIndexToPhysicalPoint((k, j, i)) for i, j, k in corners]


@pytest.mark.parametrize('patient', range(PATIENTS))
@pytest.mark.parametrize('place', ['CT/{}/DICOM_anon', 'MR/{}/T1DUAL/DICOM_anon/OutPhase'])
def test_it_reads_what_simpleitks_own_series_reader_reads(raw, patient, place):
  folder = raw / place.format(patient + 1)
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))  # by position
  image = reader.Execute()
  series = dicom.read_series(slices_of(folder))
  np.testing.assert_array_equal(series.voxels, SimpleITK.GetArrayFromImage(image))
  spacing = np.linalg.norm(series.affine[:3, :3], axis=0)
  np.testing.assert_allclose(spacing, image.GetSpacing()[::-1], rtol=1e-5)
  for corner, (x, y, z) in zip(*itk_corners(image), strict=True):
    np.testing.assert_allclose((series.affine @ [*corner, 1])[:3], (-x, -y, z), atol=1e-4)


def test_any_order_of_the_files_gives_one_volume_and_says_which_file_is_which(raw):
  files = slices_of(raw / 'CT' / '3' / 'DICOM_anon')
  shuffled = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
  one, other = dicom.read_series(files), dicom.read_series(shuffled)
  np.testing.assert_array_equal(one.voxels, other.voxels)
  np.testing.assert_array_equal(one.affine, other.affine)
  assert [files[i] for i in one.order] == [shuffled[i] for i in other.order]
  assert list(one.order) != sorted(one.order)


def test_the_written_thickness_is_not_the_step(raw):
  files = slices_of(raw / 'CT' / '1' / 'DICOM_anon')
  _, tags = phantom_chaos.read_slice(files[0])
  made = phantom_chaos.make_scan(patient=0, seed=1, protocol='CT')
  step = np.linalg.norm(dicom.read_series(files).affine[:3, 0])
  assert abs(step - np.linalg.norm(made.affine[:3, 0])) < 1e-4
  assert abs(step - float(tags['0018|0050'])) > 0.3


# Directions of rows and columns before they are turned by so many degrees about the first axis.
LAYS = {
  'axial': ((1, 0, 0), (0, 1, 0), 0),
  'oblique': ((1, 0, 0), (0, 1, 0), 25),
  'coronal, oblique': ((1, 0, 0), (0, 0, -1), -11),
  'sagittal': ((0, 1, 0), (0, 0, -1), 0),
  'feet first, face down': ((-1, 0, 0), (0, -1, 0), 0),
}


@pytest.mark.parametrize(('kind', 'rescale'), [(np.uint16, (-1024, 2)), (np.int16, (0, 1))])
@pytest.mark.parametrize('lay', LAYS)
def test_a_series_that_itk_did_not_write_reads_as_it_was_written(tmp_path, lay, kind, rescale):
  """Names and ids that say nothing, no thickness, pixels that are not square."""
  low, high = (-1000, 2000) if kind is np.int16 else (0, 4000)
  stored = np.random.default_rng(0).integers(low, high, (5, 6, 7)).astype(kind)
  *axes, degrees = LAYS[lay]
  turn = Rotation.from_euler('x', degrees, degrees=True).as_matrix()
  row, column = (turn @ axis for axis in axes)
  normal, origin = np.cross(row, column), np.array([-20.5, 11.25, 300.0])
  for d in range(5):
    content = slice_bytes(
      stored[d],
      position=origin + 2.25 * d * normal,
      directions=(*row, *column),
      spacing=(0.75, 1.5),  # between rows, between columns
      rescale=rescale,
      series=d + 1,  # another one in each slice
    )
    (tmp_path / f'{(d * 3) % 5}.dcm').write_bytes(content)
  files = slices_of(tmp_path)
  series = dicom.read_series(files)
  np.testing.assert_array_equal(series.voxels, stored.astype(float) * rescale[1] + rescale[0])
  lps = np.stack([2.25 * normal, 0.75 * column, 1.5 * row, origin], axis=1)
  np.testing.assert_allclose(series.affine[:3], lps * [[-1], [-1], [1]], atol=1e-4)
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames([str(files[i]) for i in series.order])
  image = reader.Execute()
  np.testing.assert_array_equal(series.voxels, SimpleITK.GetArrayFromImage(image))
  np.testing.assert_allclose(image.GetSpacing(), (1.5, 0.75, 2.25), rtol=1e-5)
  for corner, (x, y, z) in zip(*itk_corners(image), strict=True):
    np.testing.assert_allclose((series.affine @ [*corner, 1])[:3], (-x, -y, z), atol=1e-4)


@pytest.mark.parametrize('count', [0, 1])
def test_fewer_than_two_slices_are_no_series(raw, count):
  with pytest.raises(InputError, match=f'{count} slices in its folder; expected two'):
    dicom.read_series(slices_of(raw / 'CT' / '1' / 'DICOM_anon')[:count])


@pytest.mark.parametrize('name', UNREADABLE)
def test_a_tag_that_is_there_and_not_valid_is_refused_by_name(tmp_path, name):
  instead, message = UNREADABLE[name]
  files = series_of(tmp_path, instead=instead)
  with pytest.raises(InputError, match=rf'1\.dcm: .*{message}') as caught:
    dicom.read_series(files)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('every', [False, True])
@pytest.mark.parametrize('name', SAME)
def test_what_is_no_matter_changes_nothing(tmp_path, name, every):
  changes = {'all': True} if every and POSITION not in SAME[name] else {}
  series = dicom.read_series(series_of(tmp_path, instead=SAME[name], **changes))
  np.testing.assert_array_equal(series.voxels, STORED.astype(float) - 1024)
  wanted = [[0, 0, -3, 20.5], [0, -3.5, 0, -11.25], [2.5, 0, 0, 300], [0, 0, 0, 1]]
  np.testing.assert_allclose(series.affine, wanted, atol=2e-3)


@pytest.mark.parametrize(
  ('slope', 'intercept'), [('2', '0'), ('0.5', '-3'), ('-1', '4000'), ('1', '-1024'), ('.1', '7')]
)
def test_white_may_be_low_values_stay_what_was_stored(tmp_path, slope, intercept):
  """The monochrome kind says how to show values, and changes none."""
  files = series_of(
    tmp_path,
    instead=text(0x28, 4, 'MONOCHROME1', kind='CS'),
    rescale=(intercept, slope),
    all=True,
  )
  wanted = STORED.astype(float) * float(slope) + float(intercept)
  np.testing.assert_allclose(dicom.read_series(files).voxels, wanted, rtol=1e-6)


@pytest.mark.parametrize('signed', [0, 1])
def test_bits_beside_the_stored_ones_are_no_values(tmp_path, signed):
  values = np.random.default_rng(1).integers(-2048 * signed, 2048, (3, 4, 5))
  bits = ((values << 2) & 0x3FFC) | 0xC001  # 12 of 16, two bits below them and two above
  files = series_of(
    tmp_path,
    instead=number(0x28, 0x101, 12) | number(0x28, 0x102, 13) | number(0x28, 0x103, signed),
    stored=bits.astype(np.uint16),
    rescale=(0, 1),
    all=True,
  )
  np.testing.assert_array_equal(dicom.read_series(files).voxels, values)


@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('syntax', ['1.2.840.10008.1.2.4.90', '1.2.840.10008.1.2.4.80'])
def test_compressed_pixels_are_the_stored_ones(tmp_path, kind, syntax):
  """JPEG 2000 and JPEG-LS, as highdicom's and Pillow's libraries write them."""
  stored = np.kron(STORED, np.ones((1, 6, 6), np.uint16))
  if syntax.endswith('80'):
    pyjpegls = pytest.importorskip('jpeg_ls')
    data = [pyjpegls.encode(np.ascontiguousarray(plane)).tobytes() for plane in stored]
  else:
    data = []
    for plane in stored:
      content = io.BytesIO()
      PIL.Image.fromarray(plane).save(content, 'JPEG2000', irreversible=False, no_jp2=True)
      data.append(content.getvalue())
  data = [one + bytes(len(one) % 2) for one in data]
  files = series_of(
    tmp_path,
    stored=stored,
    syntax=syntax,
    data=data,
    instead=text(0x28, 4, kind, kind='CS'),
    all=True,
  )
  np.testing.assert_array_equal(dicom.read_series(files).voxels, stored.astype(float) - 1024)


SYNTAXES = {
  'implicit': ImplicitVRLittleEndian,
  'deflated': DeflatedExplicitVRLittleEndian,
  'big-endian': ExplicitVRBigEndian,
  'run lengths': RLELossless,
}


@pytest.mark.parametrize(
  ('syntax', 'bits'),
  [('implicit', 8), ('deflated', 8), ('run lengths', 8), *((name, 16) for name in SYNTAXES)],
)
def test_whatever_the_transfer_syntax_pixels_are_the_stored_ones(tmp_path, syntax, bits):
  """Files by pydicom, signed pixels."""
  uid = SYNTAXES[syntax]
  random = np.random.default_rng(2)  # GDCM decompresses run lengths of no much smaller images
  values = random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 48, 64)).astype(f'i{bits // 8}')
  stored = values.view(f'u{bits // 8}')
  files = series_of(tmp_path, stored=stored.astype(np.uint16), rescale=(-24, 2))
  for path, plane in zip(files, stored, strict=True):
    dataset = dcmread(path)
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 1
    dataset.PixelData = plane.tobytes()
    if syntax == 'run lengths':
      dataset.compress(uid, plane.view(values.dtype))
    if syntax == 'big-endian':
      dataset.PixelData = plane.byteswap().tobytes()
      dataset = as_big_endian(dataset)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.save_as(path)
  np.testing.assert_array_equal(dicom.read_series(files).voxels, values.astype(float) * 2 - 24)


def test_big_endian_pixels_that_no_syntax_tells_are_refused(tmp_path):
  files = series_of(tmp_path)
  for path, plane in zip(files, STORED, strict=True):
    dataset = dcmread(path)
    dataset.PixelData = plane.byteswap().tobytes()
    made = Dataset({one.tag: one for one in as_big_endian(dataset)})
    made.save_as(path, implicit_vr=False, little_endian=False)
  with pytest.raises(InputError, match=r'0\.dcm: .*its pixels are in big-endian order'):
    dicom.read_series(files)


@pytest.mark.parametrize('times', [0.5, 2])
def test_big_endian_pixels_are_as_many_as_their_tags_say(tmp_path, times):
  """GDCM would fill a slice that is too short with what lies in memory."""
  (path, *_) = series_of(tmp_path)
  dataset = as_big_endian(dcmread(path))
  dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
  expected = len(dataset.PixelData)
  dataset.PixelData = (2 * dataset.PixelData)[: int(times * expected)]
  dataset.save_as(path)
  found = rf'0\.dcm: its pixels are {len(dataset.PixelData)} bytes; expected {expected}, for'
  with pytest.raises(InputError, match=found):
    dicom_file.read_planes(path)


def as_big_endian(dataset):
  """A copy that pydicom writes in another byte order; the pixels are in it already."""
  made = Dataset()
  for one in dataset:
    made.add_new(one.tag, one.VR, one.value)
  made.file_meta, made.preamble = dataset.file_meta, bytes(128)
  return made


def test_compressed_pixels_that_cannot_become_so_many_are_not_unpacked(tmp_path):
  data = struct.pack('<I', 1) + struct.pack('<15I', 64, *[0] * 14) + b'\x81\0' * 4
  cases = ('1.2.840.10008.1.2.5', 200), ('1.2.840.10008.1.2.5', 38000)
  for syntax, side in (*cases, ('1.2.840.10008.1.2.4.90', 38000)):
    sizes = number(0x28, 0x10, side) | number(0x28, 0x11, side)
    files = series_of(tmp_path, syntax=syntax, data=[data] * 4, instead=sizes)
    with pytest.raises(
      InputError, match=rf'1\.dcm: its pixels are \d+ compressed bytes; expected {2 * side**2},'
    ):
      dicom_file.read_planes(files[1])


def test_pixels_of_another_shape_than_their_tags_say_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(SimpleITK, 'GetArrayFromImage', lambda image: np.zeros((1, 2, 3), np.int16))
  planes = np.random.default_rng(2).integers(0, 4000, (3, 48, 64)).astype(np.uint16)
  (path, *_) = series_of(tmp_path, stored=planes)
  dataset = dcmread(path)
  dataset.compress(RLELossless)
  dataset.save_as(path)
  with pytest.raises(InputError, match=r'its pixels are 1 x 2 x 3; expected .*48 x 64\. Replace'):
    dicom_file.read_planes(path)


def test_directions_that_were_rounded_are_at_right_angles_afterwards(tmp_path):
  rounded = element(0x20, 0x37, 'DS', 1, 0, 0, 0.009, 1, 0)
  files = series_of(tmp_path, instead={(0x20, 0x37): rounded})
  (plane,) = dicom_file.read_planes(files[1])
  np.testing.assert_allclose(plane.directions.T @ plane.directions, np.eye(3), atol=1e-12)


def test_a_segmentation_beside_slices_is_no_slice(tmp_path):
  uid = element(8, 0x16, 'UI', '1.2.840.10008.5.1.4.1.1.66.4')
  files = series_of(tmp_path, instead={(8, 0x16): uid})
  assert [dicom_file.holds_image(path) for path in files] == [True, False, True, True]


def test_pieces_of_compressed_pixels_must_be_whole(tmp_path):
  """GDCM would take as many bytes as the next eight of them say."""
  planes = np.kron(STORED, np.ones((1, 6, 6), np.uint16))
  data = []
  for plane in planes:
    content = io.BytesIO()
    PIL.Image.fromarray(plane).save(content, 'JPEG2000', irreversible=False, no_jp2=True)
    data.append(content.getvalue() + bytes(len(content.getvalue()) % 2))
  files = series_of(tmp_path, stored=planes, syntax='1.2.840.10008.1.2.4.90', data=data)
  whole, pixels = files[0].read_bytes(), data[0]
  with pytest.raises(InputError, match='its stored bits are not the lowest'):
    dicom.read_series(
      series_of(
        tmp_path,
        instead=number(0x28, 0x101, 12) | number(0x28, 0x102, 13),
        stored=planes,
        syntax='1.2.840.10008.1.2.4.90',
        data=data,
        all=True,
      )
    )
  for damaged in (pixels + pixels[40:104], pixels[:-2]):
    files[0].write_bytes(whole.replace(pixels, damaged))
    with pytest.raises(
      InputError, match=r'0\.dcm: cannot be read \(its compressed pixels are cut off'
    ):
      dicom.read_series(files)


def test_an_object_that_inflates_to_more_than_any_has_is_not_inflated(tmp_path, monkeypatch):
  monkeypatch.setattr(dicom_file, '_MOST_INFLATED', 4 << 20)
  (path, *_) = series_of(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
  content = path.read_bytes()
  meta = content[: 144 + int.from_bytes(content[140:144], 'little')]
  packer = zlib.compressobj(9, wbits=-15)
  bomb = b''.join(packer.compress(bytes(1 << 20)) for _ in range(20)) + packer.flush()
  path.write_bytes(meta + bomb)
  tracemalloc.start()
  for read in (dicom_file.read_planes, dicom_file.read_study):
    with pytest.raises(InputError, match='it inflates to over 4 MiB'):
      read(path)
  assert dicom_file.holds_image(path)  # so that it is refused, not passed over
  taken = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert taken < 4 << 20


@pytest.mark.parametrize('depth', [50, 500, 50000])
def test_sequences_nested_too_deeply_are_one_line(tmp_path, depth):
  begin = b'\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff'
  end = b'\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0'
  files = series_of(tmp_path, instead={(8, 0x1140): begin * depth + end * depth})
  if depth == 50:
    assert dicom.read_series(files).voxels.shape == STORED.shape
    return
  with pytest.raises(InputError, match=r'1\.dcm: cannot be read \(its sequences are nested too'):
    dicom.read_series(files)


def test_a_syntax_of_one_maker_is_refused(tmp_path):
  files = series_of(tmp_path, syntax='1.2.840.113619.5.2')
  with pytest.raises(InputError, match=r'0\.dcm: .*1\.2\.840\.113619\.5\.2'):
    dicom.read_series(files)


SAMPLES = (
  *('CT_small', 'MR_small', 'MR_small_RLE', 'MR_small_bigendian', 'MR_small_implicit'),
  *('MR_small_jp2klossless', 'MR_small_jpeg_ls_lossless', 'J2K_pixelrep_mismatch', '693_J2KI'),
)


@pytest.mark.parametrize('name', SAMPLES)
def test_samples_of_pydicom_are_read_as_simpleitk_reads_them(name):
  path = get_testdata_file(f'{name}.dcm', download=False)
  if path is None:
    pytest.skip('this pydicom comes without it')
  (plane,) = dicom_file.read_planes(Path(str(path)))
  image = SimpleITK.ReadImage(str(path), imageIO='GDCMImageIO')
  np.testing.assert_allclose(plane.pixels, SimpleITK.GetArrayFromImage(image)[0], rtol=1e-6)
  np.testing.assert_allclose(plane.spacing[::-1], image.GetSpacing()[:2], rtol=1e-6)
  np.testing.assert_allclose(plane.position, image.GetOrigin(), atol=1e-4)
  directions = np.reshape(image.GetDirection(), (3, 3))
  np.testing.assert_allclose(plane.directions, directions, atol=1e-4)


@pytest.mark.parametrize('name', OTHERS)
def test_what_is_no_slice_of_a_scan_is_named_for_what_it_is(tmp_path, name):
  files = series_of(tmp_path, instead=OTHERS[name])
  with pytest.raises(InputError, match=rf'1\.dcm: is no slice but a {name}'):
    dicom.read_series(files)


ALL = ('PlaneOrientationSequence', 'PixelMeasuresSequence', 'PixelValueTransformationSequence')
FRAMES: dict[str, dict[str, Any]] = {
  'in order': {},
  'backwards': {'frames': (3, 2, 1, 0)},
  'interleaved': {'frames': (0, 2, 1, 3)},
  'what all share apart': {'shared': ALL},
  'shared, backwards': {'shared': ALL[:2], 'frames': (3, 1, 2, 0)},
  'a slope of its own for each': {'slopes': (1, 2, 0.5, 3)},
  'no rescaling': {'rescale': False},
}


@pytest.mark.parametrize('name', FRAMES)
def test_frames_of_an_enhanced_object_are_slices(tmp_path, name):
  settings = FRAMES[name]
  path = enhanced_dicom.write(tmp_path / 'all.dcm', STORED, **settings)
  series = dicom.read_series([path])
  frames, slopes = settings.get('frames', range(4)), settings.get('slopes', (1,))
  wanted = STORED.astype(float)
  if settings.get('rescale', True):
    for k, d in enumerate(frames):
      wanted[d] = wanted[d] * slopes[k % len(slopes)] - 3
  np.testing.assert_array_equal(series.voxels, wanted)
  lies = [[0, 0, -3, 20.5], [0, -3.5, 0, -11.25], [2.5, 0, 0, 300], [0, 0, 0, 1]]
  np.testing.assert_allclose(series.affine, lies, atol=1e-6)
  np.testing.assert_array_equal(np.array(frames)[series.order], range(4))
  assert dicom_file.has_frames(path) and dicom_file.holds_image(path)


def test_frames_in_several_files_are_one_series(tmp_path):
  files = [
    enhanced_dicom.write(tmp_path / 'a.dcm', STORED, frames=(3, 1)),
    enhanced_dicom.write(tmp_path / 'b.dcm', STORED, frames=(0, 2)),
  ]
  np.testing.assert_array_equal(dicom.read_series(files).voxels, STORED.astype(float) - 3)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'drop': ('PlanePositionSequence',)}, 'has no ImagePositionPatient'),
    ({'drop': ('PixelMeasuresSequence',)}, 'has no PixelSpacing'),
    ({'frames': (0, 1, 3)}, 'frame 2: lies 5.00 .* frame 3, others 2.50 mm apart: 1 missing'),
    ({'frames': (0, 1, 2, 2)}, 'frame 3: lies where all.dcm, frame 4 does'),
    ({'slopes': (1, 0)}, "frame 2: its RescaleSlope is '0.0'"),
    ({'frames': (1,)}, '1 slices in its folder'),
  ],
)
def test_frames_without_a_place_or_twice_are_refused(tmp_path, settings, message):
  with pytest.raises(InputError, match=rf'all\.dcm.*({message})'):
    dicom.read_series([enhanced_dicom.write(tmp_path / 'all.dcm', STORED, **settings)])


def placed(folder, series, places):
  """Slices of these ids, 2.5 mm x place along their normal, under names in their order."""
  folder.mkdir()
  for d, (one, place) in enumerate(zip(series, places, strict=True)):
    content = slice_bytes(
      STORED[0] + d,
      position=(-20.5, 11.25, 300 + 2.5 * place),
      directions=(1, 0, 0, 0, 1, 0),
      spacing=(3.5, 3.0),
      rescale=(-1024, 1),
      series=one,
    )
    (folder / f'{d}.dcm').write_bytes(content)
  return slices_of(folder)


def test_two_series_that_lie_between_one_another_are_refused(tmp_path):
  """Half a step beside one another their slices are evenly spaced, but of two scans."""
  mixed = placed(tmp_path / 'mixed', [1, 1, 1, 2, 2, 2], [0, 1, 2, 0.47, 1.47, 2.47])
  with pytest.raises(InputError, match=r'3\.dcm: is of another series .* than 0\.dcm, and slices'):
    dicom.read_series(mixed)
  for name, series in (('two blocks', [1, 1, 1, 2, 2, 2]), ('an id each', [1, 2, 3, 4, 5, 6])):
    files = placed(tmp_path / name, series, range(6))
    assert len(dicom.read_series(files).voxels) == 6


def test_enhanced_objects_of_two_series_that_lie_between_one_another_are_refused(tmp_path):
  files = [
    enhanced_dicom.write(tmp_path / 'a.dcm', STORED, frames=(3, 1)),
    enhanced_dicom.write(tmp_path / 'b.dcm', STORED, frames=(0, 2)),
  ]
  for d, path in enumerate(files):
    dataset = dcmread(path)
    dataset.SeriesInstanceUID = f'1.2.3.{d}'
    dataset.save_as(path)
  with pytest.raises(InputError, match=r'a\.dcm, frame 2: is of another series'):
    dicom.read_series(files)
