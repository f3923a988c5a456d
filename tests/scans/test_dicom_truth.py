"""Masks in DICOM SEG and RTSTRUCT: read as they were drawn, or refused in one line."""

import numpy as np
import pydicom
import pytest
from dicom_studies import change, contour_of, item, write_rtstruct, write_seg, write_series

from data_prep import phantom, phantom_folders
from thrifty_jax.errors import InputError
from thrifty_jax.scans import dicom, dicom_truth

pytest.importorskip('highdicom')

NAMES = ('left  Part', 'опухоль')  # the file's; blanks and capitals do not count
ASKED = ('Left part', 'Опухоль')
WRITERS = {'SEG': write_seg, 'RTSTRUCT': write_rtstruct}


def make(place, number=0, **changes):
  """Headers, label and grid of a series that was written."""
  scan = phantom_folders.make_scan(number=number, seed=0)
  affine = phantom.make_affine(
    patient=number + 2, spacing_mm=np.array([2.5, 0.9, 1.3]), origin_mm=np.array([5.5, -60, 210])
  )
  voxels = (scan.image * 500).astype(int)
  headers = write_series(place / 'ct', voxels, affine, number=number, patient=number, **changes)
  return headers, scan.label, dicom.read_grid(sorted((place / 'ct').iterdir()))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder with a series and its truth in both forms, which nobody may change; and the label."""
  place = tmp_path_factory.mktemp('made')
  headers, label, grid = make(place)
  for kind, write in WRITERS.items():
    write(place / f'{kind}.dcm', headers, label, NAMES)
  return place, headers, label, grid


@pytest.mark.parametrize('kind', WRITERS)
def test_it_is_read_as_it_was_drawn_whatever_the_numbers_are(made, kind):
  place, _, label, grid = made
  path = place / f'{kind}.dcm'
  np.testing.assert_array_equal(dicom_truth.read_mask(path, ASKED, *grid), label)
  assert {*dicom_truth.read_names(path)} == {'left Part', 'опухоль'}
  swapped = dicom_truth.read_mask(path, (*ASKED[::-1], 'spleen'), *grid)
  np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[label])
  assert not dicom_truth.read_mask(path, ('spleen',), *grid).any()


@pytest.mark.parametrize('number', range(3))
def test_the_grid_is_that_of_the_series_without_its_pixels(tmp_path, number):
  _, label, (shape, affine) = make(tmp_path, number)
  series = dicom.read_series(sorted((tmp_path / 'ct').iterdir()))
  assert shape == series.voxels.shape == label.shape
  np.testing.assert_array_equal(affine, series.affine)


def test_the_one_segment_that_all_frames_share_is_read(tmp_path):
  headers, label, grid = make(tmp_path)
  path = tmp_path / 'seg.dcm'
  write_seg(path, headers, label == 1, ['liver'])
  (shared,) = pydicom.dcmread(path).SharedFunctionalGroupsSequence
  assert 'SegmentIdentificationSequence' in shared
  np.testing.assert_array_equal(dicom_truth.read_mask(path, ['liver'], *grid), label == 1)


@pytest.mark.parametrize('shape', [(5, 7), (4, 8), (3, 3)])
def test_frames_of_any_size_are_packed_without_gaps(tmp_path, shape):
  """Five times seven bits are no whole number of bytes."""
  label = np.random.default_rng(0).integers(0, 3, (4, *shape)).astype(np.uint8)
  affine = phantom.make_affine(patient=0, spacing_mm=np.full(3, 2.0), origin_mm=np.zeros(3))
  headers = write_series(tmp_path / 'ct', np.zeros_like(label, int), affine, number=1, patient=1)
  grid = dicom.read_grid(sorted((tmp_path / 'ct').iterdir()))
  for kind, write in WRITERS.items():
    write(tmp_path / f'{kind}.dcm', headers, label, NAMES)
    found = dicom_truth.read_mask(tmp_path / f'{kind}.dcm', ASKED, *grid)
    np.testing.assert_array_equal(found, label)


def test_contours_with_holes_and_of_several_pieces_on_a_slice(tmp_path):
  headers, label, grid = make(tmp_path)
  rows, columns = np.indices(label.shape[1:])
  ring = (abs(rows - 20) < 9) & (abs(columns - 20) < 9) & ~((abs(rows - 20) < 4) & (columns < 22))
  ring &= ~((columns > 13) & (columns < 17))  # two pieces

  def draw(inside):
    outer = [(11.5, 11.5), (11.5, 28.5), (28.5, 28.5), (28.5, 11.5)]
    hole = [(16.5, 10.7), (16.5, 21.5), (23.5, 21.5), (23.5, 10.7)]  # also beyond the border
    cut = [(2.5, 13.5), (2.5, 16.5), (33.5, 16.5), (33.5, 13.5)]
    del inside
    return [outer, [*hole], cut]

  path = tmp_path / 'rt.dcm'
  write_rtstruct(path, headers[:1], label[:1], ['a'], draw=draw)
  found = dicom_truth.read_mask(path, ['a'], *grid)
  outer = (abs(rows - 20) < 9) & (abs(columns - 20) < 9)
  hole = (abs(rows - 20) < 4) & (columns > 10.7) & (columns < 21.5)
  cut = (rows > 2.5) & (rows < 33.5) & (columns > 13.5) & (columns < 16.5)
  np.testing.assert_array_equal(found[0], outer ^ hole ^ cut)
  assert not found[1:].any() and ring.any()


def test_contours_on_every_second_slice_are_refused(tmp_path):
  voxels = np.zeros((8, 20, 20), np.int16)
  affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]])
  headers = write_series(tmp_path / 's', voxels, affine, number=1, patient=1)
  path, label = tmp_path / 'rt.dcm', np.zeros(voxels.shape, np.uint8)
  label[::2, 5:12, 6:9] = 1
  write_rtstruct(path, headers, label, ['a'])
  with pytest.raises(InputError, match='a has contours on no two slices that are neighbours; exp'):
    dicom_truth.read_mask(path, ['a'], voxels.shape, affine)
  label[3] = label[2]
  write_rtstruct(path, headers, label, ['a'])
  found = dicom_truth.read_mask(path, ['a'], voxels.shape, affine)
  np.testing.assert_array_equal(found, label)


def set_kind(kind):
  def alter(made):
    made.ROIContourSequence[0].ContourSequence[1].ContourGeometricType = kind

  return alter


def move(axis, by):
  def alter(made):
    for frame in made.get('PerFrameFunctionalGroupsSequence') or ():
      frame.PlanePositionSequence[0].ImagePositionPatient[axis] += by
    for structure in made.get('ROIContourSequence') or ():
      for contour in structure.ContourSequence:
        values = np.array(contour.ContourData, float).reshape(-1, 3)
        values[:, axis] += by
        contour.ContourData = [f'{x:.6f}' for x in values.ravel()]

  return alter


def move_along_rows(made):
  for structure in made.ROIContourSequence:
    for contour in structure.ContourSequence:
      values = np.array(contour.ContourData, float).reshape(-1, 3)
      values += 300 * (values[1] - values[0]) / np.linalg.norm(values[1] - values[0])
      contour.ContourData = [f'{x:.6f}' for x in values.ravel()]


def set_tag(**tags):
  def alter(made):
    for name, value in tags.items():
      setattr(made, name, value)

  return alter


def set_data(value, count=None):
  def alter(made):
    contour = made.ROIContourSequence[1].ContourSequence[0]
    contour.ContourData = value
    if count is not None:
      contour.NumberOfContourPoints = count

  return alter


def repeat_a_frame(made):
  frames = made.PerFrameFunctionalGroupsSequence
  frames[1].PlanePositionSequence = frames[0].PlanePositionSequence


def turn(made):
  group = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
  first, second = group.ImageOrientationPatient[:3], group.ImageOrientationPatient[3:]
  group.ImageOrientationPatient = [*second, *first]


def stretch(made):
  made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.0, 1.3]


def cut_pixels(made):
  made.PixelData = made.PixelData[:-40]


BAD = {
  'fractions': ('SEG', set_tag(SegmentationType='FRACTIONAL'), "'FRACTIONAL' of 1 bits"),
  'numbers': ('SEG', set_tag(SegmentationType='LABELMAP'), "SegmentationType is 'LABELMAP'"),
  'bytes': ('SEG', set_tag(BitsAllocated=8), 'of 8 bits; expected BINARY'),
  'another size': ('SEG', set_tag(Rows=39), 'has 39 x 48 pixels .*but the slices'),
  'cut off': ('SEG', cut_pixels, 'its pixels are .* bytes; expected'),
  'aside': ('SEG', move(0, 0.7), 'has a frame that lies on no slice of its series'),
  'between slices': ('SEG', move(2, 1.2), 'has a frame that lies on no slice'),
  'another place': ('SEG', move(2, 500.0), 'has a frame that lies on no slice'),
  'turned': ('SEG', turn, 'has a frame that lies on no slice'),
  'other pixels': ('SEG', stretch, 'has a frame that lies on no slice'),
  'a frame twice': ('SEG', repeat_a_frame, 'shows segment 1 on slice .*as one before it does'),
  'points': ('RTSTRUCT', set_kind('POINT'), "contour 2 of left  Part is 'POINT'; expected CLOSED"),
  'open': ('RTSTRUCT', set_kind('OPEN_PLANAR'), "is 'OPEN_PLANAR'; expected CLOSED_PLANAR"),
  'no kind': ('RTSTRUCT', set_kind(''), "is ''; expected CLOSED_PLANAR"),
  'contours between': ('RTSTRUCT', move(2, 1.2), 'contour 1 of .* lies on no slice of its series'),
  'contours beyond': ('RTSTRUCT', move(2, -500.0), 'lies on no slice .*at -.* of the slices 1'),
  'contours beside': ('RTSTRUCT', move_along_rows, 'contour 1 of .* lies beside the pixels'),
  'half a point': ('RTSTRUCT', set_data([1, 2, 3, 4]), 'has 4 coordinates that are not three numb'),
  'fewer points': ('RTSTRUCT', set_data([1, 2, 3], 7), 'has 3 coordinates .*of 7 points'),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_what_cannot_be_put_on_the_slices_is_refused_in_one_line(made, tmp_path, name):
  place, _, _, grid = made
  kind, alter, message = BAD[name]
  path = tmp_path / 'truth.dcm'
  path.write_bytes((place / f'{kind}.dcm').read_bytes())
  change(path, alter)
  with pytest.raises(InputError, match=message) as caught:
    dicom_truth.read_mask(path, ASKED, *grid)
  text = str(caught.value)
  assert text.startswith(str(path)) and '\n' not in text and len(text) < 500
  if kind == 'RTSTRUCT' and 'contour 2' in message:  # of a class that is not asked for it is none
    assert dicom_truth.read_mask(path, ASKED[1:], *grid).any()


def test_segments_in_big_endian_order_are_refused(made, tmp_path):
  place, _, _, grid = made
  whole, path = pydicom.dcmread(place / 'SEG.dcm'), tmp_path / 'seg.dcm'
  whole.walk(lambda *_: None)  # reads what is packed in sequences
  swapped = pydicom.Dataset({one.tag: one for one in whole})
  swapped.file_meta, swapped.preamble = whole.file_meta, bytes(128)
  swapped.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
  swapped.save_as(path)
  assert {*dicom_truth.read_names(path)} == {*dicom_truth.read_names(place / 'SEG.dcm')}
  with pytest.raises(InputError, match=r'seg\.dcm: .*its pixels are in big-endian order'):
    dicom_truth.read_mask(path, ASKED, *grid)


@pytest.mark.parametrize('kind', WRITERS)
def test_two_classes_in_one_voxel_are_refused_and_one_alone_is_read(tmp_path, kind):
  headers, label, grid = make(tmp_path)
  path = tmp_path / 'truth.dcm'
  WRITERS[kind](path, headers, label, NAMES)

  def overlap(made):
    if kind == 'RTSTRUCT':
      contour = contour_of(headers[4], [(2, 2), (2, 40), (30, 40), (30, 2)])
      for structure in made.ROIContourSequence:
        structure.ContourSequence.append(contour)
      return
    size, half = made.Rows * made.Columns // 8, made.NumberOfFrames // 2
    made.PixelData = made.PixelData[: half * size] + b'\xff' * (len(made.PixelData) - half * size)

  change(path, overlap)
  with pytest.raises(InputError, match='have .* voxels of slice . in common; expected one') as told:
    dicom_truth.read_mask(path, ASKED, *grid)
  assert all(name in str(told.value) for name in ASKED)
  assert dicom_truth.read_mask(path, ASKED[:1], *grid).any()


def test_a_structure_without_contours_is_empty(tmp_path):
  headers, label, grid = make(tmp_path)
  path = tmp_path / 'rt.dcm'
  write_rtstruct(path, headers, label, NAMES)

  def alter(made):
    del made.ROIContourSequence[0].ContourSequence
    made.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = 'CLOSEDPLANAR_XOR'
    made.ROIContourSequence.append(item(ReferencedROINumber=99))

  change(path, alter)
  np.testing.assert_array_equal(dicom_truth.read_mask(path, ASKED, *grid), 2 * (label == 2))


@pytest.mark.parametrize('kind', WRITERS)
def test_damaged_files_are_refused_in_one_line(made, tmp_path, kind):
  """Never another exception, never more than a line; what is still read lies on the grid."""
  place, _, _, grid = made
  whole, random = (place / f'{kind}.dcm').read_bytes(), np.random.default_rng(0)
  path, refused = tmp_path / 'truth.dcm', 0
  for k in range(60):
    content = bytearray(whole)
    if k % 3:
      places = random.integers(132, min(len(whole), 4000 * (1 + 9 * (k % 2))), 3)
      for position in places:
        content[position] = random.integers(256)
    else:
      content = content[: random.integers(len(whole))]
    path.write_bytes(content)
    try:
      dicom_truth.read_names(path)
      assert dicom_truth.read_mask(path, ASKED, *grid).shape == grid[0]
    except InputError as error:
      refused += 1
      assert str(path) in str(error) and len(str(error).splitlines()) == 1
  assert refused > 10
