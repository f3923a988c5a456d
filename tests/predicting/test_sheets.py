"""The picture of a prediction: its slices in their true shape, the classes outlined."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from thrifty_jax.predicting import sheets
from thrifty_jax.scans import overlays


def drawn(mask, spacing_mm=(3, 1, 1)):
  image = np.random.default_rng(0).normal(size=mask.shape)
  content = sheets.draw_sheet(
    image, mask, spacing_mm=spacing_mm, classes=('background', 'liver', 'spleen'), sides='APLR'
  )
  with Image.open(io.BytesIO(content)) as picture:
    return np.asarray(picture.convert('RGB'))


def pixels_of(picture, number):
  """How many pixels have the colour of a class, its name below left out."""
  colour = overlays.CLASS_COLOURS[number - 1]
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return int((picture[: -sheets._FOOT] == rgb).all(-1).sum())


def test_each_class_is_outlined_not_filled():
  mask = np.zeros((3, 60, 60), np.uint8)
  mask[1, 10:30, 10:30], mask[1, 40:50, 40:50] = 1, 2
  picture = drawn(mask)
  scale = 224 / 60
  for number, side in ((1, 20), (2, 10)):
    assert abs(pixels_of(picture, number) - 4 * side * scale) < 0.1 * 4 * side * scale
  assert pixels_of(drawn(np.zeros((3, 60, 60), np.uint8)), 1) == 0


def test_pixels_that_are_not_square_are_shown_as_they_lie():
  mask = np.zeros((1, 40, 40), np.uint8)
  square, flat = drawn(mask), drawn(mask, spacing_mm=(3, 1, 2))
  assert square.shape[1] == flat.shape[1]
  assert abs(square.shape[0] - flat.shape[0] - 112) <= 1


def test_each_slice_has_the_letters_of_its_sides_at_its_borders(monkeypatch):
  written = []

  class Draw(ImageDraw.ImageDraw):
    def text(self, xy, text, **more):
      written.append((text, xy, more['fill']))
      super().text(xy, text, **more)

  monkeypatch.setattr(sheets.ImageDraw, 'Draw', Draw)
  drawn(np.zeros((2, 40, 40), np.uint8))
  letters = [(text, xy) for text, xy, fill in written if text in 'APLR' and fill == sheets._TEXT]
  assert [text for text, _ in letters] == [*'APLR'] * 2
  for tile in (0, 1):
    left, top = 4 + tile * 228, 4
    upper, right, lower, side = (np.subtract(xy, (left, top)) for _, xy in letters[4 * tile :][:4])
    assert upper[1] < 10 and lower[1] > 205 and side[0] < 10 and right[0] > 205
    assert all(100 < x < 124 for x in (upper[0], lower[0], side[1], right[1]))


def test_a_long_scan_is_shown_in_twenty_slices():
  mask = np.ones((90, 20, 20), np.uint8)
  assert drawn(mask).shape[0] == drawn(mask[:20]).shape[0]


@pytest.mark.parametrize('scale', [1e-12, 1e-9, 1e-5, 1.0, 1e6])
def test_a_picture_is_as_bright_whatever_the_unit_of_the_intensities(scale):
  image = np.random.default_rng(0).uniform(size=(3, 40, 40))
  mask = np.zeros(image.shape, np.uint8)
  pictures = []
  for factor in (1.0, scale):
    content = sheets.draw_sheet(
      image * factor, mask, spacing_mm=(3, 1, 1), classes=('background', 'liver'), sides='APLR'
    )
    with Image.open(io.BytesIO(content)) as picture:
      pictures.append(np.asarray(picture.convert('L')).astype(int))
  assert np.abs(pictures[0] - pictures[1]).max() <= 1
  drawn = [
    overlays.outline_slice(image[0] * factor, mask[0], limits=(0, factor), spacing_mm=(1, 1))
    for factor in (1.0, scale)
  ]
  assert len(drawn[0]) > 1000 and abs(len(drawn[0]) - len(drawn[1])) < 100


@pytest.mark.parametrize('brightest', [1e-7, 0.3, 900.0])
def test_a_scan_that_is_mostly_masked_out_is_not_drawn_dark(brightest):
  image = np.zeros((3, 40, 40))
  image[1, 20, 20:24] = brightest  # four voxels of 4,800
  content = sheets.draw_sheet(
    image,
    np.zeros(image.shape, np.uint8),
    spacing_mm=(3, 1, 1),
    classes=('background', 'liver'),
    sides='APLR',
  )
  with Image.open(io.BytesIO(content)) as picture:
    assert np.asarray(picture.convert('L'))[100:140, 340:370].max() > 200  # of the second slice


def test_a_picture_is_drawn_in_its_size_and_colours_with_a_rimmed_line():
  image = np.full((60, 90, 3), (200.0, 120.0, 40.0))
  mask = np.zeros((60, 90), np.uint8)
  mask[20:40, 30:60] = 2
  with Image.open(io.BytesIO(sheets.draw_picture(image, mask))) as picture:
    drawn = np.asarray(picture)
  line = [int(overlays.CLASS_COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]
  assert drawn.shape == (60, 90, 3) and drawn[0, 0].tolist() == [200, 120, 40]
  assert drawn[20, 45].tolist() == drawn[39, 45].tolist() == line
  assert drawn[19, 45].tolist() == drawn[21, 45].tolist() == [0, 0, 0]  # the rim on both sides
  assert drawn[30, 45].tolist() == [200, 120, 40]


def test_classes_have_the_colours_of_the_masks_where_these_are_seen():
  legend = (
    '#000000',
    '#ff0000',
    '#101010',
    '#FFFFFF',
    '#808080',
    *(f'#{k:02x}ff00' for k in (1, 9)),
  )
  red, dark, light, grey, *others = overlays.line_colours(legend)
  assert red == '#ff0000' and tuple(others) == legend[5:]
  assert (dark, light, grey) == overlays.CLASS_COLOURS[1:4]
  assert overlays.line_colours(()) == overlays.CLASS_COLOURS
  mask = np.zeros((20, 90), np.uint8)
  mask[5:15, 10:30], mask[5:15, 50:80] = 1, 6
  content = sheets.draw_picture(np.zeros((20, 90, 1)), mask, colours=overlays.line_colours(legend))
  with Image.open(io.BytesIO(content)) as picture:
    drawn = np.asarray(picture)
  assert drawn[5, 20].tolist() == [255, 0, 0] and drawn[5, 60].tolist() == [9, 255, 0]
  many = [f'#{k:02x}ff00' for k in range(200)]
  assert overlays.line_colours(many) == overlays.CLASS_COLOURS


def test_lines_on_a_large_picture_are_thicker():
  counts = []
  for side in (400, 1600):
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    content = sheets.draw_picture(np.zeros((side, side, 1)), mask)
    with Image.open(io.BytesIO(content)) as picture:
      row = np.asarray(picture)[side // 3]
    counts.append(int((row[:, 1] > 100).sum()))
  assert counts == [2, 6]


def test_of_a_huge_picture_every_second_or_third_row_is_drawn():
  image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
  for most, step in ((60 * 90, 1), (60 * 90 - 1, 2), (1000, 3)):
    content = sheets.draw_picture(image, np.zeros((60, 90), np.uint8), most_pixels=most)
    with Image.open(io.BytesIO(content)) as drawn:
      np.testing.assert_array_equal(np.asarray(drawn), image[::step, ::step])


def test_fifteen_classes_and_more_have_colours_of_their_own():
  known = overlays.CLASS_COLOURS
  values = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in known]
  apart = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(values, 2)]
  assert len(known) >= 15 and min(apart) >= 40
