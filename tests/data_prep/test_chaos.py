"""CHAOS' CT with its traps, on made-up DICOM."""

import dataclasses
from pathlib import Path

import numpy as np
import phantom_chaos
import PIL.Image
import pytest
import recorded

from data_prep import chaos, prepare
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes
from thrifty_jax.scans.volumes import Case

PATIENTS = 4
REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'Task03_LiverCT8'


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('chaos') / 'raw'
  phantom_chaos.write(folder, patients=PATIENTS, seed=0)
  return folder


def picture(path):
  with PIL.Image.open(path) as opened:
    return opened.mode, np.asarray(opened.convert('L'))


def made(patient):
  return phantom_chaos.make_scan(patient=patient, seed=0, protocol='CT')


def test_every_patient_reads_back_as_made_however_the_files_lie(raw):
  for patient, case in enumerate(chaos.find_cases(raw)):
    volume, scan = chaos.read_case(case), made(patient)
    np.testing.assert_array_equal(volume.label, scan.label)
    np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-4)
    tissue = (slice(None), slice(2, None))
    np.testing.assert_allclose(volume.image[tissue][..., 0], scan.image[tissue], atol=0.51)
    assert (volume.image.dtype, volume.truth.dtype) == (np.float32, np.uint8)


def test_the_made_up_folder_has_the_traps_of_the_real_one(raw):
  places = [raw / 'Train_Sets' / 'CT' / str(n + 1) for n in range(PATIENTS)]
  names = {sorted(place.glob('DICOM_anon/[!.]*'))[0].name for place in places}
  assert names == {'i0000,0000b.dcm', 'IMG-0004-00001.dcm'}
  modes = {picture(place / 'Ground' / 'liver_GT_000.png')[0] for place in places}
  assert modes == {'1', 'L'}
  steps = [np.diff(phantom_chaos.file_order(9, patient))[0] for patient in range(3)]
  assert steps == [1, -1, 2]
  for place in places:
    first = sorted(place.glob('DICOM_anon/[!.]*'))[0]
    pixels, tags = phantom_chaos.read_slice(first)
    assert (pixels.max() >= 4000, tags['0010|0010'].strip()) == (True, phantom_chaos.NAME)
    assert (place / 'DICOM_anon' / f'._{first.name}').exists()


def test_the_step_between_slices_is_that_of_the_positions_not_the_written_thickness(raw):
  for patient, case in enumerate(chaos.find_cases(raw)):
    expected = np.linalg.norm(made(patient).affine[:3, :3], axis=0)
    assert abs(expected[0] - 3.2) > 0.05
    np.testing.assert_allclose(chaos.read_case(case).spacing_mm, expected, rtol=1e-4)


def test_padding_becomes_air(raw):
  for case in chaos.find_cases(raw):
    volume = chaos.read_case(case)
    assert (volume.image[:, :2, :2] == -1000).all()
    assert volume.image.max() < 1000


def test_slices_without_a_sign_are_padded_too(raw, tmp_path):
  files = chaos.find_cases(raw)[0].image
  for path in files:
    pixels, tags = phantom_chaos.read_slice(path)
    unsigned = np.clip(pixels, 0, None).astype(np.uint16)
    phantom_chaos.write_slice(tmp_path / path.name, unsigned, {**tags, '0028|1052': '0'})
  case = dataclasses.replace(
    chaos.find_cases(raw)[0], image=tuple(tmp_path / path.name for path in files)
  )
  assert (chaos.read_case(case).image[:, :2, :2] == -1000).all()


def test_patients_are_sorted_by_number_and_named_by_it(tmp_path):
  phantom_chaos.write(tmp_path / 'raw', patients=3, seed=0)
  (tmp_path / 'raw/Train_Sets/CT/3').rename(tmp_path / 'raw/Train_Sets/CT/21')
  cases = chaos.find_cases(tmp_path / 'raw')
  assert [case.case for case in cases] == ['ct01', 'ct02', 'ct21']
  assert [case.patient for case in cases] == ['ct01', 'ct02', 'ct21']


def test_without_the_data_it_is_said_what_to_download_and_what_runs_without(tmp_path):
  with pytest.raises(InputError) as caught:
    chaos.find_cases(tmp_path / 'nothing')
  message = str(caught.value)
  for part in ('nothing/Train_Sets/CT', '3431873', 'CHAOS_Train_Sets.zip', '--config=brain'):
    assert part in message
  assert '\n' not in message


def with_masks_reversed(raw, patient, tmp_path, change=lambda hounsfield, liver: hounsfield):
  """The case with its slices changed, once as it is and once with its masks the other way round."""
  case, image = chaos.find_cases(raw)[patient], []
  for path, mask in zip(case.image, case.label, strict=True):
    pixels, tags = phantom_chaos.read_slice(path)
    liver = picture(mask)[1] > 0
    changed = np.round(change(pixels.astype(float), liver)).astype(np.int16)
    phantom_chaos.write_slice(tmp_path / path.name, changed, tags)
    image.append(tmp_path / path.name)
  case = dataclasses.replace(case, image=tuple(image))
  return case, dataclasses.replace(case, label=case.label[::-1])


# What livers and scans look like besides the usual; mean HU after it, or None.
LOOKS = {
  'as made': lambda hu, liver: hu,
  'a fatty liver without contrast medium': lambda hu, liver: np.where(liver, hu - 113, hu),
  'an enhanced liver full of iron': lambda hu, liver: np.where(liver, hu + 60, hu),
  'a noisy scan': lambda hu, liver: hu + np.random.default_rng(0).normal(0, 25, hu.shape),
  'metal in the liver': lambda hu, liver: np.where(
    liver & (np.add.outer(*map(np.arange, hu.shape)) % 29 == 0), 3000, hu
  ),
}


@pytest.mark.parametrize('look', LOOKS)
@pytest.mark.parametrize('patient', range(3))
def test_masks_in_the_reverse_order_are_found_and_those_in_order_are_not(
  raw, tmp_path, patient, look
):
  case, mistaken = with_masks_reversed(raw, patient, tmp_path, LOOKS[look])
  chaos.read_case(case)
  with pytest.raises(InputError, match=r'Ground: the masks lie on .* in the reverse order on a'):
    chaos.read_case(mistaken)


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not here')
@pytest.mark.parametrize('name', ['liver_002.nii.gz', 'liver_004.nii.gz'])
def test_on_real_livers_masks_in_the_reverse_order_are_found(name):
  levels, _ = volumes.read_nifti(REAL / 'imagesTr' / name)
  masks, _ = volumes.read_nifti(REAL / 'labelsTr' / name)
  hounsfield = levels.astype(np.float32) * 400 / 255 - 150  # as a window of the usual width has it
  case = Case('a', 'a', (REAL,), (REAL / name,))
  rising = np.arange(len(masks))
  chaos.require_liver(case, hounsfield, masks, rising)
  with pytest.raises(InputError, match='in the reverse order on a liver'):
    chaos.require_liver(case, hounsfield, masks[::-1], rising)


@pytest.mark.parametrize(
  ('liver', 'elsewhere'),
  [(15, 15), (15, 0), (60, 60), (60, 45)],
  ids=['as even', 'something more even', 'as noisy', 'a little more even'],
)
def test_where_both_orders_look_alike_nothing_is_said(liver, elsewhere):
  random, masks = np.random.default_rng(0), np.zeros((8, 20, 20), np.uint8)
  masks[1:4, 4:16, 4:16] = 255
  scatter = np.where(masks > 0, liver, elsewhere)
  hounsfield = (40 + scatter * random.standard_normal(masks.shape)).astype(np.float32)
  case = Case('a', 'a', (REAL,), (REAL,))
  chaos.require_liver(case, hounsfield, masks, np.arange(8))


def test_a_scan_without_its_liver_is_read(raw, tmp_path):
  case = chaos.find_cases(raw)[0]
  empty = tmp_path / 'empty.png'
  PIL.Image.fromarray(picture(case.label[0])[1] * 0).save(empty)
  case = dataclasses.replace(case, label=(empty,) * len(case.label))
  assert not chaos.read_case(case).truth.any()


def test_it_prepares_and_no_name_of_a_person_goes_on(raw, tmp_path, capsys):
  config = configs.default()
  config.model.name = 'unet'  # one patient that trains is too few to search on
  config.data.update({'name': 'chaos', 'classes': ('background', 'liver'), 'image_size': 32})
  config.data.update({'intensity': 'window', 'folds': 3})
  config.data.update({'raw_dir': str(raw), 'data_dir': str(tmp_path / 'tfds')})
  recorded.check(config, tmp_path)
  folder = prepare.prepare(config)
  surname, shown = phantom_chaos.NAME.split('^')[0], capsys.readouterr().out
  assert surname not in shown and 'out of order' not in shown
  for path in (path for path in folder.rglob('*') if path.is_file()):
    assert surname.encode() not in path.read_bytes()
