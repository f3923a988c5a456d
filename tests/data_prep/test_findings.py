"""What stands out among scans, planted one thing at a time."""

import dataclasses

import numpy as np
import pytest

from data_prep import findings
from data_prep.survey import Scan

CLASSES = ('background', 'liver', 'tumour')
COUNT = 40


def made(number):
  random = np.random.default_rng(number)
  return Scan(
    case=f'c{number:02d}',
    patient=f'p{number:02d}',
    shape=(int(random.integers(28, 33)), 256, 256),
    spacing_mm=(3.0, 0.8, 0.8),
    orientation='LPS',
    intensity=np.array([[random.uniform(0, 10), 200, random.uniform(900, 1100)]]),
    class_size=np.array([random.uniform(1200, 1800), random.uniform(10, 20)]),
    image_digest=f'i{number}',
    label_digest=f'l{number}',
    study_digest='',
    disordered=(),
    blank=(),
    picture='',
    pictured=1,
  )


@pytest.fixture
def scans():
  return [made(number) for number in range(COUNT)]


def found(scans, *numbers, **changes):
  """What is found when these scans are changed."""
  scans = list(scans)
  for number in numbers:
    scans[number] = dataclasses.replace(scans[number], **changes)
  return findings.find(scans, CLASSES)


def test_scans_that_are_alike_are_not_spoken_of(scans):
  assert findings.find(scans, CLASSES) == []
  assert findings.find([], CLASSES) == []


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'spacing_mm': (5.0, 0.8, 0.8)}, 'slice spacing 5 mm; the median is 3'),
    ({'spacing_mm': (3.0, 0.4, 0.4)}, 'pixel spacing 0.4 mm; the median is 0.8'),
    ({'shape': (90, 256, 256)}, 'number of slices 90; the median is 31'),
    ({'shape': (30, 512, 256)}, 'height of a slice 512 pixels; the median is 256'),
    ({'intensity': np.array([[0, 100, 60_000]])}, 'range of intensities 60000; the median is'),
    ({'class_size': np.array([200.0, 15.0])}, 'volume of liver 200 ml; the median is'),
    ({'class_size': np.array([1500.0, 200.0])}, 'volume of tumour 200 ml; the median is'),
    ({'class_size': np.array([1500.0, 0.0])}, 'no voxel of tumour'),
    ({'class_size': np.array([0.0, 0.0])}, 'the mask is empty'),
    ({'disordered': (4, 9)}, 'slice 4, 9 of 30 looks less like the slice before'),
    ({'gaps': (False, True)}, 'tumour has no contour on a slice between others that have one'),
    ({'blank': (4,)}, 'slice 4 shows nothing, but has a mask'),
    ({'label_digest': 'l3'}, 'its mask is, voxel for voxel, that of c03, another patient'),
  ],
)
def test_a_scan_that_is_odd_in_one_way_gets_one_warning(scans, changes, text):
  scans[7] = dataclasses.replace(scans[7], shape=(30, 256, 256))
  (finding,) = found(scans, 7, **changes)
  assert finding.case == 'c07' and not finding.is_error
  assert finding.text.startswith(f'c07: {text}')


def test_impossible_spacings_and_thick_slices_along_another_axis_are_warned_of(scans):
  texts = [finding.text for finding in found(scans, 7, spacing_mm=(3000.0, 800.0, 800.0))]
  assert 'c07: spacing 3000 x 800 x 800 mm; is it in millimetres?' in texts
  texts = [finding.text for finding in found(scans, 7, spacing_mm=(0.8, 0.8, 3.0))]
  assert any(text.startswith('c07: thick slices lie along another axis') for text in texts)


def test_a_shifted_scale_of_intensities_is_found_by_its_darkest_voxels(scans):
  (finding,) = found(scans, 7, intensity=np.array([[-1024.0, 0, -24.0]]))
  assert finding.text.startswith('c07: darkest intensity -1024; the median is')


def test_one_scan_under_two_names_stops_a_run_only_where_the_patients_differ(scans):
  (finding,) = found(scans, 7, image_digest='i3')
  assert finding.is_error and finding.case == 'c07' and 'every voxel is that of c03' in finding.text
  (finding,) = found(scans, 7, image_digest='i3', patient='p03')
  assert not finding.is_error


def test_one_visit_of_two_patients_is_warned_of(scans):
  (finding,) = found(scans, 3, 7, study_digest='s')
  assert finding.case == 'c07' and 'patient p07 may be p03' in finding.text
  assert found(scans, 3, 7, study_digest='s', patient='p03') == []


def test_what_many_scans_share_is_told_once(scans):
  several = found(scans, 1, 2, 3, 4, class_size=np.array([1500.0, 0.0]))
  assert [finding.case for finding in several] == ['c01', 'c02', 'c03', 'c04']
  (finding,) = found(scans, 1, 2, 3, 4, 5, 6, class_size=np.array([1500.0, 0.0]))
  text = '6 of 40 scans: no voxel of tumour (c01, c02, c03, c04, c05, ...)'
  assert (finding.case, finding.text) == ('', text)


@pytest.mark.parametrize('seed', range(5))
def test_outliers_are_those_of_the_modified_z_score(seed):
  random = np.random.default_rng(seed)
  values = np.append(random.normal(5, 1, 30), [np.nan, 11, -4, 5])
  known = sorted(value for value in values if not np.isnan(value))
  middle = (known[len(known) // 2] + known[(len(known) - 1) // 2]) / 2
  away = sorted(abs(value - middle) for value in known)
  mad = (away[len(away) // 2] + away[(len(away) - 1) // 2]) / 2
  expected = [abs(0.6745 * (value - middle) / mad) > 3.5 for value in values]
  np.testing.assert_array_equal(findings.find_outliers(values, least=0), expected)
  assert expected[31] and expected[32] and not expected[30]


def test_outliers_need_a_distance_and_enough_values():
  values = np.array([1.0, 1, 1, 1, 1, 1.2])
  assert findings.find_outliers(values, least=0.1).tolist() == [False] * 5 + [True]
  assert not findings.find_outliers(values, least=0.3).any()
  assert not findings.find_outliers(np.array([1.0, 1, 1, 9]), least=0.1).any()


def test_sizes_of_classes_in_pictures_are_areas(scans):
  changed = [
    dataclasses.replace(scan, shape=(1, 256, 256), spacing_mm=(1.0, 1.0, 1.0)) for scan in scans
  ]
  changed[2] = dataclasses.replace(changed[2], class_size=np.array([200.0, 15.0]))
  (finding,) = findings.find(changed, CLASSES, unit='pixels')
  assert finding.text.startswith('c02: area of liver 200 pixels; the median is')


def test_a_channel_that_shows_nothing_is_a_warning_and_everywhere_an_error(scans):
  (one,) = found(scans, 3, constant=(0,))
  assert not one.is_error and one.case == 'c03' and 'the same in every voxel' in one.text
  everywhere = [dataclasses.replace(scan, constant=(0,)) for scan in scans]
  (one,) = findings.find(everywhere, CLASSES)
  assert one.is_error and one.text.startswith('channel 1 is the same in every voxel of every scan')


@pytest.mark.parametrize(
  ('left', 'text', 'is_error'),
  [
    (0.95, '', False),
    (0.5, 'a DSC of 0.50 with itself, the most', False),
    (0.0, 'no pixel. Raise', True),
  ],
)
def test_classes_of_which_little_is_left_are_reported_by_how_much(scans, left, text, is_error):
  drawn = [dataclasses.replace(scan, kept=np.array([1, left])) for scan in scans]
  drawn[0] = dataclasses.replace(scans[0], kept=np.array([1, np.nan]))
  of = [one for one in findings.find(drawn, CLASSES) if 'data.reduction' in one.text]
  assert [one.is_error for one in of] == ([is_error] if text else [])
  assert all('tumour keeps' in one.text and text in one.text for one in of)


def test_what_looks_like_hounsfield_units_without_a_window_is_told_once(scans):
  ct = [dataclasses.replace(scan, intensity=scan.intensity - 1024) for scan in scans]
  (one,) = findings.find(ct, CLASSES, intensity='percentiles')
  assert 'Hounsfield' in one.text and '--config.data.intensity=window' in one.text
  assert not one.is_error and not findings.find(ct, CLASSES, intensity='window')
  assert not findings.find(scans, CLASSES, intensity='percentiles')
  assert not findings.find(ct[:20] + scans[20:], CLASSES, intensity='percentiles', unit='pixels')


def test_a_header_that_does_not_say_where_its_axes_point_is_warned_of(scans):
  (one,) = found(scans, 7, unsure='its header does not say where')
  assert one.text == 'c07: its header does not say where' and not one.is_error
  (one,) = found(scans, *range(9), unsure='its header does not say where')
  assert one.text.startswith('9 of 40 scans: headers do not say clearly where their axes point')
