"""Scans found in files and folders of any format, and read with their geometry."""

import errno
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import phantom_chaos
import pydicom
import pytest
from handmade_nifti import GEOMETRY, content
from PIL import Image

from data_prep import dicom_folder, phantom
from data_prep.folder import read_case
from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures, sources, volumes


def write(path, *shape, affine=None):
  """A NIfTI file of [x, y, z] or [x, y, z, channels]."""
  path.parent.mkdir(parents=True, exist_ok=True)
  voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
  nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
  return path


@pytest.fixture(scope='module')
def series(tmp_path_factory):
  """Two DICOM series, their file names in falling and in rising order of positions."""
  folder = tmp_path_factory.mktemp('series') / 'raw'
  phantom_chaos.write(folder, patients=2, seed=0)
  return [folder / 'Train_Sets' / 'CT' / name / 'DICOM_anon' for name in ('1', '2')]


def found(place, channels=1):
  return {
    one.name: tuple(path.name for path in one.channels)
    for one in sources.find(place, channels=channels)
  }


LAYOUTS = {
  'files of several formats': (1, ['b.nii', 'a.nii.gz'], {'a': ('a.nii.gz',), 'b': ('b.nii',)}),
  'one channel as nnU-Net names it': (
    1,
    ['a_0000.nii.gz', 'b_0000.nii.gz'],
    {'a': ('a_0000.nii.gz',), 'b': ('b_0000.nii.gz',)},
  ),
  'numbered scans of one channel are no channels': (
    1,
    ['a_0000.nii.gz', 'a_0001.nii.gz'],
    {'a_0000': ('a_0000.nii.gz',), 'a_0001': ('a_0001.nii.gz',)},
  ),
  'channels in files': (
    2,
    ['a_0000.nii.gz', 'a_0001.nii.gz', 'b_0001.nii', 'b_0000.nii'],
    {'a': ('a_0000.nii.gz', 'a_0001.nii.gz'), 'b': ('b_0000.nii', 'b_0001.nii')},
  ),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_scans_are_found_by_name(tmp_path, name):
  channels, files, expected = LAYOUTS[name]
  for file in files:
    write(tmp_path / file, 2, 3, 4)
  (tmp_path / '._a.nii.gz').write_bytes(b'\x00')
  (tmp_path / 'notes.txt').write_text('not a scan')
  (tmp_path / 'empty').mkdir()
  assert found(tmp_path, channels) == expected


def test_channels_on_the_fourth_axis_are_a_scan_by_themselves_whatever_its_name(tmp_path):
  write(tmp_path / 'a_0001.nii.gz', 2, 3, 4, 2)
  write(tmp_path / 'b.nii.gz', 2, 3, 4, 2)
  assert found(tmp_path, 2) == {'a_0001': ('a_0001.nii.gz',), 'b': ('b.nii.gz',)}
  volume, _ = sources.read(sources.find(tmp_path / 'b.nii.gz', channels=2)[0])
  assert volume.image.shape == (4, 3, 2, 2)


def test_pictures_in_colours_lose_the_number_that_nnunet_gives_them(tmp_path):
  for name in 'pq':
    draw(tmp_path / f'{name}_0000.png', colours=True)
  assert found(tmp_path, 3) == {'p': ('p_0000.png',), 'q': ('q_0000.png',)}
  assert sources.find(tmp_path / 'q_0000.png', channels=3)[0].name == 'q'
  draw(tmp_path / 'r.png', colours=True)  # then the number may be one of the pictures
  assert [*found(tmp_path, 3)] == ['p_0000', 'q_0000', 'r']


def test_one_file_of_several_channels_brings_the_others(tmp_path):
  for name in ('a_0000', 'a_0001', 'ab_0000', 'c'):
    write(tmp_path / f'{name}.nii.gz', 2, 3, 4)
  (source,) = sources.find(tmp_path / 'a_0001.nii.gz', channels=2)
  assert source.name == 'a' and len(source.channels) == 2
  volume, _ = sources.read(source)
  assert volume.image.shape == (4, 3, 2, 2)


def test_a_missing_channel_is_a_problem_of_its_scan_alone(tmp_path):
  for name in ('a_0000', 'b_0000', 'b_0001', 'c_0000', 'c_0001', 'c_0002'):
    write(tmp_path / f'{name}.nii.gz', 2, 3, 4)
  first, second, third = sources.find(tmp_path, channels=2)
  assert not second.problem
  with pytest.raises(InputError, match='a has the channels 0000; the model expects 0000, 0001'):
    sources.read(first)
  with pytest.raises(InputError, match='c has the channels 0000, 0001, 0002'):
    sources.read(third)


def test_channels_on_different_grids_are_refused(tmp_path):
  write(tmp_path / 'a_0000.nii.gz', 2, 3, 4)
  write(tmp_path / 'a_0001.nii.gz', 2, 3, 4, affine=np.diag((1, 1, 2, 1)))
  write(tmp_path / 'b_0000.nii.gz', 2, 3, 4)
  write(tmp_path / 'b_0001.nii.gz', 2, 3, 5)
  first, second = sources.find(tmp_path, channels=2)
  with pytest.raises(InputError, match='mm away from a_0000'):
    sources.read(first)
  with pytest.raises(InputError, match='expected one grid'):
    sources.read(second)


@pytest.mark.parametrize('unsure', [0, 1])
def test_a_channel_that_may_be_a_mirror_image_of_the_other_is_refused(tmp_path, unsure):
  affine = np.diag((1.0, 1, 1, 1))
  affine[:3, 3] = -0.5, -1, -1.5  # the middle is the origin, as of a file without a form
  sure, other = (write(tmp_path / f'a_000{k}.nii', 2, 3, 4, affine=affine) for k in (0, 1))
  sure, other = (sure, other) if unsure else (other, sure)
  nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.int16), None), other)
  (source,) = sources.find(tmp_path, channels=2)
  message = rf'{other.name}: its header does not say .* that of {sure.name} is clear; expected'
  with pytest.raises(InputError, match=message):
    sources.read(source)
  shutil.copy(other, sure)
  assert 'taken to point to L, A, S' in sources.read(source)[1].unsure


@pytest.mark.parametrize('unsure', [0, 1])
def test_a_channel_that_may_be_one_though_it_lies_half_a_voxel_away_is_refused(tmp_path, unsure):
  affine = np.diag((-1.0, 1, 1, 1))  # as that of a file without a form, but for its place
  affine[:3, 3] = 0.7, -1, -1.5
  paths = [write(tmp_path / f'a_000{k}.nii', 2, 3, 4, affine=affine) for k in (0, 1)]
  nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.int16), None), paths[unsure])
  (source,) = sources.find(tmp_path, channels=2)
  message = rf'a_000{unsure}.nii: its header does not say .* of a_000{1 - unsure}.nii is clear; exp'
  with pytest.raises(InputError, match=message):
    sources.read(source)
  affine[0, 3] = 0.5  # then they are stored alike
  write(paths[1 - unsure], 2, 3, 4, affine=affine)
  assert 'taken to point to L, A, S' in sources.read(source)[1].unsure


def test_a_mask_that_is_mirrored_across_its_only_slice_is_stored_alike(tmp_path):
  nameless = nibabel.Nifti1Image(np.arange(12, dtype=np.int16).reshape(3, 4, 1), None)
  nibabel.save(nameless, tmp_path / 'scan.nii')
  affine = nibabel.Nifti1Image.from_filename(tmp_path / 'scan.nii').affine
  nibabel.save(
    nibabel.Nifti1Image(nameless.get_fdata().astype(np.uint8), affine @ np.diag((1, 1, -1, 1))),
    tmp_path / 'mask.nii',
  )
  case = volumes.Case('a', 'a', (tmp_path / 'scan.nii',), (tmp_path / 'mask.nii',))
  volume = read_case(case)
  np.testing.assert_array_equal(volume.truth, volume.image[..., 0])


@pytest.mark.parametrize('unsure', [0, 1])
def test_a_mask_that_may_be_a_mirror_image_of_its_scan_is_refused(tmp_path, unsure):
  affine = np.diag((1.0, 1, 1, 1))
  affine[:3, 3] = -0.5, -1, -1.5
  paths = [write(tmp_path / f'{name}.nii', 2, 3, 4, affine=affine) for name in ('scan', 'mask')]
  case = volumes.Case('a', 'a', (paths[0],), (paths[1],))
  assert read_case(case).truth.max() == 23
  nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.int16), None), paths[unsure])
  message = rf'{paths[unsure].name}: its header does not say .* that of {paths[1 - unsure]}'
  with pytest.raises(InputError, match=message.replace(str(tmp_path) + '/', '')):
    read_case(case)
  shutil.copy(paths[unsure], paths[1 - unsure])  # then they are stored alike
  assert read_case(case).truth.max() == 1


@pytest.mark.parametrize('unclear', [0, 1])
def test_a_mask_stored_otherwise_beside_a_header_that_contradicts_itself_is_refused(
  tmp_path, unclear
):
  fields, affine = GEOMETRY['two forms apart, mirrored']
  paths = [tmp_path / 'scan.nii', tmp_path / 'mask.nii']
  paths[unclear].write_bytes(content(**fields, slope=1e-9))  # as classes, all of them 0
  case = volumes.Case('a', 'a', (paths[0],), (paths[1],))
  zeros = np.zeros((4, 5, 6), np.int16)
  nibabel.save(nibabel.Nifti1Image(zeros, affine), paths[1 - unclear])
  assert read_case(case).truth.shape == (6, 5, 4)  # as both are stored alike
  mirrored = affine @ np.array([[-1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
  nibabel.save(nibabel.Nifti1Image(zeros, mirrored), paths[1 - unclear])
  message = f'{paths[unclear].name}: its header says two things .*, but that of .* is clear; exp'
  with pytest.raises(InputError, match=message):
    read_case(case)


def test_two_formats_that_say_nothing_of_their_axes_are_refused_where_they_differ(tmp_path):
  scan, mask = tmp_path / 'scan.nii', tmp_path / 'mask.mha'
  nibabel.save(nibabel.Nifti1Image(np.ones((2, 3, 4), np.int16), None), scan)
  text = 'ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\n'
  text += 'Offset = -0.5 -1 -1.5\nElementSpacing = 1 1 1\nElementDataFile = LOCAL\n'
  mask.write_bytes(text.encode() + bytes(24))
  with pytest.raises(InputError, match=r'mask.mha: its header .*, nor is that of scan.nii clear'):
    read_case(volumes.Case('a', 'a', (scan,), (mask,)))


@pytest.mark.parametrize('unsure', [0, 1])
def test_a_channel_made_of_one_that_says_nothing_of_its_axes_lies_voxel_on_voxel(tmp_path, unsure):
  paths = [tmp_path / f'a_000{k}.nii' for k in (0, 1)]
  plain = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), None)
  plain.header.set_zooms((0.3, 0.7, 1.1))
  nibabel.save(plain, paths[unsure])
  loaded: Any = nibabel.load(paths[unsure])
  made = nibabel.Nifti1Image(2 * np.asarray(loaded.dataobj), loaded.affine)
  nibabel.save(made, paths[1 - unsure])
  assert [bool(volumes.find_unsure(path)) for path in paths] == [unsure == 0, unsure == 1]
  image = sources.read(*sources.find(tmp_path, channels=2))[0].image
  np.testing.assert_array_equal(image[..., 1 - unsure], 2 * image[..., unsure])


@pytest.mark.parametrize('orientation', ['IAR', 'SLP', 'PLS', 'RIA', 'LPS'])
def test_a_channel_stored_in_another_order_of_axes_is_turned_as_the_first(tmp_path, orientation):
  made = phantom.make_scan(patient=0, seed=0)
  for number, axes in enumerate(('SPL', orientation)):
    stored, affine = phantom.turn(made.image + 100 * number, made.affine, axes)
    image = nibabel.Nifti1Image(stored.transpose(), affine[:, [2, 1, 0, 3]])
    nibabel.save(image, tmp_path / f'a_000{number}.nii.gz')
  (source,) = sources.find(tmp_path, channels=2)
  image = sources.read(source)[0].image
  np.testing.assert_allclose(image[..., 0], made.image, atol=1e-4)
  np.testing.assert_allclose(image[..., 1], made.image + 100, atol=1e-4)


def test_a_dicom_series_is_read_in_the_order_of_positions_and_named_by_its_folder(series):
  for number, folder in enumerate(series):
    (source,) = sources.find(folder, channels=1)
    assert source.name == 'DICOM_anon'
    volume, grid = sources.read(source)
    made = phantom_chaos.make_scan(patient=number, seed=0, protocol='CT')
    turned = volumes.turn_like(volume.image[..., 0], volume.affine, made.affine)
    tissue = turned < 4000  # beyond is padding
    np.testing.assert_array_equal(turned[tissue], np.round(made.image)[tissue])
    assert 0 < (~tissue).sum() == 4 * len(list(folder.glob('[!.]*')))
    np.testing.assert_array_equal(grid.affine, volume.affine)


@pytest.mark.parametrize('name', ['IM0001', '1.2.840.1', 'a.dcm'])
@pytest.mark.parametrize('implicit', [False, True])
def test_a_slice_without_preamble_and_ending_is_one_of_its_series(series, tmp_path, name, implicit):
  place = shutil.copytree(series[0], tmp_path / 'series')
  path = sorted(place.glob('*.dcm'))[-1]
  slice_, wanted = pydicom.dcmread(path), sources.read_voxels(place)[0]
  path.unlink()
  meta = slice_.file_meta
  slice_.file_meta = pydicom.dataset.FileMetaDataset()
  slice_.preamble = None
  with (place / name).open('wb') as file:
    pydicom.dcmwrite(file, slice_, implicit_vr=implicit, little_endian=True)
  assert meta and b'DICM' not in (place / name).read_bytes()
  np.testing.assert_array_equal(sources.read_voxels(place)[0], wanted)


def test_voxels_that_begin_as_dicom_does_are_no_slice(tmp_path):
  image = phantom.itk_image(np.ones((2, 3, 4), np.int16), np.eye(4), 'LPS')
  phantom_chaos.SimpleITK.WriteImage(image, str(tmp_path / 'a.mhd'))
  (tmp_path / 'a.raw').write_bytes(b'\x08\0\x05\0CS\n\0' + bytes(40))
  assert found(tmp_path) == {'a': ('a.mhd',)}


def test_folders_of_series_lie_beside_files(series, tmp_path):
  for name, folder in zip(('one', 'two'), series, strict=True):
    shutil.copytree(folder, tmp_path / name)
  write(tmp_path / 'three.nii.gz', 2, 3, 4)
  assert found(tmp_path) == {'one': ('one',), 'three': ('three.nii.gz',), 'two': ('two',)}
  for path in (tmp_path / 'one').iterdir():
    path.rename(path.with_suffix(''))  # DICOM is told by its content too
  assert 'one' in found(tmp_path)


def test_slices_of_two_series_or_unreadable_ones_are_refused(series, tmp_path):
  folder = tmp_path / 'both'
  shutil.copytree(series[0], folder)
  shutil.copytree(series[1], folder, dirs_exist_ok=True)
  with pytest.raises(InputError, match='expected slices of one series'):
    sources.read(sources.find(folder, channels=1)[0])
  cut = shutil.copytree(series[1], tmp_path / 'cut')
  last = sorted(cut.iterdir())[-1]
  last.write_bytes(b'no DICOM')  # left out, the scan would lose its last slice
  with pytest.raises(InputError, match=last.name):
    sources.read(sources.find(cut, channels=1)[0])


# By file name: what it is.
WITHOUT_IMAGE = {
  'structures.dcm': '1.2.840.10008.5.1.4.1.1.481.3',
  'plan.DCM': '1.2.840.10008.5.1.4.1.1.481.5',
  'report.dcm': '1.2.840.10008.5.1.4.1.1.88.33',
  'how_to_show.dcm': '1.2.840.10008.5.1.4.1.1.11.1',
  'key_images.ima': '1.2.840.10008.5.1.4.1.1.88.59',
  'no_ending': '1.2.840.10008.5.1.4.1.1.66.1',
  'document.dcm': '1.2.840.10008.5.1.4.1.1.104.1',
  'raw.dcm': '1.3.12.2.1107.5.9.1',
  'dicomdir': '1.2.840.10008.1.3.10',
  'DICOMDIR': '1.2.840.10008.1.3.10',
}


def write_object(path, kind, **tags):
  dataset = pydicom.Dataset()
  dataset.file_meta = pydicom.dataset.FileMetaDataset()
  dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  dataset.file_meta.MediaStorageSOPClassUID = kind
  dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID('1.2.3.4')
  if path.name.lower() != 'dicomdir':
    dataset.SOPClassUID = kind
  for keyword, value in tags.items():
    setattr(dataset, keyword, value)
  dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize('name', WITHOUT_IMAGE)
def test_an_object_without_an_image_beside_a_series_is_passed_over_and_named(
  series, tmp_path, name
):
  place = shutil.copytree(series[0], tmp_path / 'scan')
  wanted, _ = sources.read(sources.find(place, channels=1)[0])
  assert not sources.find_unused(place, sources.find(place, channels=1))
  write_object(place / name, WITHOUT_IMAGE[name])
  for where in (place, tmp_path):
    found = sources.find(where, channels=1)
    np.testing.assert_array_equal(sources.read(found[0])[0].image, wanted.image)
    assert [Path(one).name for one in sources.find_unused(where, found)] == [name]


def test_many_objects_without_an_image_are_counted(series, tmp_path):
  place = shutil.copytree(series[0], tmp_path / 'scan')
  for name, kind in WITHOUT_IMAGE.items():
    write_object(place / name, kind)
  found = sources.find_unused(place, sources.find(place, channels=1))
  left = {*place.iterdir()} - {*sources.slices_of(place)}
  assert {*found} == {path.name for path in left if not path.name.startswith('.')}


@pytest.mark.parametrize(
  ('kind', 'tags', 'name'),
  [
    ('1.2.840.10008.5.1.4.1.1.481.2', {'Rows': 4}, 'RT Dose Storage'),
    ('1.2.840.10008.5.1.4.1.1.7', {'Rows': 4, 'SamplesPerPixel': 3}, 'colour image'),
    ('1.2.840.10008.5.1.4.1.1.2', {'Rows': 4, 'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER']},
     'localizer'),
    ('1.2.840.10008.5.1.4.1.1.2', {}, 'PhotometricInterpretation is None'),
    ('1.2.840.10008.5.1.4.1.1.30', {'Rows': 4}, 'Parametric Map Storage'),
  ],
)  # fmt: skip
def test_another_image_beside_a_series_is_named_and_not_passed_over(
  series, tmp_path, kind, tags, name
):
  place = shutil.copytree(series[0], tmp_path / 'scan')
  write_object(place / 'other.dcm', kind, **tags)
  found = sources.find(place, channels=1)
  assert not sources.find_unused(place, found)
  with pytest.raises(InputError, match=rf'other\.dcm: .*{name}'):
    sources.read(found[0])


def test_a_folder_of_objects_without_an_image_is_no_scan(tmp_path):
  write_object(tmp_path / 'plan.dcm', WITHOUT_IMAGE['plan.DCM'])
  with pytest.raises(InputError, match='holds no scan'):
    sources.find(tmp_path, channels=1)


def missing(place):
  del place


def same_name(place):
  write(place / 'a.nii', 2, 3, 4)
  write(place / 'a.nii.gz', 2, 3, 4)


def one_name_spelled_twice(place):
  for form in ('NFC', 'NFD'):
    write(place / f'{unicodedata.normalize(form, "é")}.nii.gz', 2, 3, 4)


def dicom_and_files(place):
  write(place / 'a.nii.gz', 2, 3, 4)
  (place / 'slice.dcm').write_bytes(b'')


def no_scans(place):
  place.mkdir()
  (place / 'notes.txt').write_text('nothing')


REFUSED = {
  'no such file or folder; expected': missing,
  'has the same name but for its ending': same_name,
  'nii.gz has the same name': one_name_spelled_twice,
  'holds DICOM slices and a.nii.gz': dicom_and_files,
  'holds no scan; expected volumes': no_scans,
}


@pytest.mark.parametrize('message', REFUSED)
def test_a_place_without_scans_that_can_be_told_apart_is_refused(tmp_path, message):
  REFUSED[message](tmp_path / 'place')
  with pytest.raises(InputError, match=message):
    sources.find(tmp_path / 'place', channels=1)


def test_a_file_of_another_format_is_refused(tmp_path):
  path = tmp_path / 'slice.dcm'
  path.write_bytes(b'')
  with pytest.raises(InputError, match='or the folder of a DICOM series'):
    sources.find(path, channels=1)


def test_colours_are_no_intensities(tmp_path):
  colours = np.zeros((2, 3, 4), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
  nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / 'a.nii.gz')
  with pytest.raises(InputError, match='expected one number for each'):
    sources.read(sources.find(tmp_path, channels=1)[0])


def test_axes_without_a_direction_are_refused(tmp_path):
  image: Any = nibabel.Nifti1Image(np.ones((2, 3, 4)), None)
  image.header.set_sform(np.diag((1, 1, 0, 1)), 1)
  nibabel.save(image, tmp_path / 'a.nii.gz')
  with pytest.raises(InputError, match='no valid spacing and direction'):
    sources.read(sources.find(tmp_path, channels=1)[0])


@pytest.mark.parametrize('ending', ['.nii', '.nii.gz'])
def test_a_file_that_is_cut_off_is_an_input_error(tmp_path, ending):
  path = write(tmp_path / f'a{ending}', 20, 30, 40)
  path.write_bytes(path.read_bytes()[:-2000])
  with pytest.raises(InputError, match='cannot be read|are 46000 bytes; expected 48000'):
    sources.read(sources.find(path, channels=1)[0])


@pytest.mark.parametrize(
  ('stray', 'expected'),
  [
    ('notes.txt', ['notes.txt']),
    ('IM0001', ['IM0001']),
    ('deep/deeper/x.nii.gz', ['deep']),
    ('.hidden', []),
    ('a.nii.gz.part', ['a.nii.gz.part']),
    ('loose.zraw', ['loose.zraw']),
  ],
)
def test_what_lies_beside_scans_and_is_not_used_is_named(tmp_path, stray, expected):
  write(tmp_path / 'a.nii.gz', 4, 3, 2)
  (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / stray).write_bytes(b'x')
  scans = sources.find(tmp_path, channels=1)
  assert sources.find_unused(tmp_path, scans) == expected
  assert sources.find_unused(tmp_path / 'a.nii.gz', scans[:1]) == []


def test_a_nested_series_is_named(series, tmp_path):
  shutil.copytree(series[0], tmp_path / 'one')
  shutil.copytree(series[1], tmp_path / 'one' / 'nested')
  (tmp_path / 'one' / 'report.pdf').write_bytes(b'x')
  scans = sources.find(tmp_path, channels=1)
  assert [one.name for one in scans] == ['one']
  assert sources.find_unused(tmp_path, scans) == ['one/nested', 'one/report.pdf']


def draw(path, *, colours=False):
  """A picture of 3 x 4 pixels."""
  pixels = np.arange(36 if colours else 12, dtype=np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.reshape((3, 4, 3) if colours else (3, 4))).save(path)
  return pixels.reshape(1, 3, 4, -1)


def test_each_picture_of_a_folder_is_a_scan_of_one_slice(tmp_path):
  expected = draw(tmp_path / 'a.PNG'), draw(tmp_path / 'b.tif', colours=True)
  draw(tmp_path / '.hidden.png')
  draw(tmp_path / 'deeper' / 'c.png')
  (tmp_path / 'notes.txt').write_text('no picture')
  scans = sources.find(tmp_path, channels=1)
  assert [one.name for one in scans] == ['a', 'b']
  assert sources.find_unused(tmp_path, scans) == ['deeper', 'notes.txt']
  for source, pixels in zip(scans, expected, strict=True):
    volume, grid = sources.read(source)
    np.testing.assert_array_equal(volume.image, pixels)
    assert volume.spacing_mm == (1, 1, 1)
    np.testing.assert_array_equal(grid.affine, pictures.AFFINE)
    assert grid.picture == source.channels[0]
    assert (grid.nifti, grid.itk, grid.series) == (None, None, None)


def test_a_volume_is_no_picture(tmp_path):
  write(tmp_path / 'a.nii.gz', 2, 3, 4)
  assert sources.read(sources.find(tmp_path, channels=1)[0])[1].picture is None


def test_channels_of_a_picture_in_files_are_one_scan(tmp_path):
  pixels = draw(tmp_path / 'a_0000.png')
  draw(tmp_path / 'a_0001.png')
  draw(tmp_path / 'ab_0001.png')
  for place in (tmp_path / 'a_0001.png', tmp_path):
    source = sources.find(place, channels=2)[0]
    assert source.name == 'a' and len(source.channels) == 2
    np.testing.assert_array_equal(
      sources.read(source)[0].image, np.concatenate([pixels] * 2, axis=-1)
    )
  Image.fromarray(np.zeros((4, 3), np.uint8)).save(tmp_path / 'a_0001.png')
  with pytest.raises(InputError, match='expected one grid'):
    sources.read(sources.find(tmp_path / 'a_0001.png', channels=2)[0])


def test_a_picture_in_colours_is_a_scan_by_itself_whatever_its_name(tmp_path):
  draw(tmp_path / 'retina_0001.png', colours=True)
  for place in (tmp_path / 'retina_0001.png', tmp_path):
    (source,) = sources.find(place, channels=3)
    assert source.name == 'retina_0001' and not source.problem
    assert sources.read(source)[0].image.shape == (1, 3, 4, 3)


def test_pictures_beside_volumes_or_a_series_are_previews(series, tmp_path):
  place = tmp_path / 'volumes'
  write(place / 'a.nii.gz', 2, 3, 4)
  draw(place / 'a.png')
  draw(place / 'b.jpg')
  scans = sources.find(place, channels=1)
  assert [one.channels[0].name for one in scans] == ['a.nii.gz']
  assert sources.find_unused(place, scans) == ['a.png', 'b.jpg']
  folder = shutil.copytree(series[0], tmp_path / 'series' / 'one')
  draw(folder / 'preview.png')
  draw(tmp_path / 'series' / 'preview.png')
  for place, unused in ((folder, []), (folder.parent, ['preview.png'])):
    scans = sources.find(place, channels=1)
    assert [one.name for one in scans] == ['one']
    unused = sorted([*unused, 'preview.png' if place == folder else 'one/preview.png'])
    assert sorted(sources.find_unused(place, scans)) == unused


def test_one_name_in_two_formats_of_pictures_is_refused(tmp_path):
  draw(tmp_path / 'a.png')
  draw(tmp_path / 'a.jpg')
  with pytest.raises(InputError, match='has the same name but for its ending'):
    sources.find(tmp_path, channels=1)


@pytest.mark.parametrize('name', ['b.nii.gz', 'b.mha', 'b.nrrd', 'b.PNG'])
def test_a_link_to_a_file_that_was_not_fetched_is_a_scan_that_is_refused(tmp_path, name):
  draw(tmp_path / 'a.png') if name == 'b.PNG' else write(tmp_path / 'a.nii', 2, 3, 4)
  (tmp_path / name).symlink_to('annex/none')
  first, second = sources.find(tmp_path, channels=1)
  sources.require_kind([first, second], of_pictures=name == 'b.PNG')
  assert sources.find_unused(tmp_path, [first, second]) == []
  sources.read(first)
  with pytest.raises(InputError, match=f'{name}: no such file; expected a scan'):
    sources.read(second)


@pytest.mark.parametrize('name', ['9.dcm', '9.IMA', 'IM0009', '1.2.840.9'])
def test_a_link_to_a_slice_that_was_not_fetched_does_not_shorten_its_series(series, tmp_path, name):
  place = shutil.copytree(series[0], tmp_path / 'scan')
  sorted(place.glob('*.dcm'))[-1].unlink()
  (place / name).symlink_to('annex/none')
  (place / 'notes.txt').symlink_to('annex/none')
  (source,) = found = sources.find(place, channels=1)
  assert sources.find_unused(place, found) == ['notes.txt']
  with pytest.raises(InputError, match=f'{name}: no such file'):
    sources.read(source)


def test_a_link_without_a_number_is_no_slice(tmp_path):
  write(tmp_path / 'a.nii.gz', 2, 3, 4)
  (tmp_path / 'README').symlink_to('annex/none')
  assert found(tmp_path) == {'a': ('a.nii.gz',)} and not dicom_folder.holds_dicom(tmp_path)


CLOSED = {  # what must not be read, and whether it is a folder
  'a file without an ending': ('notes', False),
  'a folder': ('lost+found', True),
}


@pytest.mark.parametrize('name', CLOSED)
def test_what_must_not_be_read_is_one_line_and_not_passed_over(tmp_path, monkeypatch, name):
  closed, is_folder = CLOSED[name]
  path = write(tmp_path / 'a.nii.gz', 2, 3, 4).with_name(closed)
  path.mkdir() if is_folder else path.write_text('')
  method = 'iterdir' if is_folder else 'open'
  usual = getattr(Path, method)

  def refuse(one, *arguments):
    if one.name == closed:
      raise PermissionError(errno.EACCES, 'Permission denied', str(one))
    return usual(one, *arguments)

  monkeypatch.setattr(Path, method, refuse)
  calls: list[Any] = [dicom_folder.holds_dicom, lambda place: sources.find(place, channels=1)]
  for call in [*calls, *([] if is_folder else [sources.slices_of])]:
    with pytest.raises(InputError, match=r'must not be read \(Permission denied\)') as refused:
      call(tmp_path)
    assert str(refused.value).startswith(f'{path}: ') and '\n' not in str(refused.value)
