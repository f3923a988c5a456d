"""The page prepares slices, cuts windows and finds classes as the program does, in Node."""

import dataclasses
from pathlib import Path
from typing import Any

import image_settings
import numpy as np
import page_modules
import pytest

from thrifty_jax import labels
from thrifty_jax.scans import overlays, pictures, slices, volumes, windows
from thrifty_jax.scores import components

SIDE, CLASSES = 16, 3
PLAIN = image_settings.make(image_size=SIDE)
SETTINGS: dict[str, Any] = {
  'whole': {},
  'windows': {'reduction': 1.0},
  'windows of a smaller picture': {'reduction': 1.7},
  'windows of the nearest pixels': {'reduction': 2.5, 'resize': 'nearest'},
  'a window of values': {
    'reduction': 1.0, 'intensity': 'window', 'window': (20.0, 200.0), 'percentiles': None,
  },
}  # fmt: skip
# More than a window along both axes, along one, along none; ends that windows do not divide.
EMPTY = (9, 14)
SIZES = ((50, 37), (11, 43), (43, 11), EMPTY, (16, 24))
CASES = [(name, size) for name in SETTINGS for size in SIZES]
PREPARE = """input.channels.map((channel) => {
  const values = Float32Array.from(channel);
  functions.toUnitRange(values, input.settings);
  return functions.toSquares(values, input.size, input.settings).map((square) => [...square]);
})"""
CLASSIFY = """[...functions.classesOf(
  input.logits.map((one) => Float32Array.from(one)), input.size, input.settings)]"""


def made(size, seed=0):
  """A picture in colours whose channels differ in their range, [H, W, 3]."""
  values = np.random.default_rng(seed).gamma(2.0, (20, 30, 9), (*size, 3))
  if size == EMPTY:
    values[..., 2] = 77  # one value in all of a channel, as a stain that took nowhere
  return values.clip(0, 255).astype(np.uint8)


def called(expression, inputs):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  found = page_modules.call('prepare.js', expression, inputs)
  return dict(zip(CASES, found, strict=True))


def given(name):
  settings = dataclasses.replace(PLAIN, **SETTINGS[name])
  of_page = {'padding': None, 'classes': ['x'] * CLASSES, 'unit': 'pixels'}
  return settings, dataclasses.asdict(settings) | of_page


@pytest.fixture(scope='module')
def prepared():
  inputs = []
  for name, size in CASES:
    channels = np.moveaxis(made(size), -1, 0).reshape(3, -1).tolist()
    inputs.append({'channels': channels, 'size': size, 'settings': given(name)[1]})
  return called(PREPARE, inputs)


def logits_of(name, size):
  """Scores in windows, [T, S, S, K]."""
  count = slices.count_windows(size, SIDE, given(name)[0].reduction)
  values = np.random.default_rng(1).normal(size=(count, SIDE, SIDE, CLASSES))
  return values.astype(np.float32)


@pytest.fixture(scope='module')
def classified():
  inputs = []
  for name, size in CASES:
    logits = np.moveaxis(logits_of(name, size), -1, 1)
    flat = logits.reshape(len(logits), -1).tolist()
    inputs.append({'logits': flat, 'size': size, 'settings': given(name)[1]})
  return called(CLASSIFY, inputs)


@pytest.mark.parametrize(('name', 'size'), CASES)
def test_the_network_sees_what_the_program_prepares(prepared, name, size):
  case = volumes.Case('a', 'a', (Path('a.png'),))
  picture = made(size)[None]
  volume = volumes.make_volume(case, image=picture, affine=pictures.AFFINE)
  wanted = slices.image_to_slices(volume, given(name)[0])  # [T, S, S, 3]
  found = np.reshape(prepared[name, size], (3, -1, SIDE, SIDE))
  wanted = np.moveaxis(wanted, -1, 0).astype(np.float64)
  assert found.shape == wanted.shape
  # A last bit of float32 may round to the next number of float16.
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)
  assert (found == wanted).mean() > 0.999


@pytest.mark.parametrize(('name', 'size'), CASES)
def test_logits_become_the_classes_of_the_program(classified, name, size):
  reduction = given(name)[0].reduction
  wanted, _ = slices.native_classes([logits_of(name, size)], size, reductions=[reduction])
  found = np.reshape(classified[name, size], size)
  np.testing.assert_array_equal(found, wanted[0])
  assert len(np.unique(found)) == CLASSES


def test_windows_are_cut_and_joined_bit_for_bit():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  call = """(([plane, size, side]) => {
    const parts = functions.cut(Float32Array.from(plane), size, side);
    const scaled = parts.map((part, t) => part.map((one) => one * (t + 1) / 7));
    return { parts: parts.map((one) => [...one]), plane: [...functions.join(scaled, size, side)] };
  })(input)"""
  planes = {(size, side): made(size)[..., 0] / np.float32(9) for size in SIZES for side in (5, 16)}
  inputs = [[plane.ravel().tolist(), *key] for key, plane in planes.items()]
  found = page_modules.call('windows.js', call, inputs)
  for one, ((size, side), plane) in zip(found, planes.items(), strict=True):
    parts = windows.cut(plane, side)
    np.testing.assert_array_equal(np.reshape(one['parts'], parts.shape), parts)
    scales = np.arange(1, len(parts) + 1)[:, None, None] / 7
    scaled = (parts.astype(np.float64) * scales).astype(np.float32)
    np.testing.assert_array_equal(np.float32(one['plane']), windows.join(scaled, size).ravel())


# --- what is shown


@pytest.mark.parametrize('most', [1, 255, 60000])
def test_colours_are_shown_between_the_limits_of_overlays(most):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  picture = np.random.default_rng(2).uniform(0, most, (20, 30, 3)).astype(np.float32)
  call = 'functions.coloursOf(input.map((one) => Float32Array.from(one))).map((one) => [...one])'
  (found,) = page_modules.call('shades.js', call, [picture.reshape(-1, 3).T.tolist()])
  low, high = overlays.colour_limits(picture)
  wanted = 255 * ((picture - low) / (high - low)).clip(0, 1)
  np.testing.assert_allclose(np.transpose(found).reshape(picture.shape), wanted, atol=0.51)


@pytest.mark.parametrize(('centre', 'width'), [(40, 400), (-600, 1500), (0.5, 1), (99, 0.25)])
def test_a_window_makes_shades_of_what_is_stored(centre, width):
  """Within a shade where steps of 16 bits are finer than shades."""
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  voxels = np.random.default_rng(4).normal(centre, 2 * width, 4000).astype(np.float32)
  call = """(([voxels, window]) => {
    const stored = Float32Array.from(voxels);
    const found = functions.levelsOf(stored);
    const shades = functions.shadesOf(found, window);
    return [[...found.levels].map((level) => shades[level]), [...stored], found.least, found.most];
  })(input)"""
  window = {'centre': centre, 'width': width}
  ((found, kept, least, most),) = page_modules.call('shades.js', call, [[voxels.tolist(), window]])
  wanted = 255 * ((voxels - (centre - width / 2)) / width).clip(0, 1)
  np.testing.assert_allclose(found, wanted, atol=0.6)
  np.testing.assert_array_equal(np.float32(kept), voxels)
  assert (least, most) == (voxels.min(), voxels.max()) and {0, 255} < {*found}


def test_one_value_or_none_has_a_shade():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  call = """(({ levels, least, most, step }) => [[...levels], least, most, step])(
    functions.levelsOf(Float32Array.from(input)))"""
  assert page_modules.call('shades.js', call, [[7, 7]]) == [[[0, 0], 7, 7, 0]]


def test_the_values_that_become_black_and_white_are_those_of_the_settings():
  call = 'functions.toUnitRange(Float32Array.from(input.voxels), input.settings)'
  voxels = made((40, 30))[..., 0].ravel().tolist()
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  names = ('whole', 'a window of values')
  inputs = [{'voxels': voxels, 'settings': given(name)[1]} for name in names]
  found = page_modules.call('prepare.js', call, inputs)
  np.testing.assert_allclose(found[0], np.percentile(voxels, (0.5, 99.5)), rtol=1e-6)
  assert found[1] == [20, 200]


def test_ranks_are_those_of_sorted_values():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  random = np.random.default_rng(6)
  values = {
    'any': random.normal(0, 1000, 500),
    'few': random.integers(-3, 3, 500),
    'near': 1000 + random.normal(0, 1e-3, 500),
    'small': random.normal(0, 1e-40, 500),
    'one': np.array([-7.5]),
  }
  call = """(() => {
    const found = functions.ranksOf(Float32Array.from(input));
    return input.map((_, rank) => found(rank));
  })()"""
  inputs = [np.float32(one).tolist() for one in values.values()]
  for found, one in zip(page_modules.call('ranks.js', call, inputs), inputs, strict=True):
    np.testing.assert_array_equal(np.float32(found), np.sort(np.float32(one)))


def test_outlines_are_the_pixels_of_a_class_beside_another():
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  mask = np.random.default_rng(3).integers(0, 2, (6, 9)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
  mask[10:15, 20:30] = 2
  call = '[...functions.edges(Uint8Array.from(input[0]), input[1])]'
  (found,) = page_modules.call('view.js', call, [[mask.ravel().tolist(), mask.shape]])
  drawn = overlays.outline(mask).astype(int) - len(overlays.CLASS_COLOURS)
  np.testing.assert_array_equal(np.reshape(found, mask.shape), np.maximum(drawn, 0))


# --- regions

REGIONS = ((1, 2), (2,))  # of CLASSES


def test_logits_become_the_regions_of_the_program():
  inputs, wanted = [], []
  for name, size in CASES:
    logits = logits_of(name, size)
    found, _ = slices.native_classes(
      [logits], size, reductions=[given(name)[0].reduction], regions=REGIONS
    )
    wanted.append(found[0])
    flat = np.moveaxis(logits, -1, 1).reshape(len(logits), -1).tolist()
    settings = given(name)[1] | {'regions': REGIONS}
    inputs.append({'logits': flat, 'size': size, 'settings': settings})
  found = called(CLASSIFY, inputs)
  for key, expected in zip(CASES, wanted, strict=True):
    np.testing.assert_array_equal(np.reshape(found[key], key[1]), expected)
    assert {*np.unique(expected)} == {0, 1, 2}


@pytest.mark.parametrize('regions', [(), ((1, 2, 3), (2, 3), (3,)), ((2, 1), (1,), (2,), (3,))])
def test_pieces_and_drawn_classes_of_regions_are_those_of_the_program(regions):
  if not page_modules.NODE:
    pytest.skip('there is no Node')
  call = """(([mask, shape, number, settings]) => {
    const kept = Uint8Array.from(mask);
    functions.keepLargest(kept, shape, number, settings);
    return [[...kept], [...functions.innermost(settings)]];
  })(input)"""
  random = np.random.default_rng(5)
  mask = random.choice(4, size=(3, 9, 8), p=[0.55, 0.15, 0.15, 0.15]).astype(np.uint8)
  numbers = range(1, 1 + (len(regions) or 3))
  settings = {'regions': regions} if regions else {}
  inputs = [[mask.ravel().tolist(), mask.shape, number, settings] for number in numbers]
  for number, (kept, drawn) in zip(
    numbers, page_modules.call('prepare.js', call, inputs), strict=True
  ):
    expected = components.keep_largest(mask, [number], regions)
    np.testing.assert_array_equal(np.reshape(kept, mask.shape), expected)
    np.testing.assert_array_equal(
      np.array(drawn)[:4], labels.innermost(np.arange(4, dtype=np.uint8), regions)
    )
