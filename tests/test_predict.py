"""The command that segments scans: what it writes, what it refuses, what never leaves a scan."""

import csv
import errno
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from data_prep import phantom, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import device, files, model_folder, predict
from thrifty_jax.errors import InputError
from thrifty_jax.predicting import segment
from thrifty_jax.scans import pictures

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
RANGES = {
  'slices': [2, 60],
  'slice_spacing_mm': [1, 9],
  'pixel_spacing_mm': [0.1, 9],
  'field_of_view_mm': [1, 900],
}


@pytest.fixture(scope='module')
def config():
  found = configs.default()
  found.data.classes = ('background', 'liver', 'left kidney')
  found.data.image_size = 16
  found.model.update({'channels': 4, 'depth': 2})
  found.augment.flip_left_right = True
  return found


@pytest.fixture(scope='module')
def trained(tmp_path_factory, random_model, config):
  """A model folder; nobody may change it."""
  return random_model(tmp_path_factory.mktemp('trained') / 'model', config, training_scans=RANGES)


@pytest.fixture(scope='module')
def two_channels(tmp_path_factory, random_model, config):
  config = config.copy_and_resolve_references()
  config.data.modalities = 2
  return random_model(tmp_path_factory.mktemp('two') / 'model', config)


def write_scan(path, *, number=0, orientation='SPL'):
  path.parent.mkdir(parents=True, exist_ok=True)
  made = phantom.make_scan(patient=number, seed=0)
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, orientation)
  SimpleITK.WriteImage(image, str(path))
  return path


@pytest.fixture
def folder(tmp_path):
  """Three scans, each stored in another way."""
  for number, (name, way) in enumerate((('a.nii.gz', 'SPL'), ('b.mha', 'IAR'), ('c.nrrd', 'LIP'))):
    write_scan(tmp_path / 'scans' / name, number=number, orientation=way)
  return tmp_path / 'scans'


def command(trained, place, output, *more):
  return predict.main([f'--model={trained}', f'--input={place}', f'--output={output}', *more])


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def load(path) -> Any:
  return nibabel.load(path)


def test_a_folder_of_scans_becomes_a_folder_of_masks_on_their_grids(
  trained, folder, tmp_path, capsys
):
  assert command(trained, folder, tmp_path / 'masks') == 0
  assert names(tmp_path / 'masks') == ['a.nii.gz', 'b.nii.gz', 'c.nii.gz', 'classes.json']
  segmenter = predict.load_model(trained)
  for scan in folder.iterdir():
    image = SimpleITK.ReadImage(str(scan))
    mask = SimpleITK.ReadImage(str(tmp_path / 'masks' / f'{scan.name[0]}.nii.gz'))
    assert mask.GetPixelID() == SimpleITK.sitkUInt8
    for get in ('GetSize', 'GetSpacing', 'GetDirection', 'GetOrigin'):
      np.testing.assert_allclose(getattr(mask, get)(), getattr(image, get)(), atol=1e-4)
    # The same by the array and where its axes point, in the order D, H, W of the array.
    direction = np.eye(4)
    direction[:3, :3] = np.diag((-1, -1, 1)) @ np.reshape(image.GetDirection(), (3, 3))
    axes = nibabel.aff2axcodes(direction)
    expected = segmenter.segment(
      SimpleITK.GetArrayFromImage(image),
      image.GetSpacing()[::-1],
      axes=''.join(map(str, axes[::-1])),
    )
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask), expected)
  about = files.read_json(tmp_path / 'masks' / 'classes.json')
  assert about['classes'] == {'0': 'background', '1': 'liver', '2': 'left kidney'}
  assert about['models'] == [{'weights_sha256': model_folder.load(trained).sha256}]
  assert 'not a medical device' in about['note']
  printed = capsys.readouterr()
  for text in (
    'research use only',
    'parameters; liver, left kidney',
    '3 scans',
    'done      3 of 3',
  ):
    assert text in printed.out
  assert 'predict: 3 of 3' in printed.err


@pytest.mark.parametrize('output', ['m.nii', 'm.nii.gz', 'm.mha', 'm.nrrd'])
def test_one_scan_becomes_one_file_of_the_format_that_its_name_says(
  trained, folder, tmp_path, output
):
  assert command(trained, folder / 'b.mha', tmp_path / 'new' / output) == 0
  assert names(tmp_path / 'new') == sorted(['m.json', output])
  mask, scan = (
    SimpleITK.ReadImage(str(path)) for path in (tmp_path / 'new' / output, folder / 'b.mha')
  )
  assert mask.GetSize() == scan.GetSize()
  np.testing.assert_allclose(mask.GetDirection(), scan.GetDirection(), atol=1e-6)


@pytest.mark.parametrize(('format_', 'ending'), [('metaimage', '.mha'), ('nrrd', '.nrrd')])
def test_the_format_of_a_folder_of_masks_is_the_one_asked_for(
  trained, folder, tmp_path, format_, ending
):
  assert command(trained, folder / 'a.nii.gz', tmp_path / 'masks', f'--format={format_}') == 0
  assert names(tmp_path / 'masks') == [f'a{ending}', 'classes.json']


def test_probabilities_and_overlays_lie_beside_the_masks(trained, folder, tmp_path):
  place = folder / 'c.nrrd'
  assert (
    command(trained, place, tmp_path / 'masks', '--probabilities', '--overlays', '--preview') == 0
  )
  assert names(tmp_path / 'masks') == [
    *('c.nii.gz', 'c_overlay.png', 'c_preview.png', 'c_probability_1.nii.gz'),
    *('c_probability_2.nii.gz', 'classes.json'),
  ]
  mask = load(tmp_path / 'masks' / 'c.nii.gz')
  shares = [load(tmp_path / 'masks' / f'c_probability_{k}.nii.gz') for k in (1, 2)]
  for share in shares:
    assert share.get_data_dtype() == np.float32
    np.testing.assert_array_equal(share.affine, mask.affine)
  values = np.stack([np.asarray(share.dataobj) for share in shares])
  every = np.concatenate([1 - values.sum(axis=0, keepdims=True), values])
  top = np.sort(every, axis=0)
  clear = top[-1] - top[-2] > 1e-3
  np.testing.assert_array_equal(every.argmax(0)[clear], np.asarray(mask.dataobj)[clear])
  assert clear.mean() > 0.9
  with Image.open(tmp_path / 'masks' / 'c_overlay.png') as picture:
    assert min(picture.size) > 200 and not picture.info
    whole = picture.size
  with Image.open(tmp_path / 'masks' / 'c_preview.png') as picture:
    assert picture.width > 4 * 200 and picture.height < whole[1]  # one row


def write_picture(path, *, side=40, grey=False):
  """A picture with a bright disc; in colours red has it, and blue a ramp."""
  rows, columns = np.indices((side, side + 8))
  disc = np.where((rows - 18) ** 2 + (columns - 20) ** 2 < 90, 220, 30)
  pixels = disc if grey else np.stack([disc, 3 * rows, 4 * columns], axis=-1)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.astype(np.uint8)).save(path)
  return path


@pytest.fixture(scope='module')
def of_pictures(tmp_path_factory, random_model, config):
  """A model of pictures in colours."""
  config = config.copy_and_resolve_references()
  config.data.update({'modalities': 3, 'unit': 'pixels'})
  ranges = RANGES | {'field_of_view_mm': [40, 60]}
  place = tmp_path_factory.mktemp('pictures') / 'model'
  return random_model(place, config, training_scans=ranges)


def test_a_channel_of_a_picture_alone_is_told_which_names_are_expected(
  of_pictures, tmp_path, capsys
):
  path = tmp_path / 'scans' / 'a_dapi.png'
  path.parent.mkdir()
  Image.fromarray(np.eye(9, dtype=np.uint8)).save(path)
  assert command(of_pictures, path.parent, tmp_path / 'masks') == 2
  assert 'CASE_0000, CASE_0001, ... in the order of the channels' in capsys.readouterr().err


def test_a_folder_of_pictures_becomes_masks_overlays_and_probabilities_of_their_size(
  of_pictures, tmp_path, capsys
):
  place = write_picture(tmp_path / 'scans' / 'a.png').parent
  write_picture(place / 'b.JPG', side=48)
  more = ('--probabilities', '--overlays', '--statistics')
  assert command(of_pictures, place, tmp_path / 'masks', *more) == 0
  assert 'unlike' not in capsys.readouterr().out
  beside = ['_overlay.png', '_probability_1.tif', '_probability_2.tif']
  assert names(tmp_path / 'masks') == sorted(
    [f'{name}{end}' for name in 'ab' for end in ('.png', *beside)]
    + ['classes.json', 'statistics.csv']
  )
  segmenter = predict.load_model(of_pictures)
  for name, scan in (('a', 'a.png'), ('b', 'b.JPG')):
    with Image.open(place / scan) as picture:
      pixels = np.asarray(picture)
    expected = segmenter.segment_picture(pixels)
    mask = pictures.read_mask(tmp_path / 'masks' / f'{name}.png', pictures.Legend(classes=3))[0]
    np.testing.assert_array_equal(mask, expected)
    with Image.open(tmp_path / 'masks' / f'{name}.png') as written:
      assert written.mode == 'P'
      np.testing.assert_array_equal(np.asarray(written), expected)  # indices are class numbers
    shares = [
      np.asarray(Image.open(tmp_path / 'masks' / f'{name}_probability_{k}.tif')) for k in (1, 2)
    ]
    assert shares[0].dtype == np.float32 and shares[0].shape == expected.shape
    every = np.stack([1 - shares[0] - shares[1], *shares])
    clear = np.diff(np.sort(every, axis=0)[1:], axis=0)[0] > 1e-3
    np.testing.assert_array_equal(every.argmax(0)[clear], expected[clear])
    with Image.open(tmp_path / 'masks' / f'{name}_overlay.png') as drawn:
      assert drawn.size == (pixels.shape[1], pixels.shape[0]) and drawn.mode == 'RGB'
  with (tmp_path / 'masks' / 'statistics.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [(row['scan'], row['class']) for row in rows] == [
    (name, of_class) for name in 'ab' for of_class in ('liver', 'left kidney')
  ]
  assert int(rows[2]['pixels']) == (expected == 1).sum()


@pytest.mark.parametrize('output', ['m.png', 'm.tif', 'm.TIFF'])
def test_a_picture_becomes_one_file_of_the_format_that_its_name_says(of_pictures, tmp_path, output):
  place = write_picture(tmp_path / 'a.png')
  assert command(of_pictures, place, tmp_path / 'new' / output) == 0
  (written,) = [path for path in (tmp_path / 'new').iterdir() if path.suffix != '.json']
  with Image.open(place) as picture, Image.open(written) as mask:
    assert mask.size == picture.size and np.asarray(mask).dtype == np.uint8
    assert np.asarray(mask).max() <= 2


UNFIT = {
  'a picture for a model of volumes': ('model', 'a.png', 'm.png', '', 'is a picture, but the'),
  'a volume for a model of pictures': ('pictures', 'a.nii.gz', 'm.nii', '', 'is a volume, but the'),
  'a mask of a volume': ('pictures', 'a.png', 'm.nii.gz', '', 'is a picture, whose mask'),
  'a format of volumes': ('pictures', 'a.png', 'm', '--format=nrrd', '--format=nrrd: '),
  'a mask of a picture': ('model', 'a.nii.gz', 'm.png', '', 'is a volume, whose mask'),
  'a mask that blurs': ('pictures', 'a.png', 'm.jpg', '', 'or a file ending in .nii.gz'),
  'a grey one': ('pictures', 'grey.png', 'm.png', '', 'the picture has 1 channel(s)'),
  'a picture over itself': ('pictures', 'a.png', 'a.png', '', 'is a scan of the input'),
}


@pytest.mark.parametrize('name', UNFIT)
def test_what_does_not_fit_a_model_of_pictures_is_one_line_and_nothing_written(
  name, trained, of_pictures, tmp_path, monkeypatch, capfd
):
  model, place, output, option, message = UNFIT[name]
  monkeypatch.chdir(tmp_path)
  write_picture(Path('a.png'))
  write_picture(Path('grey.png'), grey=True)
  write_scan(Path('a.nii.gz'))
  before = sorted(tmp_path.rglob('*'))
  chosen = {'model': trained, 'pictures': of_pictures}[model]
  assert command(chosen, place, output, *filter(None, [option])) == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith('predict: ')]
  assert len(lines) == 1 and message in lines[0], lines
  assert sorted(tmp_path.rglob('*')) == before


def test_arrays_and_kinds_of_models_are_not_mixed_up(trained, of_pictures):
  with pytest.raises(InputError, match='use segment_picture'):
    predict.load_model(of_pictures).segment(np.ones((2, 3, 4)), (1, 1, 1))
  with pytest.raises(InputError, match='trained on volumes'):
    predict.load_model(trained).segment_picture(np.ones((3, 4)))
  with pytest.raises(InputError, match=r'\[H, W\] or \[H, W, 3\]'):
    predict.load_model(of_pictures).segment_picture(np.ones(4))


def test_channels_in_files_and_on_the_last_axis_give_the_same_mask(two_channels, tmp_path):
  phantom_folders.write_nnunet(tmp_path / 'nnunet', patients=2, seed=0)
  images = tmp_path / 'nnunet' / 'imagesTr'
  assert command(two_channels, images, tmp_path / 'masks') == 0
  cases = ['scan_000', 'scan_001', 'scan_002']
  assert names(tmp_path / 'masks') == ['classes.json', *(f'{case}.nii.gz' for case in cases)]
  four_axes = tmp_path / 'four_axes'
  four_axes.mkdir()
  for case in cases:
    channels = [load(images / f'{case}_000{k}.nii.gz') for k in (0, 1)]
    stacked = np.stack([np.asarray(one.dataobj) for one in channels], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stacked, channels[0].affine), four_axes / f'{case}.nii.gz')
  assert command(two_channels, four_axes, tmp_path / 'masks_4') == 0
  assert command(two_channels, images / 'scan_001_0000.nii.gz', tmp_path / 'one.nii.gz') == 0
  for case in cases:
    first, second = (load(tmp_path / name / f'{case}.nii.gz') for name in ('masks', 'masks_4'))
    np.testing.assert_array_equal(first.dataobj, second.dataobj)
  one = load(tmp_path / 'one.nii.gz')
  expected = load(tmp_path / 'masks' / 'scan_001.nii.gz')
  np.testing.assert_array_equal(one.dataobj, expected.dataobj)


def test_folds_are_averaged_and_flips_are_said(random_model, config, folder, tmp_path, capsys):
  for fold in range(2):
    random_model(tmp_path / 'run' / f'fold_{fold}' / 'model', config, seed=fold)
  place = folder / 'a.nii.gz'
  assert command(tmp_path / 'run', place, tmp_path / 'm.nii.gz', '--flips') == 0
  assert '2 models averaged' in (printed := capsys.readouterr().out)
  assert 'left_right: those that the training saw' in printed
  assert len(files.read_json(tmp_path / 'm.json')['models']) == 2
  listed = ','.join(str(tmp_path / 'run' / f'fold_{fold}' / 'model') for fold in range(2))
  assert command(listed, place, tmp_path / 'n.nii.gz', '--flips') == 0
  assert (tmp_path / 'm.nii.gz').read_bytes() == (tmp_path / 'n.nii.gz').read_bytes()


# --- nothing of a patient leaves


TAGS = {
  '0010|0010': 'Appleseed^Johanna',
  '0010|0020': 'ID-47110815',
  '0010|0030': '19610203',
  '0008|0050': 'ACC-08154711',
  '0008|0080': 'Hospital of Anytown',
  '0008|0090': 'Referring^Physician',
  '0008|103e': 'Series of Johanna',
  '0020|4000': 'Comment on Johanna',
}
# None is so short that compressed voxels contain it by chance.
SECRETS = (
  *('Appleseed', 'Johanna', '47110815', '19610203', '08154711', 'Anytown', 'Physician'),
  '1125.77',
)


def write_series(folder):
  """A DICOM series that is full of names."""
  folder.mkdir(parents=True)
  made = phantom.make_scan(patient=0, seed=0)
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, 'SPL')
  direction = image.GetDirection()
  writer = SimpleITK.ImageFileWriter()
  writer.KeepOriginalImageUIDOn()
  for d in range(image.GetDepth()):
    plane = image[:, :, d]
    position = image.TransformIndexToPhysicalPoint((0, 0, d))
    tags = TAGS | {
      '0008|0060': 'MR',
      '0020|0013': str(d + 1),
      '0020|000d': '1.2.826.0.1.3680043.2.1125.77',
      '0020|000e': '1.2.826.0.1.3680043.2.1125.77.1',
      '0020|0032': '\\'.join(f'{x:.6f}' for x in position),
      '0020|0037': '\\'.join(f'{direction[i]:g}' for i in (0, 3, 6, 1, 4, 7)),
    }
    for tag, value in tags.items():
      plane.SetMetaData(tag, value)
    writer.SetFileName(str(folder / f'{d:03d}.dcm'))
    writer.Execute(plane)
  return folder


@pytest.mark.parametrize('format_', predict.FORMATS[:3])  # those of volumes
def test_no_name_of_a_dicom_series_leaves_it(trained, tmp_path, capfd, format_):
  series = write_series(tmp_path / 'study' / 'case7')
  assert b'Appleseed^Johanna' in (series / '000.dcm').read_bytes()
  (tmp_path / 'study' / 'bad').mkdir()
  broken = (series / '000.dcm').read_bytes()[:-50]  # what is said of it holds no name either
  (tmp_path / 'study' / 'bad' / '000.dcm').write_bytes(broken)
  more = ('--probabilities', '--overlays', f'--format={format_}')
  assert command(trained, tmp_path / 'study', tmp_path / 'masks', *more) == 2
  written = list((tmp_path / 'masks').iterdir())
  assert len(written) == 5 and all(path.name.startswith(('case7', 'classes')) for path in written)
  captured = capfd.readouterr()
  assert 'error: bad: ' in captured.err
  texts = [captured.out, captured.err, *(path.name for path in written)]
  for path in written:
    content = path.read_bytes()
    texts.append(content.decode('latin-1'))
    if path.name.endswith('.gz'):
      texts.append(gzip.decompress(content).decode('latin-1'))
    if path.suffix in ('.mha', '.nrrd', '.gz'):
      image = SimpleITK.ReadImage(str(path))
      texts += [f'{key} {image.GetMetaData(key)}' for key in image.GetMetaDataKeys()]
  for secret in SECRETS:
    assert not any(secret in text for text in texts), secret


def test_a_series_gets_the_mask_of_the_same_scan_in_a_file(trained, tmp_path, capsys):
  series = write_series(tmp_path / 'series')
  plan = pydicom.Dataset()
  plan.SOPClassUID = '1.2.840.10008.5.1.4.1.1.481.3'  # of structures, without an image
  plan.save_as(series / 'plan.dcm', implicit_vr=True, little_endian=True)
  scan = write_scan(tmp_path / 'scan.mha')
  for place in (series, scan):
    assert command(trained, place, tmp_path / f'{place.stem}_mask.nii.gz') == 0
  (line,) = [line for line in capsys.readouterr().out.splitlines() if 'not used' in line]
  assert '1 files or folders there: plan.dcm' in line
  first, second = (load(tmp_path / f'{name}_mask.nii.gz') for name in ('series', 'scan'))
  np.testing.assert_array_equal(first.dataobj, second.dataobj)
  np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)


# --- what goes wrong


def test_a_bad_scan_does_not_stop_the_others(trained, folder, tmp_path, capsys):
  content = (folder / 'a.nii.gz').read_bytes()
  (folder / 'a.nii.gz').write_bytes(content[: len(content) // 2])
  nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6)), np.eye(4)), folder / 'flat.nii.gz')
  assert command(trained, folder, tmp_path / 'masks') == 2
  assert names(tmp_path / 'masks') == ['b.nii.gz', 'c.nii.gz', 'classes.json']
  captured = capsys.readouterr()
  errors = [line for line in captured.err.splitlines() if line.startswith('error: ')]
  assert len(errors) == 2 and 'Traceback' not in captured.err
  assert errors[0].startswith('error: a: ') and 'cannot be read' in errors[0]
  assert errors[1].startswith('error: flat: all voxels of a channel are the same')
  assert 'done      2 of 4' in captured.out


def test_a_fault_in_one_scan_is_status_1_and_does_not_stop_the_others(
  trained, folder, tmp_path, capsys, monkeypatch
):
  find = segment.Segmenter.find

  def faulty(self, volume, **more):
    if volume.case == 'b':
      raise ZeroDivisionError('made up')
    return find(self, volume, **more)

  monkeypatch.setattr(segment.Segmenter, 'find', faulty)
  (folder / 'c.nrrd').write_bytes(b'NRRD0004\n')
  assert command(trained, folder, tmp_path / 'masks') == 1
  assert names(tmp_path / 'masks') == ['a.nii.gz', 'classes.json']
  error = capsys.readouterr().err
  assert 'Traceback' in error and 'error: b: ZeroDivisionError, a fault' in error
  assert 'error: c: ' in error


def fill_up(monkeypatch, name):
  """Lets a disk be full when a file of this name is written."""
  opened = Path.open

  def full(path, *mode, **more):
    if path.name.startswith(f'.{name}.') and path.suffix == '.tmp':
      raise OSError(28, 'No space left on device')
    return opened(path, *mode, **more)

  monkeypatch.setattr(Path, 'open', full)


def test_a_disk_that_is_full_leaves_no_part_of_a_file(
  trained, folder, tmp_path, capsys, monkeypatch
):
  fill_up(monkeypatch, 'b.nii.gz')
  assert command(trained, folder, tmp_path / 'masks', '--probabilities') == 2
  expected = [
    f'{case}{end}.nii.gz' for case in 'ac' for end in ('', '_probability_1', '_probability_2')
  ]
  assert names(tmp_path / 'masks') == [*expected, 'classes.json']
  assert 'b.nii.gz: cannot be written: No space left' in capsys.readouterr().err


def test_figures_that_no_disk_holds_leave_the_masks_and_the_other_lines(
  trained, folder, tmp_path, capsys, monkeypatch
):
  fill_up(monkeypatch, 'statistics.csv')
  (folder / 'c.nrrd').write_bytes(b'NRRD0004\n')
  assert command(trained, folder, tmp_path / 'masks', '--statistics') == 2
  assert names(tmp_path / 'masks') == ['a.nii.gz', 'b.nii.gz', 'classes.json']
  captured = capsys.readouterr()
  errors = [line for line in captured.err.splitlines() if line.startswith('error: ')]
  assert errors[0].startswith('error: c: ') and len(errors) == 2
  assert 'statistics.csv: cannot be written: No space left' in errors[1]
  assert 'done      2 of 3' in captured.out


def interrupt(monkeypatch):
  """Lets Ctrl-C be pressed in the scan b."""
  find = segment.Segmenter.find

  def interrupted(self, volume, **more):
    if volume.case == 'b':
      raise KeyboardInterrupt
    return find(self, volume, **more)

  monkeypatch.setattr(segment.Segmenter, 'find', interrupted)


def test_ctrl_c_says_how_far_it_came_and_what_was_odd(
  trained, folder, tmp_path, capsys, monkeypatch
):
  interrupt(monkeypatch)
  scan = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(8, 9, 150)), None)
  nibabel.save(scan, folder / 'a.nii.gz')
  (folder / 'aa.nii').symlink_to('none')
  assert command(trained, folder, tmp_path / 'masks', '--statistics') == 130
  captured = capsys.readouterr()
  assert 'stopped; 1 of 4 scans are done' in captured.err
  assert 'error: aa: ' in captured.err
  assert 'unsure    a: its header does not say' in captured.out
  assert 'unlike    a: ' in captured.out
  assert names(tmp_path / 'masks') == ['a.nii.gz', 'classes.json', 'statistics.csv']


def test_ctrl_c_and_figures_that_no_disk_holds_are_both_told(
  trained, folder, tmp_path, capsys, monkeypatch
):
  fill_up(monkeypatch, 'statistics.csv')
  interrupt(monkeypatch)
  assert command(trained, folder, tmp_path / 'masks', '--statistics') == 130
  error = capsys.readouterr().err
  assert 'statistics.csv: cannot be written: No space left' in error
  assert 'stopped; 1 of 3 scans are done' in error and 'Traceback' not in error


def test_outputs_that_exist_stop_the_command_before_any_work(
  trained, folder, tmp_path, capsys, monkeypatch
):
  masks = tmp_path / 'masks'
  masks.mkdir()
  (masks / 'a.nii.gz').write_text('mine')
  (masks / 'classes.json').write_text('{"mine": true}')
  with monkeypatch.context() as patch:
    patch.setattr(segment.Segmenter, 'find', None)
    assert command(trained, folder, masks) == 2
  assert '2 of the files to be written exist already' in capsys.readouterr().err
  assert names(masks) == ['a.nii.gz', 'classes.json']
  assert (masks / 'a.nii.gz').read_text() == 'mine'
  assert command(trained, folder, masks, '--overwrite') == 0
  assert load(masks / 'a.nii.gz').get_data_dtype() == np.uint8
  # Further masks of the same model may join them.
  write_scan(tmp_path / 'more' / 'd.nii.gz', number=3)
  assert command(trained, tmp_path / 'more', masks) == 0
  assert 'd.nii.gz' in names(masks)


def test_a_scan_that_fails_keeps_no_mask_of_another_model(
  trained, random_model, config, folder, tmp_path
):
  assert command(trained, folder, tmp_path / 'masks') == 0
  other = random_model(tmp_path / 'other', config, seed=1)
  (folder / 'b.mha').write_bytes(b'')
  assert command(other, folder, tmp_path / 'masks', '--overwrite') == 2
  assert names(tmp_path / 'masks') == ['a.nii.gz', 'c.nii.gz', 'classes.json']


def test_a_scan_unlike_the_training_is_told_and_segmented_all_the_same(
  trained, random_model, config, folder, tmp_path, capsys
):
  assert command(trained, folder / 'a.nii.gz', tmp_path / 'plain.nii.gz') == 0
  assert '  unlike ' not in capsys.readouterr().out
  narrow = RANGES | {'slices': [40, 60], 'pixel_spacing_mm': [7, 8]}
  other = random_model(tmp_path / 'other', config, training_scans=narrow)
  assert command(other, folder / 'a.nii.gz', tmp_path / 'm.nii.gz') == 0
  printed = capsys.readouterr().out
  assert 'unlike    a: 8 slices, in training 40 to 60' in printed
  assert 'in training 7 to 8 mm' in printed and 'check these masks' in printed
  with pytest.warns(UserWarning, match='in training 40 to 60'):
    predict.load_model(other).segment(np.random.default_rng(0).normal(size=(8, 9, 9)), (3, 7, 7))


def altered(place):
  shutil.copytree(place['model'], 'altered')
  with open('altered/weights.safetensors', 'ab') as file:
    file.write(b'!')


def newer(place):
  shutil.copytree(place['model'], 'newer')
  spec = files.read_json('newer/preprocessing.json')
  files.write_json('newer/preprocessing.json', spec | {'version': spec['version'] + 1})


def empty(place):
  Path('nothing').mkdir()


def flat_file(place):
  nibabel.save(nibabel.Nifti1Image(np.ones((4, 5)), np.eye(4)), 'flat.nii.gz')


def flat_itk(place):
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 5), np.uint8)), 'flat.nrrd')


def one_of_two_channels(place):
  write_scan(Path('pair') / 'a_0000.nii.gz')


def both_channels(place):
  nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6, 2)), np.eye(4)), 'both.nii.gz')


def closed(place):
  Path('closed').mkdir()

  def refuse(dir):
    assert dir.name == 'closed'
    raise PermissionError(errno.EACCES, 'Permission denied')

  place['patch'].setattr(files.tempfile, 'TemporaryFile', refuse)


def nothing(place):
  del place


GOOD = {'model': '{model}', 'input': '{scans}/a.nii.gz', 'output': 'm.nii.gz'}
BAD = {
  'no model': (nothing, {'model': ''}, '--model is missing'),
  'no input': (nothing, {'input': ''}, '--input is missing'),
  'no output': (nothing, {'output': ''}, '--output is missing'),
  'an unknown flag': (nothing, {'modle': 'x'}, "'modle'"),
  'no value': (nothing, {'batch_size': 'many'}, '--batch_size=many'),
  'a batch of nothing': (nothing, {'batch_size': '0'}, '--batch_size=0'),
  'no memory': (nothing, {'memory_budget_mb': '0'}, '--memory_budget_mb=0'),
  'an unknown device': (nothing, {'device': 'quantum'}, '--device=quantum'),
  'a device that is not there': (
    nothing,
    {'device': 'tpu'},
    "--device is 'tpu', but JAX finds only",
  ),
  'an unknown format': (nothing, {'format': 'jpeg'}, '--format=jpeg'),
  'a format that is another': (nothing, {'format': 'nrrd'}, 'does not end as --format=nrrd does'),
  'a model that is not there': (nothing, {'model': 'none'}, 'none: there is no model'),
  'a model that was altered': (altered, {'model': 'altered'}, 'is not the file that was saved'),
  'a newer model': (newer, {'model': 'newer'}, 'update thrifty_jax'),
  'an input that is not there': (nothing, {'input': 'none'}, '--input=none: there is no such file'),
  'an empty folder': (empty, {'input': 'nothing', 'output': 'm'}, 'nothing: holds no scan'),
  'a text': (empty, {'input': '{model}/card.md'}, 'card.md: is no volume'),
  'a picture in two dimensions': (flat_file, {'input': 'flat.nii.gz'}, 'has 2 dimensions'),
  'another one': (flat_itk, {'input': 'flat.nrrd'}, 'has 2 dimensions'),
  'a channel too many': (both_channels, {'input': 'both.nii.gz'}, 'has 2 channel(s), but'),
  'a channel too few': (
    nothing,
    {'model': '{two}'},
    'has 1 channel(s), but the model was trained on 2',
  ),
  'a missing channel': (
    one_of_two_channels,
    {'model': '{two}', 'input': 'pair', 'output': 'm'},
    'a has the channels 0000; the model expects 0000, 0001',
  ),
  'a file for many masks': (nothing, {'input': '{scans}'}, 'is a folder of scans'),
  'an unknown ending': (
    nothing,
    {'output': 'm.mhd'},
    'expected a folder, or a file ending in .nii.gz',
  ),
  'a file as a folder': (nothing, {'output': '{model}/card.md'}, 'is a file already'),
  'a folder as a file': (lambda place: Path('m.nii.gz').mkdir(), {}, 'is a folder already'),
  'masks among the scans': (nothing, {'input': '{scans}', 'output': '{scans}'}, 'lies in a folder'),
  'a mask over its scan': (nothing, {'output': '{scans}/a.nii.gz'}, 'is a scan of the input'),
  'a folder that cannot be written': (closed, {'output': 'closed/m'}, 'closed cannot be written'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_one_clear_line_status_2_and_nothing_written(
  name, trained, two_channels, folder, tmp_path, monkeypatch, capfd
):
  make, changes, message = BAD[name]
  monkeypatch.chdir(tmp_path)
  with monkeypatch.context() as patch:
    make({'model': trained, 'patch': patch})
    before = sorted(tmp_path.rglob('*'))
    values = {
      flag: value.format(model=trained, two=two_channels, scans=folder)
      for flag, value in (GOOD | changes).items()
    }
    assert predict.main([f'--{flag}={value}' for flag, value in values.items()]) == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith('predict: ')]
  assert len(lines) == 1 and lines[0].startswith('error: ') and message in lines[0], lines
  assert len(lines[0]) < 500
  assert sorted(tmp_path.rglob('*')) == before


def test_an_argument_without_a_name_is_refused(capsys):
  assert predict.main(['scan.nii.gz']) == 2
  assert "unexpected argument 'scan.nii.gz'" in capsys.readouterr().err


def test_a_budget_of_memory_makes_the_batch_smaller(trained, folder, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(segment, 'planned_bytes', lambda member, size: size * 2**20)
  more = ('--memory_budget_mb=3', '--batch_size=8')
  assert command(trained, folder / 'a.nii.gz', tmp_path / 'm.nii.gz', *more) == 0
  assert 'batch     3 slices' in capsys.readouterr().out


def test_the_device_is_prepared_before_any_weight_is_loaded(trained, folder, tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(device, 'prepare', lambda config: calls.append(config.device))
  monkeypatch.setattr(segment, 'load_model', lambda *_, **__: calls.append('loaded') or 1 / 0)
  assert command(trained, folder, tmp_path / 'masks', '--device=cpu') == 1
  assert calls == ['cpu', 'loaded']


_LEAN = """
import sys
from thrifty_jax import predict
assert predict.main(["--help"]) == 0
assert predict.main(["--model=x", "--input=/none", "--output=y"]) == 2
assert "jax" not in sys.modules
from thrifty_jax.predicting import outputs, segment
from thrifty_jax import logbook, device
heavy = {"tensorflow_datasets", "orbax", "optax", "matplotlib", "pandas"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_help_and_mistakes_come_without_jax_and_work_without_what_only_training_needs():
  done = subprocess.run([sys.executable, '-c', _LEAN], capture_output=True, text=True, cwd=PROJECT)
  assert done.returncode == 0, done.stderr
  for text in ('or: python -m thrifty_jax.predict', *(f'--{name}' for name in GOOD)):
    assert text in done.stdout
  for text in ('--flips', '--overlays', '--probabilities', 'Exit status', 'Research use only'):
    assert text in done.stdout


def test_what_stands_beside_the_masks_is_json(trained, folder, tmp_path):
  assert command(trained, folder / 'a.nii.gz', tmp_path / 'm.nii.gz') == 0
  assert list(json.loads((tmp_path / 'm.json').read_text(encoding='utf-8'))) == [
    *('note', 'classes', 'models', 'flips', 'largest_component', 'thrifty_jax')
  ]
