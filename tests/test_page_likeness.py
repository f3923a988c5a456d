"""The page finds scans unlike those of the training as the script of an export does, in Node."""

import json
from typing import Any

import numpy as np
import page_modules
import pytest

from thrifty_jax.data import likeness
from thrifty_jax.exporting import segment_onnx

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


@pytest.fixture(scope='module')
def by_page():
  """Lines of the page about all scans, by a network that knows its scans and one that does not."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  inputs = []
  for known in (KNOWN, None):
    for changes in SCANS.values():
      scan: dict[str, Any] = {'image': made(5), 'shape': SHAPE, 'spacing': SPACING} | changes
      squares = scan['image'].reshape(len(scan['image']), -1).astype(float).tolist()
      settings = {'training_scans': known, 'slice_axis': 'axial'}
      inputs.append([squares, scan['shape'], scan['spacing'], settings])
  expression = 'functions.unlike(input[0].map((one) => Float32Array.from(one)), ...input.slice(1))'
  return page_modules.call('likeness.js', expression, inputs)


@pytest.mark.parametrize('name', SCANS)
def test_the_page_names_what_the_script_names(by_page, name):
  lines = by_page[[*SCANS].index(name)]
  scan = {'image': made(5), 'shape': SHAPE, 'spacing': SPACING} | SCANS[name]
  theirs = segment_onnx.unlike(**scan, settings={'training_scans': KNOWN, 'slice_axis': 'axial'})
  if name == 'a single slice':  # of which the page does not expect a volume
    theirs = [line for line in theirs if not line.startswith('slices')]
  measures = [line.replace('_', ' ').split(' of the range')[0].split(',')[0] for line in theirs]
  assert len(lines) == len(theirs)
  for line, measure in zip(lines, measures, strict=True):
    *words, value = line.split(', in training')[0].split()
    *expected, number = measure.split()
    if 'thick' in line:
      assert line == measure
    else:
      assert words == expected and float(value) == pytest.approx(float(number), abs=6e-3, rel=1e-3)
  assert bool(lines) == (name not in ('one of them', 'a single slice'))


def test_a_network_that_knows_nothing_of_its_scans_says_nothing(by_page):
  assert by_page[len(SCANS) :] == [[]] * len(SCANS)
