"""A folder of DICOM studies: who is matched with whom, under which names, and what is refused."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_studies import (
  ROOT,
  SECRET,
  begin,
  change,
  write_seg,
  write_series,
  write_studies,
)
from recorded import OPEN, check, prepare_for

from data_prep import data_sets, dicom_folder, folder, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.scans import volumes

pytest.importorskip('highdicom')

CLASSES = phantom_folders.CLASSES
PATIENTS = 3  # and four series


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder of studies, which nobody may change, and what lies in it."""
  place = tmp_path_factory.mktemp('made') / 'set'
  return place, write_studies(place, patients=PATIENTS, classes=CLASSES[1:])


@pytest.fixture
def there(made, tmp_path):
  return shutil.copytree(made[0], tmp_path / 'set')


def configure(there, place, **settings):
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  configs.set_model(config, 'lean')
  config.data.update({'raw_dir': str(there), 'data_dir': str(place / 'tfds'), **settings})
  config.data.folds, config.data.workers = 3, 1
  return config


def resolve(config):
  return dict(data_sets.resolve(config, data_sets.find(config), ()))


def truth_of(there, number):
  return next((there / f'study {number}').rglob('mask.dcm'))


# --- who is matched with whom


def test_series_and_masks_read_back_as_they_were_made(made):
  there, expected = made
  cases = folder.find_cases(there, OPEN)
  assert [case.case for case in cases] == [*expected]
  assert [case.patient for case in cases] == ['p001', 'p001', 'p002', 'p003']
  for case in cases:
    voxels, label, affine = expected[case.case]
    volume = folder.read_case(case)
    np.testing.assert_array_equal(volume.image[..., 0], voxels)
    np.testing.assert_array_equal(volume.label, label)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert folder.read_classes(case) == [1, 2] and volumes.Case(**vars(case)) == case


def test_files_may_lie_anywhere_under_any_name(made, tmp_path):
  there, expected = made
  for number, path in enumerate(sorted(there.rglob('*.dcm'))):
    name = tmp_path / 'flat' / f'{number * 37 % 101}' / f'IM{number:04d}'
    name.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, name)
  cases = folder.find_cases(tmp_path / 'flat', OPEN)
  assert [case.case for case in cases] == [*expected]
  for case in cases:
    volume = folder.read_case(case)
    np.testing.assert_array_equal(volume.truth, expected[case.case][1])


def test_what_is_left_open_follows_from_the_studies(made, tmp_path):
  config = configure(made[0], tmp_path, intensity='percentiles')
  told = resolve(config)
  data = config.data
  assert data.classes == CLASSES and data.modalities == 1 and data.slice_axis == 'axial'
  assert configs.left_to_data(config) == []
  assert told['folder'] == 'set: 4 scans of 3 patients, numbered by PatientID'
  assert told['masks'] == '2 DICOM SEG and 2 RTSTRUCT, each of the series it refers to'
  assert told['channels'] == 'CT' and told['classes'] == ', '.join(CLASSES)
  assert not {'not named', 'not asked', 'not used'} & told.keys()


def test_ct_has_a_window_and_mr_has_none(there, tmp_path):
  config = configure(there, tmp_path)
  data_sets.resolve(config, data_sets.find(config), ('p001', 'p002'))
  assert config.data.intensity == 'window'
  for path in there.rglob('ct/*.dcm'):
    change(path, lambda one: setattr(one, 'Modality', 'MR'))
  config = configure(there, tmp_path)
  assert resolve(config)['channels'] == 'MR' and config.data.intensity == 'percentiles'


def test_a_truth_that_names_no_series_is_matched_by_its_frame_of_reference(there, tmp_path):
  for number in (0, 1):

    def forget(one):
      one.pop('ReferencedSeriesSequence', None)
      for space in one.get('ReferencedFrameOfReferenceSequence') or ():
        space.pop('RTReferencedStudySequence')

    change(truth_of(there, number), forget)
  cases = folder.find_cases(there, OPEN)
  assert [case.label[0] for case in cases[:2]] == [truth_of(there, n) for n in (0, 1)]


# --- names


def test_names_that_are_not_asked_for_and_those_that_lack_are_told(there, tmp_path):
  def rename(one):
    one.StructureSetROISequence[1].ROIName = 'Heart'

  change(truth_of(there, 1), rename)
  asked = ('nothing', 'RIGHT  part', 'left part')
  told = resolve(configure(there, tmp_path, classes=asked, intensity='percentiles'))
  assert told['not named'] == 'RIGHT  part in 1 scans (p001_2): it counts as absent there'
  assert told['not asked'] == "names that are not in data.classes: 'heart' in 1"
  cases = folder.find_cases(there, configure(there, tmp_path, classes=asked).data)
  label = phantom_folders.make_scan(number=0, seed=0).label
  np.testing.assert_array_equal(folder.read_case(cases[0]).label, np.array([0, 2, 1])[label])
  assert folder.read_classes(cases[1]) == [2]
  config = configure(there, tmp_path, intensity='percentiles')  # names in all of them
  assert resolve(config)['not asked'].endswith("'heart' in 1, 'right part' in 3")
  assert config.data.classes == ('background', 'left part')


def test_a_truth_with_none_of_the_classes_is_a_problem_of_its_own(there, tmp_path):
  config = configure(there, tmp_path, classes=('no', 'liver'))
  with pytest.raises(
    InputError, match="holds '.* part', '.* part', and none of data.classes .liver"
  ):
    data_sets.find(config)
  change(
    truth_of(there, 3), lambda one: setattr(one.StructureSetROISequence[0], 'ROIName', 'liver')
  )
  scans = data_sets.find(config)
  assert [case.case for case in scans.cases] == ['p003'] and len(scans.unpaired) == 3


def rename_all(one):
  for k, structure in enumerate(one.get('StructureSetROISequence') or ()):
    structure.ROIName = f'other {k}'
  for k, segment in enumerate(one.get('SegmentSequence') or ()):
    segment.SegmentLabel = f'other {k}'


def test_names_in_common_are_asked_for(there):
  change(truth_of(there, 2), rename_all)
  with pytest.raises(InputError, match='no name .* is in all 4 truths: .*left part. in 3') as told:
    folder.find_cases(there, OPEN)
  assert '--config.data.classes="(' in str(told.value)


def test_classes_that_differ_in_capital_letters_alone_are_refused(made, tmp_path):
  config = configure(made[0], tmp_path, classes=('no', 'Left part', 'left  PART'))
  with pytest.raises(InputError, match='expected names that differ in more than capital letters'):
    data_sets.find(config)


def test_a_patient_may_be_spelled_in_other_letters(there):
  for path in there.rglob('study 0/**/ct/*.dcm'):
    change(path, lambda one: setattr(one, 'PatientID', one.PatientID.upper()))
  cases = folder.find_cases(there, OPEN)
  assert [case.patient for case in cases] == ['p001', 'p001', 'p002', 'p003']


def test_patients_are_numbered_in_the_order_of_their_letters_as_written(there):
  for path in there.rglob('study 2/**/ct/*.dcm'):
    change(path, lambda one: setattr(one, 'PatientID', one.PatientID.upper()))
  first, *_ = folder.find_cases(there, OPEN)
  assert first.case == 'p001' and there / 'study 2' in first.image[0].parents


def test_classes_without_the_background_are_refused(there, tmp_path):
  first, second = CLASSES[1:]
  config = configure(there, tmp_path, classes=(first.upper(), second))
  message = f'mask.dcm: holds {first.upper()}, the first of config.data.classes .*, which is the'
  with pytest.raises(InputError, match=message):
    data_sets.find(config)

  def name_background(one):
    for structure in one.StructureSetROISequence[:1]:
      structure.ROIName = 'Background'

  change(truth_of(there, 1), name_background)  # as some programs draw it
  config = configure(there, tmp_path, classes=('background', second))
  assert len(data_sets.find(config).cases) == 4


def name_both_alike(one):
  for structure in one.StructureSetROISequence:
    structure.ROIName = 'left part'


# --- what is refused


def drop(there):
  truth_of(there, 2).unlink()


def drop_series(there):
  shutil.rmtree(truth_of(there, 2).parent.parent / 'ct')


def drop_a_slice(there):
  next(truth_of(there, 2).parent.parent.glob('ct/*')).unlink()


def copy_truth(there):
  shutil.copy(truth_of(there, 2), there / 'again.dcm')


def alter(number, change_one):
  return lambda there: change(truth_of(there, number), change_one)


def alter_slice(number, **tags):
  def alter(there):
    path = next(truth_of(there, number).parent.parent.glob('ct/*'))
    change(path, lambda one: [setattr(one, name, value) for name, value in tags.items()])

  return alter


def set_frame(one):
  one.FrameOfReferenceUID = f'{ROOT}.99'
  for structure in one.get('StructureSetROISequence') or ():
    structure.ReferencedFrameOfReferenceUID = f'{ROOT}.99'


def refer_to_two(one):
  (series,) = one.ReferencedSeriesSequence
  one.ReferencedSeriesSequence = [series, pydicom.Dataset()]
  one.ReferencedSeriesSequence[1].SeriesInstanceUID = f'{ROOT}.13.2'


BAD = {
  'no truth': (drop, 'p002', 'no DICOM SEG or RTSTRUCT in .* belongs to this series; expected one'),
  'no series': (drop_series, 'p002', 'the DICOM SEG refers to no series in .*; expected one. Add'),
  'a slice less': (drop_a_slice, 'p002', 'refers to 1 images that are not in its series'),
  'two truths': (copy_truth, 'p002', 'belongs to the same series as .*mask.dcm; expected one'),
  'two series': (alter(2, refer_to_two), 'p002', 'the DICOM SEG refers to 2 series .*Move the oth'),
  'another space': (alter(2, set_frame), 'p002', 'the DICOM SEG has another frame of reference'),
  'another space, RTSTRUCT': (alter(3, set_frame), 'p003', 'the RTSTRUCT has another frame of ref'),
  'nobody': (alter_slice(2, PatientID=''), 'p003', 'the slices have several values of PatientID'),
  'one name twice': (alter(3, name_both_alike), 'p003', '2 segments or structures are called left'),
  'no number': (alter_slice(3, SOPInstanceUID=''), 'p003', 'there is no SeriesInstanceUID or'),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_what_does_not_match_is_one_line_and_the_others_are_cases(there, tmp_path, name):
  spoil, gone, message = BAD[name]
  spoil(there)
  scans = data_sets.find(configure(there, tmp_path, classes=CLASSES))
  # Without its series a patient has no number, and a nameless one is the first.
  lost = {'no series': 'p003', 'nobody': 'p001'}.get(name, gone)
  assert lost not in {case.case for case in scans.cases} and len(scans.cases) == 3
  lines = [one.text for one in scans.unpaired if message.split(' .*')[0] in one.text]
  assert lines
  with pytest.raises(InputError, match=message):
    raise InputError('\n'.join(lines))
  for line in [one.text for one in scans.unpaired]:
    assert '\n' not in line and SECRET not in line and '.77.' not in line and len(line) < 700


def test_a_folder_without_any_series_or_truth_is_one_line(there, tmp_path):
  for number in range(PATIENTS + 1):
    truth_of(there, number).unlink()
  with pytest.raises(InputError, match='no series there has a truth. The first problem: .*study 0'):
    folder.find_cases(there, OPEN)
  for path in there.rglob('ct/*'):
    path.unlink()
  write_dose(there / 'dose.dcm')
  with pytest.raises(InputError, match='holds DICOM, but no series of images'):
    folder.find_cases(there, OPEN)


@pytest.mark.parametrize('changes', [{'regions': '1,2 2'}, {'ignore': 3}])
def test_regions_and_an_ignored_label_are_refused(made, tmp_path, changes):
  config = configure(made[0], tmp_path, classes=CLASSES, **changes)
  with pytest.raises(InputError, match='data.regions or data.ignore is set') as refused:
    data_sets.find(config)
  assert '\n' not in str(refused.value)


def test_colours_are_refused(made, tmp_path):
  config = configure(made[0], tmp_path, classes=CLASSES, colours=('#000000', '#111111', '#222222'))
  with pytest.raises(InputError, match='is a folder of DICOM, but data.colours is set'):
    data_sets.find(config)


@pytest.mark.parametrize('changes', [{'suffixes': ('T1w',)}, {'derivative': 'PIPE/dseg'}])
def test_what_chooses_among_files_of_bids_is_refused(made, tmp_path, changes):
  config = configure(made[0], tmp_path, classes=CLASSES, **changes)
  with pytest.raises(InputError, match='is no folder in BIDS, but data.suffixes or'):
    data_sets.find(config)


# --- what lies beside them


def write_dose(path):
  one = begin('1.2.840.10008.5.1.4.1.1.481.2', f'{ROOT}.98')
  one.Rows = one.Columns = 2
  one.save_as(path, enforce_file_format=True)


def test_doses_localizers_and_notes_are_named_and_not_used(there, tmp_path):
  before = folder.find_cases(there, OPEN)
  write_dose(truth_of(there, 0).parent / 'dose.dcm')
  scan = np.zeros((2, 4, 4), int)
  localizer = {'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER']}
  write_series(there / 'study 0' / 'scout', scan, np.eye(4), number=50, patient=1, **localizer)
  (there / 'notes.txt').write_text('none')
  (there / '.DS_Store').write_bytes(b'')
  (there / 'linked').symlink_to(there, target_is_directory=True)
  scans = data_sets.find(configure(there, tmp_path))
  assert list(scans.cases) == before and not scans.unpaired
  assert scans.unused == ('linked/', 'notes.txt', 'study 0/scout/', 'study 0/x/truth/dose.dcm')


# --- the stages


def test_the_check_names_files_and_no_stage_the_patient(there, tmp_path, capfd):
  config = configure(there, tmp_path, image_size=32, intensity='percentiles')
  data_sets.resolve(config, data_sets.find(config), ())
  check(config, tmp_path)
  prepared = prepare_for(config, tmp_path / 'run')
  said = ''.join(capfd.readouterr())
  page = (tmp_path / 'check.html').read_text(encoding='utf-8')
  assert 'study 1/a/b/c/truth/mask.dcm' in page and 'study 1/a/b/c/ct (10 files)' in page
  assert 'study 2/a/b/c/truth/mask.dcm' in page and 'p003' in page
  texts = [said, page]
  texts += [
    path.read_bytes().decode('latin-1')
    for place in (prepared, tmp_path / 'run')
    for path in place.rglob('*')
    if path.is_file()
  ]
  for text in texts:
    assert not any(secret in text for secret in (SECRET, 'Jane', '19610203', '.77.'))


def test_errors_of_reading_stand_in_the_check(there, tmp_path, capfd):
  def open_one(one):
    one.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = 'OPEN_PLANAR'

  change(truth_of(there, 1), open_one)
  config = configure(there, tmp_path, image_size=32, intensity='percentiles')
  data_sets.resolve(config, data_sets.find(config), ())
  with pytest.raises(InputError, match="1 error in 4 scans: .*is 'OPEN_PLANAR'.*exclude=.*p001_2"):
    check(config, tmp_path)
  assert 'OPEN_PLANAR' in capfd.readouterr().out
  config.data.exclude = ('p001_2',)
  check(config, tmp_path)


def test_a_classes_cache_does_not_outlive_the_names(there, tmp_path):
  left, right = (
    configure(there, tmp_path, classes=('no', name), intensity='percentiles')
    for name in CLASSES[1:]
  )
  scan = phantom_folders.make_scan(number=0, seed=0)
  headers = [pydicom.dcmread(path) for path in truth_of(there, 0).parent.parent.glob('ct/*')]
  headers.sort(key=lambda one: one.ImagePositionPatient[2])
  write_seg(truth_of(there, 0), headers, 2 * (scan.label == 2), CLASSES[1:])
  for config, expected in ((left, set()), (right, {1})):
    scans = data_sets.find(config)
    assert scans.classes_of_patients(config)['p001'] == expected | {1}  # another series has both
    assert folder.read_classes(scans.cases[0]) == [*expected]
    assert scans.digest
    scans.contents.keep()


def test_holding_dicom_is_seen_at_any_depth(made, tmp_path):
  assert dicom_folder.holds_dicom(made[0]) and not dicom_folder.holds_dicom(tmp_path)
  assert not dicom_folder.holds_dicom(tmp_path / 'none')
