"""The script of an export: the masks of thrifty_jax.predict, without JAX."""

import ast
import contextlib
import gzip
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import export, predict
from thrifty_jax.exporting import runners, segment_onnx
from thrifty_jax.scans import nifti, sources

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


def write_scan(path, *, number=0, orientation='SPL', channels=1):
  """A scan whose intensities are those of no window, with a name in its header."""
  made = phantom.make_scan(patient=number, seed=0)
  image = phantom.itk_image((made.image * 1000).astype(np.int16), made.affine, orientation)
  SimpleITK.WriteImage(image, str(path))
  stored: Any = nibabel.load(path)
  voxels = np.asanyarray(stored.dataobj)
  if channels > 1:
    voxels = np.stack([voxels, *(voxels[::-1] // k for k in range(2, channels + 1))], axis=-1)
  scan = nibabel.Nifti1Image(voxels, stored.affine)
  scan.header['descrip'] = b'Doe^Jane'
  scan.header['aux_file'] = b'Jane'
  nibabel.save(scan, path)
  return path


def load(path) -> Any:
  return nibabel.load(path)


def config_of(**changes):
  config = configs.default()
  config.data.classes = ('background', 'liver', 'left kidney')
  config.data.image_size = 16
  config.model.update({'channels': 4, 'depth': 2})
  config.data.update(changes)
  return config


def exported(random_model, folder, config, **changes):
  """A model and its export."""
  trained = random_model(folder / 'model', config, **changes)
  scans = write_scan(folder / 'check.nii.gz', number=5, channels=config.data.modalities)
  command = [f'--model={trained}', f'--output={folder / "exported"}', f'--scans={scans}']
  assert export.main(command) == 0
  return trained, folder / 'exported'


def script_in(folder) -> Any:
  """The script of an export as a module."""
  spec = importlib.util.spec_from_file_location('exported_segment', folder / 'segment.py')
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  sys.path.insert(0, str(folder))  # as Python does for a script
  try:
    spec.loader.exec_module(module)
  finally:
    sys.path.remove(str(folder))
  return module


def require_the_masks_of_predict(trained, folder, place):
  script = script_in(folder)
  settings, network = script.load(folder)
  scan = load(place)
  mask = script.segment(np.asanyarray(scan.dataobj), scan.affine, settings, network)
  theirs = place.parent / f'mask_{place.name}'
  assert predict.main([f'--model={trained}', f'--input={place}', f'--output={theirs}']) == 0
  wanted = np.asanyarray(load(theirs).dataobj)
  assert len(np.unique(wanted)) > 1
  assert mask.dtype == np.uint8 and (mask == wanted).mean() >= 0.9999


@pytest.fixture(scope='module')
def plain(tmp_path_factory, random_model):
  """A model of one channel and its export; nobody may change them."""
  folder = tmp_path_factory.mktemp('plain')
  return exported(random_model, folder, config_of(), largest_component=['liver'])


@pytest.mark.parametrize('orientation', ['SPL', 'IAR', 'LIP'])
def test_the_masks_are_those_of_predict_whichever_way_a_scan_lies(plain, tmp_path, orientation):
  place = write_scan(tmp_path / 'a.nii.gz', number=1, orientation=orientation)
  trained, folder = plain
  require_the_masks_of_predict(trained, folder, place)


SETTINGS = {
  'several channels and neighbours': ({'modalities': 2, 'context': 1}, {}),
  'a window and padding': (
    {'intensity': 'window', 'window': (-100.0, 700.0), 'slice_axis': 'coronal'},
    {'padding': [800, -100]},
  ),
  'filters': (
    {'clahe_clip_limit': 0.05, 'curvature_flow_iterations': 2, 'resize': 'nearest'},
    {},
  ),
  'windows': ({'reduction': 1.3, 'curvature_flow_iterations': 2}, {}),
  'regions': ({'regions': '1,2,3 2'}, {'largest_component': ['left kidney']}),
  'the other axis': ({'slice_axis': 'sagittal'}, {'largest_component': ['liver', 'left kidney']}),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_the_masks_are_those_of_predict_whatever_the_preparation(random_model, tmp_path, name):
  changes, described = SETTINGS[name]
  config = config_of(**changes)
  trained, folder = exported(random_model, tmp_path, config, **described)
  place = write_scan(tmp_path / 'a.nii.gz', number=2, channels=config.data.modalities)
  require_the_masks_of_predict(trained, folder, place)


def run_script(folder, *arguments, place):
  """The script in a process in which JAX cannot be imported."""
  (place / 'blocked').mkdir(exist_ok=True)
  for name in ('jax', 'flax', 'thrifty_jax', 'data_prep', 'skimage', 'SimpleITK'):
    (place / 'blocked' / f'{name}.py').write_text('raise ImportError("blocked")')
  environment = os.environ | {'PYTHONPATH': str(place / 'blocked')}
  return subprocess.run(
    [sys.executable, folder / 'segment.py', *arguments],
    capture_output=True,
    text=True,
    cwd=place,
    env=environment,
    timeout=120,
  )


def test_a_command_without_jax_writes_a_mask_with_the_geometry_of_its_scan_and_no_name(
  plain, tmp_path
):
  trained, folder = plain
  scan = write_scan(tmp_path / 'a.nii.gz', orientation='LIP')
  done = run_script(folder, 'a.nii.gz', 'm.nii.gz', '--threads=1', place=tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'research use only, not a medical device' in done.stderr
  mask, header = load(tmp_path / 'm.nii.gz'), load(tmp_path / 'm.nii.gz').header
  np.testing.assert_array_equal(mask.affine, load(scan).affine)
  assert mask.get_data_dtype() == np.uint8 and mask.shape == load(scan).shape
  assert b'Jane' not in header.binaryblock and b'not a medical device' in header.binaryblock
  wanted = tmp_path / 'w.nii.gz'
  assert predict.main([f'--model={trained}', f'--input={scan}', f'--output={wanted}']) == 0
  np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(load(wanted).dataobj))
  again = run_script(folder, 'a.nii.gz', 'm.nii.gz', place=tmp_path)
  assert again.returncode == 2 and '--overwrite' in again.stderr


def test_channels_in_files_of_their_own_give_the_mask_of_one_file_and_must_share_a_grid(
  random_model, tmp_path, monkeypatch, capsys
):
  trained, folder = exported(random_model, tmp_path, config_of(modalities=2))
  both = load(write_scan(tmp_path / 'both.nii.gz', channels=2))
  paths = [str(tmp_path / f'a_{k}.nii.gz') for k in range(2)]
  for k, path in enumerate(paths):
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(both.dataobj)[..., k], both.affine), path)
  script, mask = script_in(folder), tmp_path / 'm.nii.gz'
  monkeypatch.setattr(sys, 'argv', ['segment.py', *paths, str(mask)])
  script.main()
  wanted = tmp_path / 'w.nii.gz'
  command = [f'--model={trained}', f'--input={tmp_path / "both.nii.gz"}', f'--output={wanted}']
  assert predict.main(command) == 0
  np.testing.assert_array_equal(np.asarray(load(mask).dataobj), np.asarray(load(wanted).dataobj))
  nibabel.save(nibabel.Nifti1Image(np.asanyarray(both.dataobj)[..., 1], np.eye(4)), paths[1])
  monkeypatch.setattr(sys, 'argv', ['segment.py', *paths, str(tmp_path / 'n.nii.gz')])
  with pytest.raises(SystemExit) as stopped:
    script.main()
  assert stopped.value.code == 2 and f'{paths[1]}: lies up to ' in capsys.readouterr().err
  assert not (tmp_path / 'n.nii.gz').exists()
  monkeypatch.setattr(sys, 'argv', ['segment.py', *paths, str(tmp_path / 'nowhere' / 'n.nii.gz')])
  with pytest.raises(SystemExit):
    script.main()
  assert 'nowhere is no folder; make it, or name another' in capsys.readouterr().err


GRIDS = {  # of two channels: voxel sizes, and what is changed; the error, '' if they are one scan
  'mirrored in micrometres': (0.004, {(0, 0): -0.004}, r'lies up to 0.024 mm .* are 0.004 mm'),
  'off by two voxels': (0.004, {(0, 3): 0.008}, r'lies up to 0.008 mm away from a_0000'),
  'off at the end alone': (0.5, {(0, 0): 0.6}, r'lies up to 0.3 mm away'),
  'rounded': (0.4, {(0, 3): 0.02}, ''),
}


@pytest.mark.parametrize('name', GRIDS)
def test_channels_are_on_one_grid_by_the_rule_of_predict(tmp_path, name):
  side, changes, text = GRIDS[name]
  affine = np.diag((side, side, side, 1))
  paths = [tmp_path / f'a_{number:04d}.nii' for number in range(2)]
  for path in paths:
    voxels = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    for place, value in changes.items():
      affine[place] = value
  if text:
    with pytest.raises(segment_onnx.InputError, match=f'a_0001.nii: {text}'):
      segment_onnx.read_channels(paths, {})
    return
  _, found, voxels = segment_onnx.read_channels(paths, {})
  wanted, theirs = sources.read_channels(paths)
  np.testing.assert_array_equal(voxels, wanted.swapaxes(0, 2))
  np.testing.assert_array_equal(found[:, [2, 1, 0, 3]], theirs)


@pytest.mark.parametrize(
  ('names', 'is_scan'),
  [
    (['a_0000.nii.gz', 'a_0001.nii'], True),
    (['a.b_0000.nii.gz', 'a.b_0001.nii.gz'], True),
    (['t1.nii.gz', 't2.nii.gz'], True),
    (['T1_0012.nii.gz', 'FLAIR_0012.nii.gz'], True),
    (['T1_0000.nii.gz', 'FLAIR.nii.gz'], True),
    (['a_0001.nii.gz'], True),
    (['a_0001.nii.gz', 'a_0000.nii.gz'], False),
    (['a_0000.nii.gz', 'b_0001.nii.gz'], False),
    (['a_0000.NII.GZ', 'a_0002.nii.gz'], False),
  ],
)
def test_channels_that_are_numbered_are_those_of_one_case_in_order(
  tmp_path, monkeypatch, names, is_scan
):
  channel = nifti.Nifti(None, np.eye(4), np.zeros((4, 5, 6)))
  monkeypatch.setattr(segment_onnx, 'read', lambda path, _: channel)
  monkeypatch.setattr(segment_onnx.unreadable, 'report_unreadable', contextlib.nullcontext)
  paths = [tmp_path / name for name in names]
  if is_scan:
    assert segment_onnx.read_channels(paths, {})[2].shape[3:] == ((2,) if paths[1:] else ())
    return
  with pytest.raises(segment_onnx.InputError, match=r'channels are .*; expected a_0000, a_0001$'):
    segment_onnx.read_channels(paths, {})


def test_a_header_that_does_not_say_where_its_axes_point_is_told(
  plain, tmp_path, monkeypatch, capsys
):
  scan = write_scan(tmp_path / 'a.nii.gz')
  content = bytearray(raw(scan))
  struct.pack_into('<2h', content, 252, 0, 0)  # qform_code and sform_code
  (tmp_path / 'b.nii').write_bytes(content)
  for path, told in ((scan, False), (tmp_path / 'b.nii', True)):
    assert run_main(plain[1], monkeypatch, path, tmp_path / f'{path.stem}_mask.nii') == 0
    line = f'{path}: its header does not say where its axes point; x, y, z are taken to point to L'
    assert (line in capsys.readouterr().err) == told


def test_a_scan_that_no_mask_can_be_made_of_is_refused(plain):
  script = script_in(plain[1])
  settings, network = script.load(plain[1])
  for voxels, text in (
    (np.ones((4, 5, 6, 2)), 'channels'),
    (np.ones((4, 5, 6)), 'voxels of a channel are the same'),
    (np.linspace(1e9, 1e9 + 1, 120).reshape(4, 5, 6), 'are the same'),  # in float32
    (np.full((4, 5, 6), np.nan), 'non-finite'),
  ):
    with pytest.raises(script.InputError, match=text):
      script.segment(voxels, np.eye(4), settings, network)


TRAINING_SCANS = {
  'slices': [20, 30],
  'slice_spacing_mm': [3, 3],
  'pixel_spacing_mm': [0.5, 0.5],
  'field_of_view_mm': [8, 10],
  'intensity_0_p50': [0.3, 0.6],
}
UNLIKE = {  # shape (D, H, W), spacing, range of intensities, and the line; none if it is like them
  'like them': ((20, 16, 18), (3, 0.5, 0.5), (0, 1), ''),
  'nearly like them': ((16, 16, 16), (3.5, 0.5, 0.5), (0.1, 0.9), ''),
  'few slices': ((5, 16, 16), (3, 0.5, 0.5), (0, 1), '5 slices, in training 20 to 30'),
  'many slices': ((70, 16, 16), (3, 0.5, 0.5), (0, 1), '70 slices, in training 20 to 30'),
  'far slices': ((20, 16, 16), (7, 0.5, 0.5), (0, 1), 'slices 7 mm apart, in training 3 to 3'),
  'large pixels': ((20, 9, 9), (3, 1, 1), (0, 1), 'pixels of 1 mm, in training 0.5 to 0.5'),
  'a part': ((20, 6, 6), (3, 0.5, 0.5), (0, 1), 'a field of view of 3 mm, in training 8 to 10'),
  'bright': ((20, 16, 16), (3, 0.5, 0.5), (0.9, 1), 'channel 0: 50 % of its intensities lie bel'),
  'dark': ((20, 16, 16), (3, 0.5, 0.5), (0, 0.1), 'channel 0: 50 % of its intensities lie bel'),
  'thick along another axis': (
    (20, 16, 20), (0.5, 3, 0.5), (0, 1), 'it was taken in thick slices that are not axial'
  ),
}  # fmt: skip


def lines_about(capsys, shape, spacing, *, orientation='SPL', intensities=(0, 1), **changes):
  """What is printed of a scan [D, H, W] of axial slices, by a network that finds nothing."""
  settings = {
    **{'modalities': 1, 'slice_axis': 'axial', 'padding': None, 'context': 0, 'image_size': 16},
    **{'intensity': 'window', 'window': (0, 1), 'resize': 'linear', 'clahe_clip_limit': 0},
    **{'curvature_flow_iterations': 0, 'largest_component': [], 'training_scans': TRAINING_SCANS},
  }
  low, high = intensities
  stored = np.random.default_rng(0).uniform(low, high, shape)
  lies = np.diag((*spacing, 1.0))[[2, 1, 0, 3]] * [[-1], [-1], [1], [1]]  # axes to head, back, left
  voxels, affine = phantom.turn(stored, lies, orientation)
  segment_onnx.segment(
    voxels.transpose(),
    affine[:, [2, 1, 0, 3]],
    settings | changes,
    lambda image: np.concatenate([1 + 0 * image, 0 * image], axis=1),
  )
  return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize('orientation', ['SPL', 'LIP'])
@pytest.mark.parametrize('name', UNLIKE)
def test_a_scan_unlike_those_of_the_training_is_told(capsys, name, orientation):
  """However its file lies."""
  shape, spacing, intensities, text = UNLIKE[name]
  lines = lines_about(capsys, shape, spacing, orientation=orientation, intensities=intensities)
  assert all(
    line.startswith('unlike the scans of the training, check the mask: ') for line in lines
  )
  assert bool(lines) == bool(text)
  assert not text or text in lines[0]


@pytest.mark.parametrize(
  ('axis', 'spacing', 'told'),
  [
    ('axial', (3, 0.5, 0.5), False),
    ('axial', (0.5, 0.75, 0.5), True),
    ('coronal', (3, 0.5, 0.5), True),
    ('coronal', (0.5, 3, 0.5), False),
    ('sagittal', (0.5, 3, 0.5), True),
    ('sagittal', (0.5, 0.5, 3), False),
  ],
)
def test_thick_slices_should_lie_as_those_of_the_training_did(capsys, axis, spacing, told):
  lines = lines_about(capsys, (20, 18, 16), spacing, slice_axis=axis)
  text = f'it was taken in thick slices that are not {axis}, as those in training were'
  assert any(text in line for line in lines) == told
  assert any('thick' in line for line in lines) == told


def raw(scan):
  return gzip.decompress(scan.read_bytes())


def altered(scan, at, form, *values):
  """A scan as bytes, with other numbers in its header."""
  content = bytearray(raw(scan))
  struct.pack_into(f'<{form}', content, at, *values)
  return bytes(content)


SAME = {  # of the scan as bytes: what has the same mask
  'a.nii.gz': lambda scan: altered(scan, 108, 'f', 0),  # where voxels begin, and not compressed
  'a.nii': lambda scan: gzip.compress(altered(scan, 40, '5h', 5, *shape_of(scan), 1)),
  'micrometres.nii': lambda scan: altered(scan, 123, 'B', 3),
  'gap.nii': lambda scan: altered(scan, 108, 'f', 368)[:352] + bytes(16) + raw(scan)[352:],
  'padded.nii.gz': lambda scan: gzip.compress(altered(scan, 108, 'f', 352)) + bytes(99),
}


def shape_of(scan):
  return load(scan).shape


@pytest.mark.parametrize('name', SAME)
def test_it_reads_scans_as_predict_does(plain, tmp_path, monkeypatch, name):
  script, scan = script_in(plain[1]), write_scan(tmp_path / 'scan.nii.gz', number=1)
  masks = []
  for path, content in ((scan, scan.read_bytes()), (tmp_path / name, SAME[name](scan))):
    path.write_bytes(content)
    mask = tmp_path / f'mask_of_{path.name}'
    monkeypatch.setattr(sys, 'argv', ['segment.py', str(path), str(mask)])
    script.main()
    masks.append(np.asanyarray(load(mask).dataobj))
  np.testing.assert_array_equal(*masks)
  assert len(np.unique(masks[0])) > 1


REFUSED = {
  'vox_offset 100; expected >= 352': lambda scan: altered(scan, 108, 'f', 100),
  'scl_slope inf': lambda scan: altered(scan, 112, 'f', np.inf),
  'xyzt_units 7': lambda scan: altered(scan, 123, 'B', 7),
  'sform_code -3': lambda scan: altered(scan, 254, 'h', -3),
  'expected': lambda scan: altered(scan, 42, 'h', 3),
  'no valid spacing and direction': lambda scan: altered(scan, 280, '4f', 0, 0, 0, 0),
  'has no header of a NIfTI file': lambda scan: b'notes' * 100,
  'Compressed file ended before': lambda scan: scan.read_bytes()[:-9],
}  # fmt: skip


@pytest.mark.parametrize('text', REFUSED)
def test_a_scan_whose_header_cannot_be_right_is_refused(plain, tmp_path, monkeypatch, capsys, text):
  path, mask = tmp_path / 'a.nii', tmp_path / 'm.nii'
  path.write_bytes(REFUSED[text](write_scan(tmp_path / 'scan.nii.gz')))
  monkeypatch.setattr(sys, 'argv', ['segment.py', str(path), str(mask)])
  with pytest.raises(SystemExit) as stopped:
    script_in(plain[1]).main()
  last = capsys.readouterr().err.splitlines()[-1]
  assert stopped.value.code == 2 and f'{path}: ' in last and text in last
  assert not mask.exists()


@pytest.mark.parametrize('kind', [np.complex64, np.complex128, 'RGB', 'RGBA'])
def test_voxels_that_are_no_numbers_are_refused(plain, tmp_path, monkeypatch, capsys, kind):
  voxels = [(letter, 'u1') for letter in kind] if isinstance(kind, str) else kind
  nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 7), voxels), np.eye(4)), tmp_path / 'a.nii')
  script = script_in(plain[1])
  monkeypatch.setattr(sys, 'argv', ['segment.py', str(tmp_path / 'a.nii'), str(tmp_path / 'm.nii')])
  with pytest.raises(SystemExit) as stopped:
    script.main()
  assert stopped.value.code == 2 and 'expected one number for each' in capsys.readouterr().err
  settings, network = script.load(plain[1])
  with pytest.raises(script.InputError, match='not one number for each'):
    script.segment(np.zeros((9, 8, 7), voxels), np.eye(4), settings, network)


def test_the_script_is_short():
  assert len(Path(segment_onnx.__file__).read_text(encoding='utf-8').splitlines()) <= 260


def altered_voxels(scan, place, *, at, value, dtype=np.float32):
  """Writes a copy of a scan with one value in the voxels `at`."""
  voxels = np.asarray(load(scan).dataobj, dtype)
  voxels[at] = value
  nibabel.save(nibabel.Nifti1Image(voxels, load(scan).affine), place)
  return place


NOT_FINITE = {  # voxels, value, type of the file, and whether --nan_is_lowest helps
  'NaN outside the head': (np.s_[:5], np.nan, np.float32, True),
  'NaN in one voxel': (np.s_[3, 4, 5], np.nan, np.float64, True),
  'infinite': (np.s_[:5], np.inf, np.float32, False),
  'infinite below': (np.s_[2, 2], -np.inf, np.float64, False),
  'beyond float32': (np.s_[2, 2], 1e39, np.float64, False),
}


@pytest.mark.parametrize('name', NOT_FINITE)
def test_voxels_without_a_value_are_treated_as_by_predict(
  plain, tmp_path, monkeypatch, capsys, name
):
  (trained, folder), (at, value, dtype, mended) = plain, NOT_FINITE[name]
  made = write_scan(tmp_path / 'made.nii.gz', number=1)
  scan = altered_voxels(made, tmp_path / 'a.nii.gz', at=at, value=value, dtype=dtype)
  script = script_in(folder)

  def run(which, mask, *options, scan=scan):
    """Returns the exit status and the last line that was printed."""
    mask = tmp_path / mask
    if which == 'predict':
      command = [f'--model={trained}', f'--input={scan}', f'--output={mask}', *options]
      status = predict.main(command)
    else:
      monkeypatch.setattr(sys, 'argv', ['segment.py', str(scan), str(mask), *options])
      try:
        status = script.main() or 0
      except SystemExit as stopped:
        status = stopped.code
    assert mask.exists() == (status == 0)
    out, err = capsys.readouterr()
    told = 'NaN       is the lowest value' in out or 'voxels are NaN and taken as' in err
    assert told == (status == 0 and bool(options)) or status == 2
    return status, err.strip().rpartition('\n')[2]

  for which in ('predict', 'script'):
    status, line = run(which, 'none.nii.gz')
    assert status == 2 and f'{"a" if which == "predict" else scan}: ' in line
    assert 'NaN or infinite; ' in line and ('--nan_is_lowest' in line) == mended
    status, line = run(which, f'{which}.nii.gz', '--nan_is_lowest')
    assert (status, 'NaN or infinite; export it' in line) == ((0, False) if mended else (2, True))
  if not mended:
    return
  lowest = np.nanmin(np.asarray(load(scan).dataobj))
  filled = altered_voxels(scan, tmp_path / 'b.nii.gz', at=at, value=lowest, dtype=dtype)
  run('predict', 'wanted.nii.gz', scan=filled)
  wanted, theirs, ours = (
    np.asarray(load(tmp_path / f'{mask}.nii.gz').dataobj)
    for mask in ('wanted', 'predict', 'script')
  )
  np.testing.assert_array_equal(theirs, wanted)
  np.testing.assert_array_equal(ours, wanted)


def test_nan_of_each_channel_is_its_own_lowest_value():
  voxels = np.array([[np.nan, 10], [1, np.nan], [2, 20]]).reshape(1, 1, 3, 2)
  filled = segment_onnx.fill(voxels).reshape(3, 2)
  np.testing.assert_array_equal(filled, [[1, 10], [1, 10], [2, 20]])


COLOURS = ('#000000', '#20c040', '#ff8000')


def write_picture(path, *, mode='RGB', shape=(41, 54)):
  """A picture with a bright disc in red, and ramps."""
  rows, columns = np.indices(shape)
  disc = np.where((rows - 18) ** 2 + (columns - 20) ** 2 < 90, 220, 30)
  pixels = np.stack([disc, 5 * rows, 4 * columns], axis=-1).astype(np.uint8)
  if path.stem == 'without_blue':
    pixels[..., 2] = 0
  Image.fromarray(pixels).convert(mode).save(path)
  return path


@pytest.fixture(scope='module')
def of_pictures(tmp_path_factory, random_model):
  """A model of pictures in windows and its export; nobody may change them."""
  folder = tmp_path_factory.mktemp('pictures')
  config = config_of(modalities=3, unit='pixels', reduction=1.3, colours=COLOURS)
  ranges = {name: [1, 1] for name in ('slices', 'slice_spacing_mm', 'pixel_spacing_mm')}
  ranges['field_of_view_mm'] = [50, 60]
  trained = random_model(folder / 'model', config, training_scans=ranges)
  scans = write_picture(folder / 'check.png')
  command = [f'--model={trained}', f'--output={folder / "exported"}', f'--scans={scans}']
  assert export.main(command) == 0
  return trained, folder / 'exported'


def run_main(folder, monkeypatch, *arguments):
  """Runs the script of an export in this process; returns its exit status."""
  monkeypatch.syspath_prepend(folder)
  monkeypatch.setattr(sys, 'argv', ['segment.py', *map(str, arguments)])
  try:
    return script_in(folder).main() or 0
  except SystemExit as stopped:
    return stopped.code


PICTURES = {  # file: mode and shape
  'a.png': ('RGB', (41, 54)),
  'alpha.png': ('RGBA', (41, 54)),
  'palette.png': ('P', (41, 54)),
  'a.tif': ('RGB', (41, 54)),
  'a.JPG': ('RGB', (54, 41)),
  'a.bmp': ('RGB', (54, 15)),  # narrower than a window
  'a.gif': ('P', (41, 54)),
  'large.png': ('RGB', (41, 130)),  # unlike the training
  'without_blue.png': ('RGB', (41, 54)),
}


@pytest.mark.parametrize('name', PICTURES)
def test_the_mask_of_a_picture_is_the_file_that_predict_writes(
  of_pictures, tmp_path, monkeypatch, capsys, name
):
  (trained, folder), (mode, shape) = of_pictures, PICTURES[name]
  scan = write_picture(tmp_path / name, mode=mode, shape=shape)
  ours, theirs = tmp_path / 'ours.png', tmp_path / 'theirs.png'
  assert run_main(folder, monkeypatch, scan, ours) == 0
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('unlike')]
  assert [line.rpartition(': ')[2] for line in lines] == (
    ['130 pixels on the longer side, in training 50 to 60'] if name == 'large.png' else []
  )
  assert predict.main([f'--model={trained}', f'--input={scan}', f'--output={theirs}']) == 0
  assert ours.read_bytes() == theirs.read_bytes()
  with Image.open(ours) as mask:
    assert mask.size == shape[::-1] and len(np.unique(np.asarray(mask))) > 1


def test_pictures_in_grey_are_channels_of_one_scan(of_pictures, tmp_path, monkeypatch, capsys):
  trained, folder = of_pictures
  ours, theirs = tmp_path / 'ours.png', tmp_path / 'theirs.png'
  with Image.open(write_picture(tmp_path / 'a.png')) as picture:
    scans = [tmp_path / f'a_{k:04d}.png' for k in range(3)]
    for band, path in zip(picture.split(), scans, strict=True):
      band.save(path)
  assert run_main(folder, monkeypatch, *scans, ours) == 0
  assert predict.main([f'--model={trained}', f'--input={scans[0]}', f'--output={theirs}']) == 0
  assert ours.read_bytes() == theirs.read_bytes()
  write_picture(scans[2], mode='L', shape=(41, 50))
  assert run_main(folder, monkeypatch, *scans, tmp_path / 'none.png') == 2
  assert 'a_0002.png: has (50, 41, 1) voxels along its axes' in capsys.readouterr().err
  assert not (tmp_path / 'none.png').exists()


UNFIT = {  # which export, scan, mask, and the last words of the error
  'a picture for a network of volumes': ('plain', 'a.png', 'm.nii', 'header of a NIfTI file'),
  'a volume for a network of pictures': ('pictures', 'a.nii.gz', 'm.png', 'is no picture (.png'),
  'a picture in grey': ('pictures', 'grey.png', 'm.png', 'channels, not 3'),
  'a picture that is transparent': ('pictures', 'clear.png', 'm.png', 'has transparent pixels'),
  'a picture that is cut off': ('pictures', 'cut.png', 'm.png', 'cannot be read'),
  'none': ('pictures', 'none.png', 'm.png', 'no such file'),
  'a mask that blurs': ('pictures', 'a.png', 'm.jpg', 'expected a mask ending in .png'),
  'a mask of a picture as a volume': ('pictures', 'a.png', 'm.nii', 'ending in .png'),
  'a mask of a volume as a picture': ('plain', 'a.nii.gz', 'm.png', 'ending in .nii or .nii.gz'),
}


@pytest.mark.parametrize('name', UNFIT)
def test_what_does_not_fit_the_network_is_one_line(
  plain, of_pictures, tmp_path, monkeypatch, capsys, name
):
  which, scan, mask, text = UNFIT[name]
  scan, mask = tmp_path / scan, tmp_path / mask
  if scan.name == 'a.nii.gz':
    write_scan(scan)
  elif scan.name != 'none.png':
    write_picture(scan, mode='L' if scan.name == 'grey.png' else 'RGB')
  if scan.name == 'clear.png':
    with Image.open(scan) as picture:
      picture.putalpha(99)
      picture.save(scan)
  if scan.name == 'cut.png':
    scan.write_bytes(scan.read_bytes()[:-60])
  folder = (plain if which == 'plain' else of_pictures)[1]
  assert run_main(folder, monkeypatch, scan, mask) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert 'error: ' in last and tmp_path.name in last and text in last
  assert not mask.exists()


def test_a_mask_never_replaces_its_scan(of_pictures, tmp_path, monkeypatch, capsys):
  scan = write_picture(tmp_path / 'a.png')
  before = scan.read_bytes()
  (tmp_path / 'other name.png').hardlink_to(scan)  # as A.png is where capitals are small letters
  (tmp_path / 'link.png').symlink_to(scan)
  for same in ('other name.png', 'link.png', f'../{tmp_path.name}/a.png'):
    assert run_main(of_pictures[1], monkeypatch, scan, tmp_path / same, '--overwrite') == 2
    assert 'is a scan; name another' in capsys.readouterr().err and scan.read_bytes() == before


def test_a_package_that_is_missing_is_one_line(of_pictures, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'pictures', None)
  scan = write_picture(tmp_path / 'a.png')
  assert run_main(of_pictures[1], monkeypatch, scan, tmp_path / 'm.png') == 2
  assert 'install the packages that README.md names' in capsys.readouterr().err.splitlines()[-1]
  page = (of_pictures[1] / 'README.md').read_text('utf-8')
  for text in ('onnxruntime pillow tifffile\n', 'segment.py PICTURE', 'over 1.3', 'every 8 pixels'):
    assert text in page


def test_a_package_that_only_some_networks_need_is_named_too(
  random_model, tmp_path, monkeypatch, capsys
):
  filters = {'clahe_clip_limit': 0.05, 'curvature_flow_iterations': 2}
  _, folder = exported(random_model, tmp_path, config_of(**filters))
  assert 'onnxruntime scikit-image SimpleITK\n' in (folder / 'README.md').read_text('utf-8')
  for package in ('skimage', 'SimpleITK'):
    with monkeypatch.context() as patch:
      patch.setitem(sys.modules, package, None)
      assert run_main(folder, patch, tmp_path / 'check.nii.gz', tmp_path / 'm.nii') == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert package in last and last.endswith('install the packages that README.md names')
  assert not (tmp_path / 'm.nii').exists()


AGAIN = '; copy the whole export again'
UNREADABLE = {  # file of the export: its content, or None if it is gone, and words of the last line
  'model.onnx': (None, 'model.onnx: cannot be read', AGAIN),
  'preprocessing.json': (b'{"format": ', 'preprocessing.json: cannot be read', AGAIN),
  'preprocessing.json ': (b'{}', "cannot be read ('files')", AGAIN),
  'model.onnx ': (b'another', 'is not the network that preprocessing.json describes', AGAIN),
  'model_int8.onnx': (b'no network', 'model_int8.onnx: is not of this export', 'has model.onnx'),
}


@pytest.mark.parametrize('name', UNREADABLE)
def test_an_export_that_cannot_be_read_is_one_line(plain, tmp_path, monkeypatch, capsys, name):
  folder, (content, text, ends) = tmp_path / 'exported', UNREADABLE[name]
  shutil.copytree(plain[1], folder)
  name = name.strip()
  (folder / name).unlink(missing_ok=True)
  if content:
    (folder / name).write_bytes(content)
  model = name if name.endswith('.onnx') else 'model.onnx'
  scan, mask = write_scan(tmp_path / 'a.nii.gz'), tmp_path / 'm.nii'
  assert run_main(folder, monkeypatch, scan, mask, f'--model={model}') == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert 'segment.py: error: ' in last and text in last and last.endswith(ends)


@pytest.mark.parametrize('place', ['./', '/'])
def test_a_network_may_be_named_by_its_path(plain, place):
  model = f'{plain[1]}/model.onnx' if place == '/' else './model.onnx'
  assert segment_onnx.load(plain[1], model)[0]['files'].keys() == {'model.onnx'}


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_a_runtime_that_is_missing_is_one_line(plain, tmp_path, monkeypatch, capsys, runtime):
  monkeypatch.setitem(sys.modules, runtime, None)
  scan = write_scan(tmp_path / 'a.nii.gz')
  command = (f'--runtime={runtime}', scan, tmp_path / 'm.nii')
  assert run_main(plain[1], monkeypatch, *command) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert runtime in last and 'install the packages that README.md names' in last


def test_openvino_gives_the_masks_of_onnx_runtime(plain, tmp_path):
  pytest.importorskip('openvino')
  scan, masks = write_scan(tmp_path / 'a.nii.gz'), []
  for runtime in runners.RUNTIMES:
    mask = tmp_path / f'{runtime}.nii'
    command = [sys.executable, plain[1] / 'segment.py', f'--runtime={runtime}', scan, mask]
    subprocess.run([*map(str, command)], check=True)
    masks.append(np.asarray(load(mask).dataobj))
  assert masks[0].any() and np.mean(masks[0] == masks[1]) > 0.999


@pytest.mark.parametrize('kind', ['plain', 'of_pictures'])
@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_mask_that_cannot_be_written_leaves_nothing(
  request, tmp_path, monkeypatch, capsys, kind, error
):
  """And an older mask as it is."""
  folder = request.getfixturevalue(kind)[1]

  def fail(mask, place, **_):
    place.write_bytes(b'half')
    raise error

  monkeypatch.setattr(nibabel, 'save', fail)
  if kind == 'plain':
    scan, mask = tmp_path / 'a.nii.gz', tmp_path / 'm.nii'
    shutil.copy(folder.parent / 'check.nii.gz', scan)
  else:
    scan, mask = write_picture(tmp_path / 'a.png'), tmp_path / 'm.png'
    monkeypatch.setattr(Image.Image, 'save', fail)
  mask.write_bytes(b'old')
  if isinstance(error, KeyboardInterrupt):
    with pytest.raises(KeyboardInterrupt):
      run_main(folder, monkeypatch, scan, mask, '--overwrite')
  else:
    assert run_main(folder, monkeypatch, scan, mask, '--overwrite') == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f'{mask}: cannot be written (No space left on device)' in last
  assert {path.name for path in tmp_path.iterdir()} == {scan.name, mask.name}
  assert mask.read_bytes() == b'old'


def test_an_export_imports_nothing_of_this_program(of_pictures):
  """But for what only types are taken from."""
  beside = {path.stem for path in of_pictures[1].glob('*.py')}
  assert {'pictures', 'picture_file', 'segment'} <= beside
  installed = {'nibabel', 'numpy', 'onnxruntime', 'PIL', 'scipy', 'tifffile'}
  optional = {'openvino', 'skimage', 'SimpleITK'}
  for name in sorted(beside):
    tree = ast.parse((of_pictures[1] / f'{name}.py').read_text('utf-8'))
    typed = {
      one
      for node in ast.walk(tree)
      if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
      for one in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - typed:
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      roots = {str(one).partition('.')[0] for one in names}
      assert roots <= beside | installed | optional | set(sys.stdlib_module_names), name
