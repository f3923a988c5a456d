"""A scan in a file gets, in Python, the mask that the command writes, on the grid of the file."""

import warnings
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

import thrifty_jax as tj
from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import predict

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
RANGES = {'slices': [50, 60], 'slice_spacing_mm': [1, 9], 'pixel_spacing_mm': [0.1, 9]}


@pytest.fixture(scope='module')
def models(tmp_path_factory, random_model):
  """Folders of a model of volumes and of one of pictures in grey, by their unit."""
  found = {}
  for unit in ('mm', 'pixels'):
    config = configs.default()
    config.data.update({'classes': ('background', 'liver'), 'image_size': 16, 'unit': unit})
    config.model.update({'channels': 4, 'depth': 2})
    more = {'training_scans': RANGES | {'field_of_view_mm': [1, 900]}} if unit == 'mm' else {}
    found[unit] = random_model(tmp_path_factory.mktemp(unit) / 'model', config, **more)
  return found


@pytest.fixture
def scan(tmp_path):
  """A scan, stored feet first and from the back."""
  made = phantom.make_scan(patient=0, seed=0)
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, 'IAR')
  SimpleITK.WriteImage(image, str(tmp_path / 'scan.nii.gz'))
  return tmp_path / 'scan.nii.gz'


def test_a_file_gets_the_mask_that_the_command_writes(models, scan, tmp_path):
  folder = models['mm']
  written = tmp_path / 'by_command.nii.gz'
  options = [f'--model={folder}', f'--input={scan}', f'--output={written}', '--device=cpu']
  assert predict.main([*options, '--overlays']) == 0
  with pytest.warns(UserWarning, match='scan is unlike those of the training: .*slices'):
    found = tj.load_model(folder).segment_file(scan)
  assert len({*np.unique(found.mask)}) == 2
  saved = found.save(tmp_path / 'saved.nii.gz')
  assert saved.read_bytes() == written.read_bytes()
  drawn = found.draw(tmp_path / 'drawn.png')
  assert drawn.read_bytes() == (tmp_path / 'by_command_overlay.png').read_bytes()
  with Image.open(found.draw(tmp_path / 'few.png', slices=3)) as few:
    assert few.width == 3 * 228 + 4
  stored: Any = nibabel.load(scan)
  assert found.mask.shape == stored.shape[::-1]
  written_again: Any = nibabel.load(saved)
  np.testing.assert_array_equal(found.mask.T, written_again.get_fdata())
  assert found.classes == ('background', 'liver')
  (line,) = found.warnings
  assert 'slices' in line and '\n' not in repr(found) and len(repr(found)) < 400


def test_a_picture_gets_a_mask_of_its_size(models, tmp_path):
  rows, columns = np.indices((24, 30))
  picture = np.where((rows - 9) ** 2 + (columns - 9) ** 2 < 60, 200, 20).astype(np.uint8)
  Image.fromarray(picture).save(tmp_path / 'picture.png')
  model = tj.load_model(models['pixels'])
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    found = model.segment_file(str(tmp_path / 'picture.png'))
    expected = model.segment_picture(picture)
  np.testing.assert_array_equal(found.mask, expected)
  with Image.open(found.save(tmp_path / 'mask.png')) as saved:
    np.testing.assert_array_equal(np.asarray(saved), expected)
  with pytest.raises(tj.InputError, match='mask of a picture is a file ending in .png'):
    found.save(tmp_path / 'mask.nii.gz')
  for write in (found.save, found.draw):
    with pytest.raises(tj.InputError, match='is the scan itself'):
      write(tmp_path / 'picture.png')
  with pytest.raises(tj.InputError, match='mask.png: cannot be written: '):
    found.save(tmp_path / 'picture.png' / 'mask.png')


def test_a_picture_is_drawn_as_the_command_draws_it_and_only_as_long_as_it_is_the_same(
  models, tmp_path
):
  picture = np.random.default_rng(0).integers(0, 255, (24, 30), np.uint8)
  Image.fromarray(picture).save(tmp_path / 'picture.png')
  options = [f'--input={tmp_path}/picture.png', f'--output={tmp_path}/by_command.png']
  assert predict.main([f'--model={models["pixels"]}', *options, '--overlays', '--device=cpu']) == 0
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    found = tj.load_model(models['pixels']).segment_file(tmp_path / 'picture.png')
  drawn = found.draw(tmp_path / 'drawn.png')
  assert drawn.read_bytes() == (tmp_path / 'by_command_overlay.png').read_bytes()
  with pytest.raises(tj.InputError, match='drawn.jpg: the picture of a mask is a file ending in'):
    found.draw(tmp_path / 'drawn.jpg')
  with pytest.raises(tj.InputError, match='slices is 0; expected a whole number from 1'):
    found.draw(drawn, slices=0)
  Image.fromarray(picture[:20]).save(tmp_path / 'picture.png')
  before = drawn.read_bytes()
  with pytest.raises(tj.InputError, match='the file has changed: segment it again'):
    found.draw(drawn)
  assert drawn.read_bytes() == before


def test_what_is_not_one_scan_for_the_model_is_refused(models, scan, tmp_path):
  model = tj.load_model(models['mm'])
  (tmp_path / 'other.nii.gz').write_bytes(scan.read_bytes())
  with pytest.raises(tj.InputError, match='holds 2 scans, other among them; name one'):
    model.segment_file(tmp_path)
  with pytest.raises(tj.InputError, match='no such file or folder'):
    model.segment_file(tmp_path / 'nowhere.nii.gz')
  with pytest.raises(tj.InputError, match='is a volume, but the model was trained on pictures'):
    tj.load_model(models['pixels']).segment_file(scan)


def test_nan_is_refused_unless_it_is_the_lowest_value(models, scan, tmp_path):
  stored: Any = nibabel.load(scan)
  voxels = stored.get_fdata().astype(np.float32)
  voxels[:2] = np.nan
  nibabel.save(nibabel.Nifti1Image(voxels, stored.affine), tmp_path / 'nan.nii.gz')
  model = tj.load_model(models['mm'])
  with pytest.raises(tj.InputError, match='nan.nii.gz'):
    model.segment_file(tmp_path / 'nan.nii.gz')
  with pytest.warns(UserWarning, match='unlike'):
    found = model.segment_file(tmp_path / 'nan.nii.gz', nan_is_lowest=True)
  assert found.mask.shape == voxels.shape[::-1]


def test_a_model_is_shown_in_one_line(models):
  text = repr(tj.load_model([models['mm'], models['mm']]))
  assert text.count('parameters') == 2 and 'background, liver' in text
  assert '\n' not in text and len(text) < 200


def test_each_scan_of_a_loop_has_its_warning(models, scan):
  model = tj.load_model(models['mm'])
  with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('default')  # as Python comes: once for each text and place
    for _ in range(2):
      model.segment_file(scan)
  assert [one.filename for one in seen if 'unlike' in str(one.message)] == [__file__] * 2


def test_how_axes_are_taken_that_a_header_does_not_tell_is_a_warning(models, tmp_path, capsys):
  made: Any = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 8)), None)
  made.header.set_zooms((3, 3, 3))
  nibabel.save(made, tmp_path / 'scan.nii')
  line = 'its header does not say where its axes point; x, y, z are taken to point to L, A, S'
  with pytest.warns(UserWarning) as seen:
    found = tj.load_model(models['mm']).segment_file(tmp_path / 'scan.nii')
  assert str(seen[0].message).startswith(f'scan: {line}') and found.warnings[0].startswith(line)
  assert [one.filename for one in seen] == [__file__] * len(seen)
  places = [f'--input={tmp_path / "scan.nii"}', f'--output={tmp_path / "m.nii"}']
  assert predict.main([f'--model={models["mm"]}', *places]) == 0
  (told,) = [text for text in capsys.readouterr().out.splitlines() if line in text]
  assert told.split() == f'unsure scan: {line}: check that they do'.split()
