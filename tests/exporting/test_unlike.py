"""The script of an export finds the same scans unlike the training as predict does."""

import json

import numpy as np
import pytest

from thrifty_jax.data import likeness
from thrifty_jax.exporting import segment_onnx

SHAPE, SPACING = (12, 40, 32), (3.0, 0.9, 0.9)


def made(seed=0, *, low=0.0, high=1.0):
  return np.random.default_rng(seed).uniform(low, high, (SHAPE[0], 16, 16, 1)).astype(np.float16)


@pytest.fixture(scope='module')
def known():
  scans = [likeness.measure(made(seed), SHAPE, SPACING) for seed in range(3)]
  return json.loads(json.dumps(likeness.merge(scans)))


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({}, []),
    ({'spacing': (7.0, 0.9, 0.9)}, ['slice_spacing_mm']),
    ({'spacing': (1.0, 0.9, 0.9)}, ['slice_spacing_mm']),
    ({'spacing': (3.0, 0.9, 1.5)}, ['pixel_spacing_mm', 'field_of_view_mm']),
    ({'shape': (30, 40, 32)}, ['slices']),
    ({'shape': (5, 40, 32)}, ['slices']),
    ({'shape': (12, 80, 32)}, ['field_of_view_mm']),
    ({'spacing': (0.9, 3.0, 0.9)}, ['thick slices that are not axial', 'slice_spacing_mm']),
    ({'image': made(low=0.9)}, ['intensity_0_p5', 'intensity_0_p50']),
    ({'image': made(high=0.1)}, ['intensity_0_p50', 'intensity_0_p95']),
  ],
)
def test_the_script_names_what_predict_names(known, changes, expected):
  scan = {'image': made(5), 'shape': SHAPE, 'spacing': SPACING} | changes
  settings = {'training_scans': known, 'slice_axis': 'axial'}
  lines = segment_onnx.unlike(**scan, settings=settings)
  theirs = likeness.find_unlike(
    likeness.measure(scan['image'], scan['shape'], scan['spacing']), known, slice_axis='axial'
  )
  assert bool(lines) == bool(theirs)
  for name in expected:
    assert any(line.startswith(name) for line in lines)
  assert len(lines) >= len(expected)


@pytest.mark.parametrize('seed', range(5))
def test_whatever_a_scan_is_like_both_agree(known, seed):
  rng = np.random.default_rng(seed)
  for _ in range(20):
    shape = tuple(np.round(np.multiply(SHAPE, rng.uniform(0.4, 2.5, 3))).astype(int).tolist())
    spacing = tuple(np.multiply(SPACING, rng.uniform(0.4, 2.5, 3)).tolist())
    image = made(seed, low=rng.uniform(0, 0.4), high=rng.uniform(0.5, 1))
    lines = segment_onnx.unlike(
      image, shape, spacing, {'training_scans': known, 'slice_axis': 'axial'}
    )
    theirs = likeness.find_unlike(
      likeness.measure(image, shape, spacing), known, slice_axis='axial'
    )
    assert bool(lines) == bool(theirs)


def test_a_model_that_knows_nothing_of_its_scans_says_nothing():
  settings = {'training_scans': None, 'slice_axis': 'axial'}
  assert segment_onnx.unlike(made(), (900, 1, 1), SPACING, settings) == []
