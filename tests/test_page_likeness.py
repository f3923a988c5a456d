"""The page finds scans unlike those of the training as predict and exports do, in Node."""

import json
import re
from typing import Any

import numpy as np
import page_modules
import pytest

from thrifty_jax.data import likeness

SHAPE, SPACING = (12, 40, 32), (3.0, 0.9, 0.9)


def made(seed, *, low=0.0, high=1.0):
  return np.random.default_rng(seed).uniform(low, high, (SHAPE[0], 8, 8, 1)).astype(np.float16)


KNOWN = json.loads(
  json.dumps(likeness.merge([likeness.measure(made(seed), SHAPE, SPACING) for seed in range(3)]))
)
SCANS: dict[str, dict[str, Any]] = {
  'one of them': {},
  'of other slices': {'shape': (30, 40, 32)},
  'of few slices': {'shape': (5, 40, 32)},
  'a single slice': {'shape': (1, 40, 32)},
  'far slices': {'spacing': (7.0, 0.9, 0.9)},
  'near slices': {'spacing': (1.0, 0.9, 0.9)},
  'large pixels': {'spacing': (3.0, 0.9, 1.5)},
  'a large field': {'shape': (12, 80, 32)},
  'thick along another axis': {'spacing': (0.9, 3.0, 0.9)},
  'bright': {'image': made(5, low=0.9)},
  'dark': {'image': made(5, high=0.1)},
  'CT through a network of MR': {
    'shape': (120, 512, 512), 'spacing': (5.0, 0.7, 0.7), 'image': made(5, low=0.4, high=0.5),
  },
}  # fmt: skip


UNLIKE = """functions.unlike(
  input[0].map((channel) => channel.map((one) => Float32Array.from(one))), ...input.slice(1))"""


def squares_of(image):
  """Slices of each channel, as the page has them."""
  return [image[..., m].reshape(len(image), -1).tolist() for m in range(image.shape[-1])]


@pytest.fixture(scope='module')
def by_page():
  """Lines of the page about all scans, by a network that knows its scans and one that does not."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  inputs = []
  for known in (KNOWN, None):
    for changes in SCANS.values():
      scan: dict[str, Any] = {'image': made(5), 'shape': SHAPE, 'spacing': SPACING} | changes
      settings = {'training_scans': known, 'slice_axis': 'axial'}
      inputs.append([squares_of(scan['image']), scan['shape'], scan['spacing'], settings])
  return page_modules.call('likeness.js', UNLIKE, inputs)


# The page's words for a measure, and how predict's line about it begins, with the value.
WORDS = {
  'slices': r'(\S+) slices,',
  'slice spacing mm': r'slices (\S+) mm apart',
  'pixel spacing mm': r'pixels of (\S+) mm',
  'field of view mm': r'a field of view of (\S+) mm',
  'intensity 0 p5': r'channel 0: 5 % of its intensities lie below (\S+) ',
  'intensity 0 p50': r'channel 0: 50 % of its intensities lie below (\S+) ',
  'intensity 0 p95': r'channel 0: 95 % of its intensities lie below (\S+) ',
  'thick slices that are not': r'it was taken in thick slices that are not (axial)',
}


@pytest.mark.parametrize('name', SCANS)
def test_the_page_names_what_predict_names(by_page, name):
  lines = by_page[[*SCANS].index(name)]
  scan: dict[str, Any] = {'image': made(5), 'shape': SHAPE, 'spacing': SPACING} | SCANS[name]
  found = likeness.measure(scan['image'], scan['shape'], scan['spacing'])
  theirs = likeness.find_unlike(found, KNOWN, slice_axis='axial')
  if name == 'a single slice':  # of which the page does not expect a volume
    theirs = [line for line in theirs if not line.startswith('1 slices')]
  assert len(lines) == len(theirs)
  for line, other in zip(lines, theirs, strict=True):
    words, value = line.split(', in training')[0].rsplit(' ', 1)
    match = re.match(WORDS[words], other)
    assert match, (line, other)
    if words.startswith('thick'):
      assert value == match[1]
    else:
      assert float(value) == pytest.approx(float(match[1]), rel=1e-2, abs=1e-2)
  assert bool(lines) == (name not in ('one of them', 'a single slice'))


def test_a_network_that_knows_nothing_of_its_scans_says_nothing(by_page):
  assert by_page[len(SCANS) :] == [[]] * len(SCANS)


def test_of_a_picture_only_its_pixels_and_the_shades_of_its_colours_are_compared():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  shape, spacing = (1, 60, 40), (1.0, 1.0, 1.0)
  image = np.concatenate([made(seed)[:4] for seed in range(3)], axis=-1)  # four windows
  known = likeness.merge([likeness.measure(image, (1, 40, 30), spacing)])
  settings = {'training_scans': json.loads(json.dumps(known)), 'slice_axis': 'axial'}
  settings['unit'] = 'pixels'
  blue = image.copy()
  blue[..., 2] = blue[..., 2] * 0.5
  inputs = [
    [squares_of(one), size, spacing, settings]
    for one, size in ((image, shape), (image, (1, 70, 81)), (blue, (1, 10, 19)))
  ]
  alike, large, small = page_modules.call('likeness.js', UNLIKE, inputs)
  assert alike == []
  assert large == ['pixels on the longer side 81, in training 40 to 40']
  assert small[0].startswith('pixels on the longer side 19,')
  theirs = likeness.measure(blue, (1, 10, 19), spacing)
  found = likeness.find_unlike(theirs, known, slice_axis='axial', unit='pixels')
  assert len(small) == len(found) and small[1].startswith('intensity 2 p50')
