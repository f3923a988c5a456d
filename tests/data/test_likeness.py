"""What the training scans were like, and which scans are told to be unlike them."""

import numpy as np
import pytest

from thrifty_jax.data import likeness


def scan(*, shape=(20, 100, 80), spacing_mm=(3.0, 0.5, 0.5), shade=0.4, channels=1):
  """Measures of a scan of nearly one shade."""
  random = np.random.default_rng(0)
  image = (shade + 0.02 * random.normal(size=(shape[0], 16, 16, channels))).astype(np.float16)
  return likeness.measure(image, shape, spacing_mm)


TRAINING = likeness.merge([scan(), scan(shape=(30, 120, 100), shade=0.5)])


def unlike(measures, training=TRAINING):
  return likeness.find_unlike(measures, training, slice_axis='axial')


def test_what_is_measured_is_what_the_words_say():
  found = scan(shape=(20, 100, 80), spacing_mm=(3.0, 0.5, 0.7))
  assert found['slices'] == [20] and found['slice_spacing_mm'] == [3.0]
  assert found['pixel_spacing_mm'] == [0.5, 0.7]
  assert found['field_of_view_mm'] == pytest.approx([56.0])
  assert found['intensity_0_p50'] == pytest.approx([0.4], abs=0.01)
  assert found['intensity_0_p5'] < found['intensity_0_p50'] < found['intensity_0_p95']


def test_ranges_span_all_scans_and_ranges_of_ranges_too():
  assert TRAINING['slices'] == (20, 30) and TRAINING['field_of_view_mm'] == (50, 60)
  assert likeness.merge([TRAINING, scan(shape=(40, 90, 90))])['slices'] == (20, 40)


@pytest.mark.parametrize('shape', [(20, 100, 80), (25, 110, 90), (11, 95, 80)])
def test_a_scan_like_the_others_is_not_remarked_on(shape):
  assert unlike(scan(shape=shape, shade=0.45)) == []


UNLIKE = {
  'few slices': ({'shape': (9, 100, 80)}, '9 slices, in training 20 to 30'),
  'many slices': ({'shape': (61, 100, 80)}, '61 slices, in training 20 to 30'),
  'thick slices': ({'spacing_mm': (5, 0.5, 0.5)}, 'slices 5 mm apart, in training 3 to 3 mm'),
  'other pixels': (
    {'shape': (20, 50, 40), 'spacing_mm': (3, 1, 1)},
    'pixels of 1 mm, in training 0.5 to 0.5 mm',
  ),
  'a part of the body': ({'shape': (20, 60, 60)}, 'a field of view of 30 mm, in training 50 to 60'),
  'bright': ({'shade': 0.9}, 'of its intensities lie below'),
}


@pytest.mark.parametrize('name', UNLIKE)
def test_what_is_outside_the_range_is_said_in_one_line(name):
  changes, text = UNLIKE[name]
  lines = unlike(scan(**changes))
  assert lines and text in lines[0]
  assert name == 'bright' or len(lines) == 1


def test_thick_slices_along_another_axis_are_told_first():
  lines = unlike(scan(shape=(100, 20, 80), spacing_mm=(0.5, 3.0, 0.5)))
  assert 'thick slices that are not axial' in lines[0]
  thin = likeness.merge([scan(spacing_mm=(0.5, 0.5, 0.5))])
  assert not any('thick' in line for line in unlike(scan(spacing_mm=(0.5, 3.0, 0.5)), thin))


def test_each_channel_is_compared_with_its_own_range():
  training = likeness.merge([scan(channels=2) | {'intensity_1_p50': [0.9]}])
  (line,) = unlike(scan(channels=2), training)
  assert line.startswith('channel 1: 50 % of its intensities lie below 0.40')


def test_pictures_are_compared_by_their_sides_in_pixels():
  training = likeness.merge([scan(shape=(1, 565, 584), spacing_mm=(1, 1, 1))])
  assert unlike_picture((1, 600, 500), training) == []
  (line,) = unlike_picture((1, 2000, 1500), training)
  assert line == '2000 pixels on the longer side, in training 584 to 584'


def unlike_picture(shape, training):
  measures = scan(shape=shape, spacing_mm=(1, 1, 1))
  return likeness.find_unlike(measures, training, slice_axis='axial', unit='pixels')
