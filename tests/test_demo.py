"""The page in a browser gives the masks of the program, says what it cannot read, sends nothing."""

import base64
import dataclasses
import gzip
import hashlib
import io
import shutil
import struct
from pathlib import Path
from typing import Any

import browser
import handmade_dicom
import jax
import nibabel
import numpy as np
import page_modules
import pytest
import SimpleITK
from nibabel import orientations
from PIL import Image, ImageCms

from data_prep import phantom
from demo import build
from demo.packages import ITK_WASM, ONNX_RUNTIME, PACKAGES
from thrifty_jax import config as configs
from thrifty_jax import export, files, model_folder, predict
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_folder, onnx_network, segment_onnx
from thrifty_jax.networks import build as building
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.scans import overlays, pictures, volumes

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
EXPLICIT, IMPLICIT, BIG_ENDIAN = '1.2.840.10008.1.2.1', '1.2.840.10008.1.2', '1.2.840.10008.1.2.2'
JPEG = '1.2.840.10008.1.2.4.70'
BRAINS = {  # what a network of the brain in MR knows of the scans of its training
  'slices': [150, 180],
  'slice_spacing_mm': [1.0, 1.2],
  'pixel_spacing_mm': [0.9, 1.1],
  'field_of_view_mm': [220, 260],
  'intensity_0_p5': [0.0, 0.01],
  'intensity_0_p50': [0.05, 0.1],
  'intensity_0_p95': [0.5, 0.6],
}
# By site: changes of the config, changes of the model's description.
SITES = {
  'neighbours': ({'context': 1}, {'largest_component': ['liver']}),
  'window': (
    {'intensity': 'window', 'window': (-100.0, 700.0), 'slice_axis': 'coronal'},
    {'padding': [800, -100], 'resize': 'nearest', 'training_scans': BRAINS},
  ),
  'pictures': (
    {'modalities': 3, 'reduction': 1.5, 'unit': 'pixels'},
    {'largest_component': ['liver'], 'colours': ['#ffffff', '#102030', '#000000']},
  ),
}
# By site: its network where that is no searched one.
LEAN = {
  'window': LeanShape(
    (Level(4, 2, 1, 'plain'), Level(8, 1, 0, 'plain')),
    stem=2,
    up='transposed',
    skip='add',
    norm='batch',
  )
}
MASKS = {  # files whose masks are compared, and on which site
  'LIP.nii.gz': 'neighbours',
  'members.nii.gz': 'neighbours',
  'padded.nii.gz': 'neighbours',
  'second.nii': 'neighbours',
  'second_big.nii.gz': 'neighbours',
  'big_endian.nii': 'window',
  'nowhere.nii': 'window',
  'plain': 'neighbours',
  'packed': 'neighbours',
  'explicit.dcm': 'neighbours',
  'implicit.dcm': 'neighbours',
  'inverse.dcm': 'neighbours',
  'colours.tif': 'pictures',
  'turned.jpg': 'pictures',
  'halved.jpg': 'pictures',
}
# Files whose masks are compared that are not chosen by a button one at a time.
GIVEN: dict[str, dict[str, Any]] = {
  'LIP.nii.gz': {'greys': True},
  'members.nii.gz': {'drop': True},
  'big_endian.nii': {'sample': True},
  'plain': {'sample': True},
  'packed': {'folder': 'packed', 'files': [f'packed/{d}.dcm' for d in range(7)]},
}
SAMPLES = {'window': 'big_endian.nii', 'neighbours': 'plain'}  # of sites
REFUSED = {
  'notes.txt': 'neither a NIfTI file (.nii, .nii.gz) nor a DICOM slice',
  'channels.nii': 'several channels or times',
  'colour.nii': 'colour image',
  'constant.nii': 'all values of a channel are the same',
  'not_a_number.nii': 'values that are NaN; segment.py of the export takes these as the lowest',
  'infinite.nii': 'it has infinite values; export it again',
  'cut.nii': 'the file is cut off',
  'cut.nii.gz': 'damaged or cut off',
  'behind.nii.gz': 'has more behind its end; try gunzip and give what it writes',
  'second_begins.nii': 'vox_offset 352',
  'second_cut.nii': 'the file is cut off',
  'compressed.dcm': 'its compressed pixels are cut off or damaged',
  'big_endian.dcm': f'its transfer syntax {BIG_ENDIAN} is not read here',
  'colour.dcm': 'colour image',
  'frames.dcm': 'it has 2 frames, of which 0 say where they lie',
  'cut.dcm': 'cut off',
  'begins.nii': 'vox_offset 100',
  'longer.nii': 'it has more voxels than it says',
  'slope.nii': 'scl_slope Infinity',
  'form.nii': 'sform_code 100',
  'unit.nii': 'its header gives voxels of',
  'complex.nii': 'its datatype 32 is not read here',
  'spacing.dcm': "its spacing is '1,5\\1,25'; expected 2 numbers",
  'directions.dcm': "its directions are '0\\0\\0\\0\\0\\0'; expected two at right angles",
  'nowhere.dcm': "its position is ''; expected 3 numbers",
  'flat.dcm': 'its slope is 0',
  'longer.dcm': 'it has more pixels than it says',
  'coronal.dcm': "the slice is not axial, but the network's slices are",
  'picture.png': 'a picture, but this network sees volumes; neither a NIfTI file',
}
REFUSED_AS_PICTURES = {
  'LIP.nii.gz': 'no PNG, TIFF, JPEG, BMP or GIF, the pictures that this network sees',
  'grey.png': 'the picture has 1 channel(s), but the network was trained on 3',
}


def element(group, number, kind, value, *, implicit):
  value += b'\0' * (len(value) % 2)
  head = struct.pack('<HH', group, number)
  if implicit:
    return head + struct.pack('<I', len(value)) + value
  long = (
    struct.pack('<HI', 0, len(value)) if kind in ('OB', 'OW') else struct.pack('<H', len(value))
  )
  return head + kind.encode() + long + value


def nested(*, implicit):
  """A sequence without a length, in it an item without a length, in it rows of another image."""
  kind = b'' if implicit else b'SQ\0\0'
  inner = element(0x28, 0x10, 'US', struct.pack('<H', 7), implicit=implicit)
  item = struct.pack('<HHI', 0xFFFE, 0xE000, 0xFFFFFFFF)
  ends = struct.pack('<HHIHHI', 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
  return struct.pack('<HH', 8, 0x1140) + kind + b'\xff' * 4 + item + inner + ends


def dicom(
  pixels,
  *,
  syntax=EXPLICIT,
  directions='1\\0\\0\\0\\0.98\\0.199',
  channels=1,
  frames=1,
  kind='MONOCHROME2',
  **instead,
):
  """The bytes of a slice with 12 of 16 bits a pixel, signed, noise in the other bits."""
  implicit = syntax == IMPLICIT
  texts: dict[tuple[int, int], Any] = {
    (0x20, 0x32): ('DS', instead.get('position', '-30\\-40\\12.5')),
    (0x20, 0x37): ('DS', directions),
    (0x28, 0x02): ('US', channels),
    (0x28, 0x04): ('CS', 'RGB' if channels > 1 else kind),
    (0x28, 0x08): ('IS', str(frames)),
    (0x28, 0x10): ('US', instead.get('rows', pixels.shape[0])),
    (0x28, 0x11): ('US', pixels.shape[1]),
    (0x28, 0x30): ('DS', instead.get('spacing', '1.5\\1.25')),
    (0x28, 0x100): ('US', 16),
    (0x28, 0x101): ('US', 12),
    (0x28, 0x102): ('US', 11),
    (0x28, 0x103): ('US', 1),
    (0x28, 0x1052): ('DS', '-24'),
    (0x28, 0x1053): ('DS', instead.get('slope', '2')),
  }
  meta = [
    (1, 'OB', b'\0\1'),
    (2, 'UI', b'1.2.840.10008.5.1.4.1.1.2'),
    (3, 'UI', b'1.2.3.4'),
    (0x10, 'UI', syntax.encode()),
  ]
  head = b''.join(element(2, number, kind, value, implicit=False) for number, kind, value in meta)
  found = element(2, 0, 'UL', struct.pack('<I', len(head)), implicit=False) + head
  found += element(8, 0x16, 'UI', b'1.2.840.10008.5.1.4.1.1.2', implicit=implicit)
  found += nested(implicit=implicit)
  for (group, number), (kind, value) in texts.items():
    content = struct.pack('<H', value) if kind == 'US' else value.encode()
    found += element(group, number, kind, content, implicit=implicit)
  bits = (pixels.astype(np.int16) & 0x0FFF) | np.int16(0x3000)
  return (
    bytes(128)
    + b'DICM'
    + found
    + element(0x7FE0, 0x10, 'OW', bits.astype('<i2').tobytes(), implicit=implicit)
  )


def altered(content, at, form, *values):
  """A file with other numbers in its header."""
  found = bytearray(content)
  struct.pack_into(f'<{form}', found, at, *values)
  return bytes(found)


def write_scans(folder):
  """Every file of MASKS and REFUSED."""
  made = phantom.make_scan(patient=2, seed=0)  # oblique, no side a multiple of 16
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, 'LIP')
  SimpleITK.WriteImage(image, str(folder / 'LIP.nii.gz'))
  stored: Any = nibabel.load(folder / 'LIP.nii.gz')
  voxels, affine = np.asanyarray(stored.dataobj), stored.affine
  for name, content in {
    'channels': np.stack([voxels, voxels], axis=-1),
    'colour': np.zeros(voxels.shape, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]),
    'constant': np.full_like(voxels, 3),
    'not_a_number': np.where(voxels > 500, np.nan, voxels).astype(np.float32),
    'infinite': np.where(voxels > 500, 1e39, voxels),  # in float32
  }.items():
    nibabel.save(nibabel.Nifti1Image(content, affine), folder / f'{name}.nii')
  header = nibabel.Nifti1Header(endianness='>')
  header.set_data_dtype(np.int16)
  header.set_slope_inter(0.5, -40)
  turned = nibabel.Nifti1Image(voxels.astype(np.float32), None, header)
  turned.set_qform(affine, 1)
  turned.header['sform_code'] = 0
  nibabel.save(turned, folder / 'big_endian.nii')
  unsure = altered((folder / 'big_endian.nii').read_bytes(), 252, 'h', 0)  # no qform either
  (folder / 'nowhere.nii').write_bytes(unsure)
  for name, order in (('second.nii', '<'), ('second_big.nii.gz', '>')):
    header = nibabel.Nifti2Header(endianness=order)
    header.set_data_dtype(np.int16)
    scan = nibabel.Nifti2Image(voxels, affine, header)
    scan.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', b'x' * 50))
    nibabel.save(scan, folder / name)
  packed = (folder / 'LIP.nii.gz').read_bytes()
  stored_bytes, second = gzip.decompress(packed), (folder / 'second.nii').read_bytes()
  members = [stored_bytes[:400], stored_bytes[400:900], b'', stored_bytes[900:]]
  whole = (folder / 'constant.nii').read_bytes()
  plane = (made.image[4] * 1000).astype(np.int16)
  for name, content in {
    'notes.txt': b'notes ' * 100,
    'cut.nii': whole[:-9],
    'cut.nii.gz': gzip.compress(whole)[:-9],
    'behind.nii.gz': packed + b'more',
    'members.nii.gz': b''.join(map(gzip.compress, members)) + bytes(3),
    'padded.nii.gz': packed + bytes(512),
    'second_begins.nii': altered(second, 168, 'q', 352),
    'second_cut.nii': second[:-9],
    'explicit.dcm': dicom(plane),
    'implicit.dcm': dicom(plane[:, ::-1], syntax=IMPLICIT, directions='0\\1\\0\\-1\\0\\0'),
    'compressed.dcm': dicom(plane, syntax=JPEG),
    'big_endian.dcm': dicom(plane, syntax=BIG_ENDIAN),
    'colour.dcm': dicom(plane, channels=3),
    'frames.dcm': dicom(plane, frames=2),
    'cut.dcm': dicom(plane)[:-9],
    'inverse.dcm': dicom(plane, kind='MONOCHROME1'),
    'begins.nii': altered(whole, 108, 'f', 100),
    'longer.nii': whole + bytes(8),
    'slope.nii': altered(whole, 112, 'f', np.inf),
    'form.nii': altered(whole, 254, 'h', 100),
    'unit.nii': altered(whole, 123, 'B', 1),
    'complex.nii': altered(whole, 70, 'h', 32),
    'spacing.dcm': dicom(plane, spacing='1,5\\1,25'),
    'directions.dcm': dicom(plane, directions='0\\0\\0\\0\\0\\0'),
    'nowhere.dcm': dicom(plane, position=''),
    'flat.dcm': dicom(plane, slope='0.0'),
    'longer.dcm': dicom(np.r_[plane, plane], rows=plane.shape[0]),
    'coronal.dcm': dicom(plane, directions='1\\0\\0\\0\\0\\-1'),
  }.items():
    (folder / name).write_bytes(content)


def write_series(folder):
  """One scan as the slices of a series, plain and in JPEG 2000 without loss, in any order."""
  made = phantom.make_scan(patient=2, seed=0)
  for name in ('plain', 'packed'):
    (folder / name).mkdir()
    for d, plane in enumerate((made.image * 1000).clip(0).astype(np.uint16)):
      content = io.BytesIO()
      Image.fromarray(plane).save(content, 'JPEG2000', irreversible=False, no_jp2=True)
      data = content.getvalue() + bytes(len(content.getvalue()) % 2)
      packed = {'syntax': '1.2.840.10008.1.2.4.90', 'data': data} if name == 'packed' else {}
      slice_ = handmade_dicom.slice_bytes(
        plane,
        position=(-20.5, 11.25 - 0.199 * 3.25 * d, 300 + 0.98 * 3.25 * d),
        directions=(1, 0, 0, 0, 0.98, 0.199),
        spacing=(1.5, 1.25),
        rescale=(-24, 2),
        series=1,
        **packed,
      )
      (folder / name / f'{(d * 3) % 7}.dcm').write_bytes(slice_)


def write_pictures(folder):
  """Every picture of MASKS and those that are refused: blots of colours, 40 x 50."""
  rng = np.random.default_rng(3)
  blots = np.kron(rng.integers(0, 256, (8, 10, 3)), np.ones((5, 5, 1)))
  pixels = (0.7 * blots + rng.uniform(0, 70, (40, 50, 3))).astype(np.uint8)
  picture, exif = Image.fromarray(pixels), Image.Exif()
  exif[274] = 6
  picture.save(folder / 'colours.tif', compression='tiff_lzw')
  picture.save(folder / 'picture.png')
  picture.save(folder / 'turned.jpg', quality=95, subsampling=0, exif=exif)
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
  picture.save(folder / 'halved.jpg', quality=80, progressive=True, icc_profile=profile)
  picture.convert('L').save(folder / 'grey.png')


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scans')
  write_scans(folder)
  write_series(folder)
  write_pictures(folder)
  return folder


def with_lean(member, shape):
  """The model with a lean network in place of its own, and all weights random, norms included."""
  network = dataclasses.replace(member.spec.network, name='lean')
  spec, generator = dataclasses.replace(member.spec, network=network), np.random.default_rng(0)
  params = building.initialise(
    building.find_shapes(building.build(spec, shape), spec.image_channels), seed=0
  )
  params = jax.tree.map(
    lambda leaf: leaf + generator.normal(0, 0.1, leaf.shape).astype(leaf.dtype), params
  )
  return dataclasses.replace(member, spec=spec, genotype=shape, params=params)


@pytest.fixture(scope='module')
def exports(tmp_path_factory, random_model, scans):
  """For each site a folder with model/ and exported/; the first by the command.

  Those of LEAN have another network in exported/ than in model/.
  """
  pytest.importorskip('onnx')
  pytest.importorskip('onnxruntime')
  folder = tmp_path_factory.mktemp('exports')
  for name, (changes, described) in SITES.items():
    config = configs.default()
    config.data.classes = ('background', 'liver', 'left kidney')
    config.data.image_size = 16
    config.model.update({'channels': 4, 'depth': 2})
    config.data.update(changes)
    (folder / name).mkdir()
    random_model(folder / name / 'model', config, **described)
  first, *others = (folder / name for name in SITES)
  command = [f'--model={first / "model"}', f'--output={first / "exported"}']
  assert export.main([*command, f'--scans={scans / "LIP.nii.gz"}']) == 0
  unchecked = {'model.onnx': {'slices': 0, 'equal_pixels': 1.0, 'largest_difference': 0.0}}
  for other in others:  # without the check, which takes seconds to compile
    member = model_folder.load(other / 'model')
    member = with_lean(member, LEAN[other.name]) if other.name in LEAN else member
    networks = {'model.onnx': onnx_network.to_onnx(member).SerializeToString()}
    contents = export_folder.make_contents(member, networks, unchecked, card=b'# Made up', sides=16)
    export_folder.write(other / 'exported', contents)
  return folder


@pytest.fixture(scope='module')
def archives():
  """The packages' archives, by option."""
  found = {p.option: Path('~/.cache/thrifty_jax').expanduser() / p.archive for p in PACKAGES}
  for archive in found.values():
    if not archive.exists():
      pytest.skip(f'{archive} is not there; python -m demo.build fetches it')
  return found


@pytest.fixture(scope='module')
def session(tmp_path_factory, exports, scans, archives):
  """One visit of a browser with all files."""
  if not browser.CHROMIUM:
    pytest.skip('there is no Chromium')
  if not page_modules.NODE:
    pytest.skip('there is no Node, in which samples are looked at')
  root = tmp_path_factory.mktemp('root')
  shutil.copytree(scans, root, dirs_exist_ok=True)
  for name in SITES:
    command = [f'--export={exports / name / "exported"}', f'--output={root / name}']
    command += [f'--{option}={archive}' for option, archive in archives.items()]
    command += [f'--sample={scans / SAMPLES[name]}'] if name in SAMPLES else []
    assert build.main(command) == 0
  jobs = [*MASKS.items(), *((file, 'neighbours') for file in REFUSED)]
  jobs += [(file, 'pictures') for file in REFUSED_AS_PICTURES]
  given = [{'site': site, 'file': file, **GIVEN.get(file, {})} for file, site in jobs]
  return browser.visit(root, given)


def what_it_saw(session, file, site=''):
  """Of a site, or of the only one that took the file first."""
  return next(
    saw
    for job, saw in zip(session.jobs, session.saw, strict=True)
    if job['file'] == file and site in job['site']
  )


def mask_of(session, file):
  """Classes on the canvas, [D, H, W]."""
  saw = what_it_saw(session, file)
  assert saw['state'] == 'done', saw['status']
  return np.array([np.reshape(one['found'], (-1, one['width'])) for one in saw['mask']])


def require_the_same(mask, wanted, affine, axes):
  """A mask along the slices' axes against one [X, Y, Z] on the grid of its scan."""
  stored, sliced = orientations.io_orientation(affine), orientations.axcodes2ornt(axes)
  wanted = orientations.apply_orientation(wanted, orientations.ornt_transform(stored, sliced))
  assert mask.shape == wanted.shape and len(np.unique(wanted)) > 1
  assert (mask == wanted).mean() >= 0.9999


VOLUMES = {'LIP': 'LIP.nii.gz', 'second_big': 'second_big.nii.gz', 'plain': 'plain'}


@pytest.fixture(scope='module')
def by_predict(exports, scans, tmp_path_factory):
  """Masks of some volumes that predict writes, all at once."""
  place, masks = tmp_path_factory.mktemp('volumes'), tmp_path_factory.mktemp('masks')
  for file in VOLUMES.values():
    (place / file).symlink_to(scans / file)
  model = exports / 'neighbours' / 'model'
  assert predict.main([f'--model={model}', f'--input={place}', f'--output={masks}']) == 0
  return masks


@pytest.mark.parametrize('name', VOLUMES)
def test_a_volume_has_and_saves_the_mask_of_predict(session, by_predict, tmp_path, name):
  wanted: Any = nibabel.load(by_predict / f'{name}.nii.gz')
  mask = mask_of(session, VOLUMES[name])
  require_the_same(mask, np.asanyarray(wanted.dataobj), wanted.affine, 'SPL')
  saw = what_it_saw(session, VOLUMES[name])
  assert saw['saved']['name'] == f'{name}_mask.nii.gz'
  (tmp_path / 'saved.nii.gz').write_bytes(base64.b64decode(saw['saved']['content']))
  saved: Any = nibabel.load(tmp_path / 'saved.nii.gz')
  assert type(saved) is type(wanted) and saved.get_data_dtype() == wanted.get_data_dtype()
  np.testing.assert_allclose(saved.affine, wanted.affine, rtol=1e-6, atol=1e-6)
  assert (np.asanyarray(saved.dataobj) == np.asanyarray(wanted.dataobj)).mean() >= 0.9999
  stored = orientations.io_orientation(saved.affine)
  turn = orientations.ornt_transform(stored, orientations.axcodes2ornt('SPL'))
  shown = orientations.apply_orientation(np.asanyarray(saved.dataobj), turn)
  np.testing.assert_array_equal(shown, mask)  # what is saved is what is seen
  assert ' ms a slice on this computer, ' in saw['time']
  assert 'of liver the largest' in saw['status'].lower()


def test_compressed_slices_of_a_folder_have_the_mask_of_plain_ones(session):
  np.testing.assert_array_equal(mask_of(session, 'packed'), mask_of(session, 'plain'))
  found = [what_it_saw(session, name)['saved'] for name in ('packed', 'plain')]
  assert found[0]['name'] == 'packed_mask.nii.gz'
  assert found[0]['content'] == found[1]['content']


def test_a_single_slice_of_dicom_saves_no_mask(session):
  """It does not say how thick it is."""
  saw = what_it_saw(session, 'explicit.dcm')
  assert saw['saved'] is None and 'does not say how thick it is' in saw['status']


def test_a_window_of_greys_changes_what_is_seen_and_not_the_mask(session):
  found = what_it_saw(session, 'LIP.nii.gz')['greys']
  usual, other, back = found['saw']
  assert usual == back and usual['classes'] == other['classes']
  pixels = [np.reshape(one['picture'], (-1, 4)) for one in (usual, other)]
  assert (pixels[0] != pixels[1]).any() and len(np.unique(pixels[0])) > 50
  for one in pixels:
    assert (one[:, :3] == one[:, :1]).all() and (one[:, 3] == 255).all()


@pytest.mark.parametrize(
  'file', ['members.nii.gz', 'padded.nii.gz', 'second.nii', 'second_big.nii.gz']
)
def test_however_a_scan_is_packed_its_mask_is_the_same(session, file):
  np.testing.assert_array_equal(mask_of(session, file), mask_of(session, 'LIP.nii.gz'))


def test_a_lean_network_another_preparation_and_byte_order_give_the_mask_of_the_script(
  session, exports, scans
):
  settings, network = segment_onnx.load(exports / 'window' / 'exported')
  scan: Any = nibabel.load(scans / 'big_endian.nii')
  wanted = segment_onnx.segment(scan.get_fdata(), scan.affine, settings, network)
  require_the_same(mask_of(session, 'big_endian.nii'), wanted, scan.affine, 'PIL')


def test_a_scan_unlike_those_of_the_training_is_told(session, exports, scans, capsys):
  settings, network = segment_onnx.load(exports / 'window' / 'exported')
  scan: Any = nibabel.load(scans / 'big_endian.nii')
  segment_onnx.segment(scan.get_fdata(), scan.affine, settings, network)
  theirs = capsys.readouterr().err.splitlines()
  _, told = what_it_saw(session, 'big_endian.nii')['status'].split(
    'This scan is unlike those of the training, check its mask: '
  )
  assert len(told.split('; ')) == len(theirs) > 2
  assert 'unlike' not in what_it_saw(session, 'LIP.nii.gz')['status']


def test_a_header_that_does_not_say_where_its_axes_point_is_told(session, scans):
  told = f'nowhere.nii: {volumes.find_unsure(scans / "nowhere.nii")}.'
  assert 'taken to point to L, A, S' in told
  assert told in what_it_saw(session, 'nowhere.nii')['status']
  assert 'axes point' not in what_it_saw(session, 'big_endian.nii')['status']


@pytest.mark.parametrize('file', ['explicit.dcm', 'implicit.dcm'])
def test_a_dicom_slice_has_the_mask_of_what_another_reader_sees(session, exports, scans, file):
  settings, network = segment_onnx.load(exports / 'neighbours' / 'exported')
  image = SimpleITK.ReadImage(str(scans / file))
  voxels = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
  directions = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
  affine = np.diag((-1.0, -1.0, 1.0, 1.0))
  affine[:3, :3] = affine[:3, :3] @ directions
  wanted = segment_onnx.segment(voxels, affine, settings, network)
  require_the_same(mask_of(session, file), wanted, affine, 'SPL')


def test_white_may_be_low(session):
  """The monochrome kind says how a slice is shown; its values are the stored ones."""
  mask = mask_of(session, 'inverse.dcm')
  np.testing.assert_array_equal(mask, mask_of(session, 'explicit.dcm'))


# --- pictures

PICTURES = [file for file, site in MASKS.items() if site == 'pictures']


def test_the_mask_of_a_picture_is_that_of_predict_and_is_saved(session, exports, scans, tmp_path):
  trained, place = exports / 'pictures' / 'model', tmp_path / 'mask.png'
  picture = scans / 'colours.tif'
  assert predict.main([f'--model={trained}', f'--input={picture}', f'--output={place}']) == 0
  wanted = np.asarray(Image.open(place))
  (mask,) = mask_of(session, 'colours.tif')
  assert len(np.unique(wanted)) > 1 and mask.shape == wanted.shape
  assert (mask == wanted).mean() >= 0.9999
  saved = what_it_saw(session, 'colours.tif')['saved']
  assert saved['name'] == 'colours_mask.png'
  with (
    Image.open(io.BytesIO(base64.b64decode(saved['content']))) as found,
    Image.open(place) as own,
  ):
    np.testing.assert_array_equal(np.asarray(found), mask)
    np.testing.assert_array_equal(found.convert('RGB'), own.convert('RGB'))
    assert found.info == own.info


@pytest.mark.parametrize('file', PICTURES)
def test_a_picture_is_shown_as_it_is_read_and_has_the_mask_of_the_script(
  session, exports, scans, file
):
  """However a JPEG is turned, its colours halved or its profile: the values are the program's."""
  settings, network = segment_onnx.load(exports / 'pictures' / 'exported')
  read = segment_onnx.read(scans / file, settings)
  wanted = segment_onnx.segment(read.voxels, read.affine, settings, network)[..., 0].T
  (mask,) = mask_of(session, file)
  saw = what_it_saw(session, file)
  pixels = np.reshape(saw['shown'], (*mask.shape, 4))
  np.testing.assert_array_equal(pixels[..., :3], pictures.read(scans / file)[0])
  assert (mask == wanted).mean() >= 0.9999
  assert 'for this picture in ' in saw['time'] and 'windows' in saw['time']


@pytest.mark.parametrize('file', REFUSED_AS_PICTURES)
def test_what_is_no_picture_of_the_network_is_one_line(session, file):
  saw = what_it_saw(session, file, 'pictures')
  assert saw['state'] == 'error'
  assert saw['status'].startswith(f'{file}: ') and REFUSED_AS_PICTURES[file] in saw['status']


# --- refusals


@pytest.mark.parametrize('file', REFUSED)
def test_what_cannot_be_read_is_one_line(session, file):
  saw = what_it_saw(session, file)
  assert saw['state'] == 'error'
  assert saw['status'].startswith(f'{file}: ') and REFUSED[file] in saw['status']


def test_nothing_is_sent_and_the_network_is_asked_for_by_its_content(session, exports):
  files = [f'/{path}' for job in session.jobs for path in job.get('files', [job['file']])]
  own = {'/harness.html', '/jobs', '/favicon.ico', *files}
  wanted = {path for method, path in session.requests if method == 'GET'} - own
  more = ('preprocessing.json', 'page.json', *ONNX_RUNTIME.paths)
  sites = {f'/{site}/{name}' for site in SITES for name in (*build.SCRIPTS, *more)}
  networks = {site: (exports / site / 'exported' / 'model.onnx').read_bytes() for site in SITES}
  for site, content in networks.items():
    sites.add(f'/{site}/model.onnx?{hashlib.sha256(content).hexdigest()}')
  decoder = {f'/neighbours/{path}' for path in ITK_WASM.paths if 'LICENSE' not in path}
  samples = {f'/neighbours/sample/{d}.dcm' for d in range(7)} | {'/window/sample/big_endian.nii'}
  assert wanted == sites | decoder | samples
  assert [path for method, path in session.requests if method != 'GET'] == ['/saw']


# --- building the site


def only_error(capsys):
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.startswith('error: ')
  return line


def an_export(folder, **changes):
  folder.mkdir()
  (folder / 'model.onnx').write_bytes(b'network')
  (folder / 'card.md').write_text('# Made up')
  digest = hashlib.sha256(b'network').hexdigest()
  about = {'format': 'thrifty_jax.export', 'files': {'model.onnx': {'sha256': digest}}}
  steps = {name: values[0] for name, values in build.UNBUILT.items()}
  files.write_json(folder / 'preprocessing.json', about | steps | changes)
  return folder


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'modalities': 3}, 'modalities is 3; the page can do only 1'),
    ({'modalities': 2, 'unit': 'pixels'}, 'modalities is 2; the page can do only 1 or 3'),
    ({'clahe_clip_limit': 0.05}, 'clahe_clip_limit is 0.05'),
    ({'curvature_flow_iterations': 2}, 'curvature_flow_iterations is 2'),
    ({'files': {}}, 'has no model.onnx'),
    ({'files': None}, 'is no export; make one by python -m thrifty_jax.export'),
    ({'format': 'thrifty_jax.model'}, 'is no export; make one by python -m thrifty_jax.export'),
    ({'files': {'model.onnx': {'sha256': 'of another file'}}}, 'is not the file that was exported'),
  ],
)
def test_an_export_that_the_page_cannot_run_is_refused(tmp_path, capsys, changes, text):
  folder = an_export(tmp_path / 'exported', **changes)
  assert build.main([f'--export={folder}', f'--output={tmp_path / "site"}']) == 2
  assert text in only_error(capsys)
  assert not (tmp_path / 'site').exists()


def test_networks_that_the_page_does_not_run_need_not_be_there(tmp_path):
  folder = an_export(tmp_path / 'exported')
  about = files.read_json(folder / 'preprocessing.json')
  about['files']['model.stablehlo'] = {'sha256': 'of a file that was left out'}
  files.write_json(folder / 'preprocessing.json', about)
  assert build.network_files(folder)['model.onnx'] == b'network'
  with pytest.raises(InputError, match='model.stablehlo'):
    export_folder.read(folder)


@pytest.mark.parametrize('site', SITES)
def test_what_an_export_leaves_out_has_its_usual_value(exports, site):
  found = build.network_files(exports / site / 'exported')
  assert set(found) == {'preprocessing.json', 'model.onnx', 'card.md'}


@pytest.mark.parametrize('package', PACKAGES, ids=lambda one: one.option)
def test_a_package_with_another_content_is_refused(tmp_path, capsys, monkeypatch, package):
  archive = tmp_path / package.archive
  archive.write_bytes(b'something else')
  monkeypatch.setattr(build, 'PACKAGES', (package,))
  monkeypatch.setattr(build, 'network_files', lambda folder: {})
  monkeypatch.setattr(build, 'licence_files', lambda: {})
  command = ['--export=exported', f'--output={tmp_path / "site"}', f'--{package.option}={archive}']
  assert build.main(command) == 2
  assert f'its SHA-512 is not that of {package.name} {package.version}' in only_error(capsys)
  assert not (tmp_path / 'site').exists()


def test_the_page_has_of_its_packages_what_it_loads(archives):
  for package in PACKAGES:
    found = package.read(archives[package.option])
    assert tuple(found) == package.paths and all(found.values())
    binaries = [content for path, content in found.items() if path.endswith('.wasm')]
    assert [content[:4] for content in binaries] == [b'\0asm']


def test_what_is_published_has_the_notices_of_all_that_is_in_it():
  pytest.importorskip('onnxruntime')
  found = build.licence_files()
  assert {path.split('/')[0] for path in found} == {package.folder for package in PACKAGES}
  notices = found['gdcm/NOTICES.txt'].decode()
  for holder in ('NumFOCUS', 'Independent JPEG Group', 'CREATIS', 'Benoit Macq', 'Jan de Vaan'):
    assert holder in notices


def test_classes_have_the_colours_of_reports():
  names = ['background', *map(str, range(1, 20))]
  usual = [overlays.class_colour(number) for number in range(1, 20)]
  assert build.class_colours({'classes': names}) == usual
  assert tuple(usual[:16]) == overlays.CLASS_COLOURS
  legend = ['#000000', '#ff0000', '#101010']
  drawn = build.class_colours({'classes': names[:3], 'colours': legend})
  assert drawn == [*overlays.line_colours(legend)] == ['#ff0000', usual[1]]
  regions = {'classes': names[:3], 'colours': [*legend, '#00ff00'], 'regions': [[1, 3], [3]]}
  assert build.class_colours(regions) == usual[:2]


def test_an_output_that_is_there_is_not_replaced(tmp_path, capsys):
  assert build.main(['--export=exported', f'--output={tmp_path}']) == 2
  assert 'exists; name a new folder' in only_error(capsys)


def test_help_has_every_option(capsys):
  assert build.main(['--help']) == 0
  text = capsys.readouterr().out
  assert all(f'--{name}' in text for name in ('export', 'output', 'sample', 'runtime', 'decoder'))
  assert 'not a medical device' in text
