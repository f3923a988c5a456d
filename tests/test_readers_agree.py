"""One scan by eight writers, through every reader of the project: each voxel where it was made.

The writers are pydicom, highdicom, nibabel, SimpleITK, and tables by hand. What they wrote is what
another reader than the project's finds; the readers are those of the training's check, of predict,
of an export's segment.py and of the page. Training from DICOM is that of CHAOS.
"""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import page_modules
import pydicom
import pytest
import SimpleITK
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from data_prep import checks, folder
from thrifty_jax.exporting import segment_onnx
from thrifty_jax.scans import sources, volumes
from thrifty_jax.scans.volumes import Case

SIDE = 6  # of a cube, whose slices are drawn as they are
RANDOM = np.random.default_rng(0)
# [X, Y, Z]; half of it is bright, so that what a network would find is known.
BRIGHT = RANDOM.random((SIDE, SIDE, SIDE)) < 0.5
VOXELS = (RANDOM.integers(0, 1000, BRIGHT.shape) + 2000 * BRIGHT).astype(np.int16)
VOXELS[0, 0, 0], BRIGHT[0, 0, 0] = 0, False
VOXELS[-1, -1, -1], BRIGHT[-1, -1, -1] = 3000, True
TURN = Rotation.from_euler('xyz', (24, -13, 95), degrees=True).as_matrix()  # no axis is its own
SIDES = np.array([0.75, 1.5, 2.25])
LPS = np.column_stack([TURN * SIDES, (-20.5, 11.25, 300)])  # of (x, y, z, 1), [3, 4]
AFFINE = np.vstack([LPS * [[-1], [-1], [1]], [0, 0, 0, 1]])  # in RAS


def itk_image(voxels):
  image = SimpleITK.GetImageFromArray(voxels.transpose())
  image.SetSpacing(SIDES.tolist())
  image.SetDirection(TURN.ravel().tolist())
  image.SetOrigin(LPS[:, 3].tolist())
  return image


def slices_of(folder):
  """Slices by pydicom in an order of names that says nothing, and the same in memory."""
  folder.mkdir()
  slices = []
  for d in range(SIDE):
    one = pydicom.dcmread(str(get_testdata_file('CT_small.dcm')))
    one.SOPInstanceUID, one.InstanceNumber = generate_uid(), d + 1
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.Rows = one.Columns = SIDE
    one.PixelSpacing = [SIDES[1], SIDES[0]]
    one.ImageOrientationPatient = [round(number, 12) for number in TURN[:, :2].T.ravel()]
    one.ImagePositionPatient = [round(float(x), 8) for x in LPS @ [0, 0, d, 1]]
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelRepresentation = 0
    one.PixelData = (VOXELS[:, :, d].T + 1024).astype('<u2').tobytes()
    for keyword in ('SmallestImagePixelValue', 'LargestImagePixelValue', 'PixelPaddingValue'):
      if keyword in one:
        del one[keyword]
    one.save_as(folder / f'{(5 * d) % SIDE}.dcm')
    slices.append(one)
  return slices


def by_pydicom(place, voxels):
  del voxels
  slices_of(place / 'series')
  return place / 'series'


def by_highdicom(place, voxels):
  pytest.importorskip('highdicom')
  from highdicom.legacy import LegacyConvertedEnhancedCTImage

  del voxels
  made = LegacyConvertedEnhancedCTImage(
    slices_of(place / 'slices'), generate_uid(), 2, generate_uid(), 1
  )
  assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
  made.save_as(place / 'enhanced.dcm')
  return place / 'enhanced.dcm'


def by_nibabel(place, voxels):
  nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), place / 'scan.nii.gz')
  return place / 'scan.nii.gz'


def nifti_by_hand(place, voxels):
  header = bytearray(352)
  for at, form, *values in (
    (0, 'i', 348),
    (40, '8h', 3, SIDE, SIDE, SIDE, 1, 1, 1, 1),
    (70, 'hh', 4, 16),
    (76, '8f', 1, *SIDES, 0, 0, 0, 0),
    (108, 'f', 352),
    (123, 'B', 2),
    (254, 'h', 1),
    (280, '12f', *AFFINE[:3].ravel()),
    (344, '4s', b'n+1'),
  ):
    struct.pack_into(f'>{form}', header, at, *values)
  content = voxels.astype('>i2').tobytes(order='F')
  (place / 'scan.nii').write_bytes(bytes(header) + content)
  return place / 'scan.nii'


def metaimage_by_simpleitk(place, voxels):
  SimpleITK.WriteImage(itk_image(voxels), str(place / 'scan.mhd'), useCompression=True)
  return place / 'scan.mhd'


def nrrd_by_simpleitk(place, voxels):
  SimpleITK.WriteImage(itk_image(voxels), str(place / 'scan.nrrd'), useCompression=True)
  return place / 'scan.nrrd'


def join(numbers, mark=' '):
  return mark.join(f'{number:.12g}' for number in np.ravel(numbers))


def metaimage_by_hand(place, voxels):
  header = (
    f'ObjectType = Image\nNDims = 3\nBinaryData = True\nElementByteOrderMSB = True\n'
    f'Position = {join(LPS[:, 3])}\nOrientation = {join(TURN.T)}\nElementSize = {join(SIDES)}\n'
    f'DimSize = {SIDE} {SIDE} {SIDE}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n'
  )
  (place / 'scan.mha').write_bytes(header.encode() + voxels.astype('>i2').tobytes(order='F'))
  return place / 'scan.mha'


def nrrd_by_hand(place, voxels):
  vectors = ' '.join(f'({join(column, ",")})' for column in AFFINE[:3, :3].T)
  header = (
    f'NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: {SIDE} {SIDE} {SIDE}\n'
    f'space directions: {vectors}\nkinds: domain domain domain\nendian: big\nencoding: raw\n'
    f'space origin: ({join(AFFINE[:3, 3], ",")})\n\n'
  )
  (place / 'scan.nrrd').write_bytes(header.encode() + voxels.astype('>i2').tobytes(order='F'))
  return place / 'scan.nrrd'


WRITERS = {
  'DICOM by pydicom': by_pydicom,
  'DICOM by highdicom': by_highdicom,
  'NIfTI by nibabel': by_nibabel,
  'NIfTI by hand': nifti_by_hand,
  'MetaImage by SimpleITK': metaimage_by_simpleitk,
  'MetaImage by hand': metaimage_by_hand,
  'NRRD by SimpleITK': nrrd_by_simpleitk,
  'NRRD by hand': nrrd_by_hand,
}

ON_PAGE = [name for name in WRITERS if name[0] in 'DN' and 'NRRD' not in name]


def require_every_voxel(voxels, affine, wanted=VOXELS):
  """Voxels [X, Y, Z], whatever their order, lie where they were made."""
  index = np.indices(voxels.shape).reshape(3, -1)
  there = np.linalg.solve(AFFINE, affine @ np.vstack([index, np.ones(voxels.size)]))[:3]
  nearest = np.rint(there).astype(int)
  assert np.abs(there - nearest).max() < 1e-3
  assert len({*map(tuple, nearest.T)}) == voxels.size == wanted.size
  np.testing.assert_array_equal(voxels.ravel(), wanted[tuple(nearest)])


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The scan and its mask by each writer; DICOM has no mask."""
  made = {}
  for name, write in WRITERS.items():
    scan = write(tmp_path_factory.mktemp('scan'), VOXELS)
    mask = None if 'DICOM' in name else write(tmp_path_factory.mktemp('mask'), BRIGHT.astype('i2'))
    made[name] = scan, mask
  return made


@pytest.mark.parametrize('name', WRITERS)
def test_another_reader_finds_what_was_made(written, name):
  """ITK's, or highdicom's own."""
  scan, _ = written[name]
  if 'highdicom' in name:
    import highdicom

    volume = highdicom.imread(scan).get_volume()
    require_every_voxel(volume.array, np.diag((-1.0, -1.0, 1.0, 1.0)) @ volume.affine)
    return
  image = SimpleITK.ReadImage(str(scan)) if scan.is_file() else series(scan)
  axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
  lps = np.column_stack([axes, image.GetOrigin()])
  affine = np.vstack([lps * [[-1], [-1], [1]], [0, 0, 0, 1]])
  require_every_voxel(SimpleITK.GetArrayFromImage(image).transpose(), affine)


def series(place):
  reader = SimpleITK.ImageSeriesReader()
  reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(place)))
  return reader.Execute()


def by_training(scan, mask):
  case = Case('a', 'a', (scan,), (mask,) if mask else ())
  if mask:
    volume = folder.read_case(case)
    told = checks.find_problems(volume, classes=('none', 'bright'), modalities=1, source=case)
    assert told == []
    order = volume.affine[:, [2, 1, 0, 3]]
    require_every_voxel(volume.truth.transpose(), order, BRIGHT)
    return volume
  voxels, affine = sources.read_channels((scan,))
  return volumes.make_volume(case, image=voxels, affine=affine)


def by_predict(scan, mask):
  del mask
  volume, _ = sources.read(sources.find(scan, channels=1)[0])
  return volumes.along(volume, 'axial')


@pytest.mark.parametrize('read', [by_training, by_predict])
@pytest.mark.parametrize('name', WRITERS)
def test_training_and_predict_have_every_voxel_where_it_was_made(written, name, read):
  volume = read(*written[name])
  assert volumes.nibabel.aff2axcodes(volume.affine) == volumes.SLICE_AXES['axial']
  require_every_voxel(volume.image[..., 0].transpose(), volume.affine[:, [2, 1, 0, 3]])


@pytest.mark.parametrize('axis', volumes.SLICE_AXES)
@pytest.mark.parametrize('name', [name for name in WRITERS if 'NIfTI' in name])
def test_the_script_of_an_export_finds_every_bright_voxel(written, name, axis):
  """By a network that finds what is brighter than the middle."""
  settings = {
    **{'modalities': 1, 'slice_axis': axis, 'training_scans': None, 'padding': None, 'context': 0},
    **{'intensity': 'window', 'window': (0, 3000), 'image_size': SIDE, 'resize': 'linear'},
    **{'clahe_clip_limit': 0, 'curvature_flow_iterations': 0, 'largest_component': []},
  }
  found = segment_onnx.read(written[name][0], settings)
  mask = segment_onnx.segment(
    found.voxels,
    found.affine,
    settings,
    lambda image: np.concatenate([0.5 - image, image - 0.5], axis=1),
  )
  require_every_voxel(mask, found.affine, BRIGHT)


@pytest.fixture(scope='module')
def by_page(written):
  """What the page has of each scan that it reads."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  places = {name: written[name][0] for name in ON_PAGE}
  volumes_ = [name for name in ON_PAGE if 'NIfTI' in name]
  found = page_modules.read('nifti.js', 'readNifti', [unpacked(places[name]) for name in volumes_])
  series_ = [name for name in ON_PAGE if name not in volumes_]
  files = [
    {path.name: path.read_bytes() for path in ([place] if place.is_file() else place.iterdir())}
    for place in (places[name] for name in series_)
  ]
  return dict(zip([*volumes_, *series_], [*found, *page_modules.series(files)], strict=True))


def unpacked(path: Path):
  return gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()


@pytest.mark.parametrize('name', ON_PAGE)
def test_the_page_has_every_voxel_where_it_was_made(by_page, name):
  saw = by_page[name]
  assert 'error' not in saw, saw
  affine = np.vstack([saw['affine'], [0, 0, 0, 1]])
  require_every_voxel(np.reshape(saw['voxels'], saw['shape'][::-1]).transpose(), affine)
