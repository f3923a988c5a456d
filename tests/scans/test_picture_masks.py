"""Classes of pixels in masks that are pictures: by numbers, palettes and colours."""

import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from plain_png import png

from thrifty_jax.errors import InputError
from thrifty_jax.scans import pictures
from thrifty_jax.scans.pictures import Legend

CLASSES = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 0, 2]], np.uint8)
BINARY = CLASSES.clip(0, 1)
RED = ((0, 0, 0), (255, 0, 0), (0, 128, 0))
LEGEND = Legend(('#000000', '#FF0000', '#008000'), 3)


def save(folder, pixels, name='mask.png', **options):
  path = folder / name
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
  image.save(path, **options)
  return path


def indexed(numbers, colours):
  image = Image.fromarray(numbers)
  image.putpalette(np.array(colours, np.uint8).tobytes())
  return image


def coloured(numbers, colours=RED):
  return np.array(colours, np.uint8)[numbers]


def check(path, legend, expected):
  found = pictures.read_mask(path, legend)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, expected[None])


def refuse(path, legend, *parts):
  """Refuses the mask in one line that names it and has all parts."""
  with pytest.raises(InputError) as caught:
    pictures.read_mask(path, legend)
  text = str(caught.value)
  assert text.startswith(f'{path}: ') and '\n' not in text
  for part in parts:
    assert part in text


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('classes', [0, 3])
def test_grey_levels_are_class_numbers(tmp_path, dtype, classes):
  path = save(tmp_path, CLASSES.astype(dtype), 'mask.tif')
  check(path, Legend(classes=classes), CLASSES)


def test_of_two_classes_0_and_255_are_0_and_1(tmp_path):
  path = save(tmp_path, BINARY * np.uint8(255))
  check(path, Legend(classes=2), BINARY)
  check(save(tmp_path, BINARY), Legend(classes=2), BINARY)
  check(save(tmp_path, np.full_like(BINARY, 255)), Legend(classes=2), np.ones_like(BINARY))
  check(save(tmp_path, np.zeros_like(BINARY)), Legend(classes=2), np.zeros_like(BINARY))


def test_0_and_255_of_more_or_unknown_classes_are_no_0_and_1(tmp_path):
  path = save(tmp_path, BINARY * np.uint8(255))
  check(path, Legend(), BINARY * np.uint8(255))
  refuse(path, Legend(classes=3), '2 values (0, 255)', 'class numbers, 0 to 2.')


def test_the_void_of_pascal_voc_is_no_foreground(tmp_path):
  colours = [(0, 0, 0), (128, 0, 0), *((0, n, n) for n in range(2, 255)), (224, 224, 192)]
  path = save(tmp_path, indexed(BINARY * np.uint8(255), colours))
  refuse(path, Legend(classes=2), '2 values (0, 255)', '0 to 1, or 255 with --config.data.ignore')
  check(path, Legend(classes=2, ignore=255), BINARY * np.uint8(255))
  greys = [(n, n, n) for n in range(256)]
  check(save(tmp_path, indexed(BINARY * np.uint8(255), greys)), Legend(classes=2), BINARY)


def test_a_number_without_a_class_is_refused(tmp_path):
  refuse(save(tmp_path, CLASSES), Legend(classes=2), '3 values (0, 1, 2)', '0 to 1, or 0 and 255')
  many = np.arange(12, dtype=np.uint8).reshape(3, 4)
  refuse(save(tmp_path, many), Legend(classes=3), '12 values (0, 1, 2, 3, 4, 5, ...)')
  mixed = BINARY * np.uint8(254) + BINARY[::-1]  # 1 beside 255
  refuse(save(tmp_path, mixed), Legend(classes=2), '0 and 255')
  refuse(save(tmp_path, CLASSES.astype(np.uint16) * 200), Legend(), '(0, 200, 400)', 'up to 255')


@pytest.mark.parametrize('value', [0.5, -1, 256, np.nan, np.inf])
def test_float_values_that_are_no_class_numbers_are_refused(tmp_path, value):
  pixels = CLASSES.astype(np.float32)
  pixels[0, 0] = value
  refuse(save(tmp_path, pixels, 'mask.tif'), Legend(), 'not all whole numbers from 0 to 255')


@pytest.mark.parametrize('ending', ['png', 'bmp', 'tif'])
@pytest.mark.parametrize('classes', [0, 2, 3])
def test_one_bit_is_class_0_or_1(tmp_path, ending, classes):
  check(save(tmp_path, BINARY > 0, f'mask.{ending}'), Legend(classes=classes), BINARY)


def test_grey_of_two_bits_holds_its_stored_numbers(tmp_path):
  path = tmp_path / 'mask.png'
  path.write_bytes(png(CLASSES, bits=2, kind=0))
  check(path, Legend(classes=3), CLASSES)
  np.testing.assert_array_equal(pictures.read(path), CLASSES[None] * 85)


def test_colours_whose_channels_are_equal_are_grey(tmp_path):
  check(save(tmp_path, np.stack([CLASSES] * 3, axis=-1)), Legend(classes=3), CLASSES)
  check(save(tmp_path, np.stack([BINARY * np.uint8(255)] * 3, axis=-1)), Legend(classes=2), BINARY)


@pytest.mark.parametrize('ending', ['png', 'bmp', 'tif'])
def test_a_coloured_palette_means_its_indices(tmp_path, ending):
  path = save(tmp_path, indexed(CLASSES, RED), f'mask.{ending}')
  check(path, Legend(classes=3), CLASSES)


def test_a_coloured_palette_means_its_indices_where_only_greys_are_used(tmp_path):
  """As of Pascal VOC, whose class 7 is (128, 128, 128)."""
  voc = [(0, 0, 0), *((128, number, 0) for number in range(6)), (128, 128, 128)]
  path = save(tmp_path, indexed(BINARY * np.uint8(7), voc))
  check(path, Legend(classes=21), BINARY * np.uint8(7))


@pytest.mark.parametrize('ending', ['png', 'gif', 'tif'])
def test_a_grey_palette_in_the_order_of_its_greys_means_these(tmp_path, ending):
  path = save(tmp_path, indexed(BINARY, [(0, 0, 0), (255, 255, 255)]), f'mask.{ending}')
  check(path, Legend(classes=2), BINARY)
  path = save(tmp_path, indexed(CLASSES, [(0, 0, 0), (1, 1, 1), (4, 4, 4)]), f'mask.{ending}')
  check(path, Legend(classes=5), CLASSES + 2 * (CLASSES == 2).astype(np.uint8))


@pytest.mark.parametrize(
  'classes, greys',
  [
    (1 - BINARY, (255, 0)),  # as predict writes it of white and black
    (0 * BINARY, (255, 0)),
    (1 + 0 * BINARY, (255, 0)),
    (CLASSES, (2, 0, 1)),
    (CLASSES, (0, 2, 1)),
    (CLASSES, (0, 0, 1)),
  ],
)
def test_a_grey_palette_in_another_order_is_refused(tmp_path, classes, greys):
  path = save(tmp_path, indexed(classes.astype(np.uint8), [(grey,) * 3 for grey in greys]))
  refuse(path, Legend(classes=3), 'a palette in which the indices', "('#000000','#ffffff')")
  named = Legend(tuple(f'#{grey:02x}{grey:02x}{grey:02x}' for grey in sorted({*greys})))
  check(path, named, np.searchsorted(sorted({*greys}), np.array(greys)[classes]).astype(np.uint8))


def test_black_and_white_against_the_order_of_a_coloured_palette_is_refused(tmp_path):
  colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0)]
  path = save(tmp_path, indexed(1 - BINARY, colours))
  refuse(path, Legend(classes=2), 'indices [0, 1]', "('#000000','#ffffff')")
  check(path, Legend(('#000000', '#ffffff')), BINARY)
  # With its third colour it is a coloured mask like any other.
  check(save(tmp_path, indexed(CLASSES, colours)), Legend(classes=3), CLASSES)
  # In the order of the palette both readings agree.
  ordered = [(0, 0, 0), (255, 255, 255), (255, 0, 0)]
  check(save(tmp_path, indexed(BINARY, ordered)), Legend(classes=3), BINARY)


def test_colours_without_a_legend_are_listed_with_the_option(tmp_path):
  refuse(
    save(tmp_path, coloured(CLASSES)),
    Legend(classes=3),
    '#000000: 5 pixels, #008000: 4 pixels, #ff0000: 3 pixels',
    "--config.data.colours=\"('#000000','#ff0000')\"",
  )


def test_an_image_in_place_of_a_mask_is_called_one(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
  refuse(save(tmp_path, Image.fromarray(pixels)), Legend(classes=2), 'Are the images and the masks')


@pytest.mark.parametrize('ending', ['png', 'bmp', 'tif', 'gif'])
def test_colours_are_classes_by_the_legend(tmp_path, ending):
  path = save(tmp_path, indexed(CLASSES, RED), f'mask.{ending}')
  check(path, LEGEND, CLASSES)
  check(save(tmp_path, indexed(CLASSES, RED).convert('RGB'), 'rgb.png'), LEGEND, CLASSES)


def test_each_primary_colour_is_told_from_the_others(tmp_path):
  """No channel is taken for another."""
  colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
  legend = Legend(('#0000ff', '#00ff00', '#ff0000'), 3)
  check(save(tmp_path, coloured(CLASSES, colours)), legend, CLASSES)


def test_grey_has_colours_too(tmp_path):
  legend = Legend(('#ffffff', '#000000', '#555555'))
  check(save(tmp_path, np.array([255, 0, 85], np.uint8)[CLASSES]), legend, CLASSES)
  check(save(tmp_path, BINARY == 0), legend, BINARY)


def test_a_colour_without_a_class_is_refused_with_its_pixels(tmp_path):
  pixels = coloured(CLASSES)
  pixels[0, :2] = (1, 2, 254)
  refuse(save(tmp_path, pixels), LEGEND, '2 pixels', '(#0102fe: 2 pixels)', '#000000, #FF0000')


def test_colours_of_16_bits_are_refused(tmp_path):
  path = tmp_path / 'mask.tif'
  tifffile.imwrite(path, coloured(CLASSES).astype(np.uint16), photometric='rgb')
  refuse(path, LEGEND, 'values of 16 bits; expected 8')
  refuse(path, Legend(classes=3), 'the mask has colours;')


def test_a_jpeg_is_a_mask_only_where_it_has_not_blurred(tmp_path):
  blocks = np.kron(BINARY, np.ones((8, 8), np.uint8))
  exact = save(tmp_path, blocks * np.uint8(255), 'a.jpg', quality=100)
  check(exact, Legend(classes=2), blocks)
  refuse(save(tmp_path, BINARY * np.uint8(255), 'b.jpg'), Legend(classes=2), 'JPEG blurs')
  refuse(save(tmp_path, blocks, 'c.jpg'), Legend(classes=2), 'JPEG blurs')
  refuse(save(tmp_path, blocks, 'c.jpg'), Legend(), 'JPEG blurs')
  refuse(save(tmp_path, coloured(CLASSES), 'd.jpg'), LEGEND, 'JPEG blurs')


def test_a_transparent_mask_is_refused(tmp_path):
  alpha = np.full_like(BINARY, 255)
  alpha[0, 0] = 0
  pixels = np.dstack([coloured(CLASSES), alpha])
  refuse(save(tmp_path, pixels), LEGEND, 'without transparency')


@pytest.mark.parametrize(
  'colours, classes, message',
  [
    (('red',), 0, 'expected colours as #rrggbb'),
    (('#ff00zz',), 0, 'expected colours as #rrggbb'),
    (('#FF0000', '#ff0000'), 0, 'each once'),
    (('#ff0000', '#00ff00'), 3, '2 colours; expected one for each of the 3 classes'),
  ],
)
def test_a_legend_of_no_colours_is_refused(colours, classes, message):
  with pytest.raises(InputError, match=re.escape(message)):
    Legend(colours, classes)
