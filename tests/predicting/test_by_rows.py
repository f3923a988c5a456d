"""Pictures predicted by bands of rows, against the same networks on the whole picture."""

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tifffile

from thrifty_jax import config as configs
from thrifty_jax.data import likeness
from thrifty_jax.errors import InputError
from thrifty_jax.networks import model_spec
from thrifty_jax.predicting import by_rows, preparation
from thrifty_jax.scans import bands, pictures, slices
from thrifty_jax.scans.volumes import Volume

FILES: tuple[tuple[int, type, Any], ...] = (
  (3, np.uint8, {'tile': (16, 16), 'compression': 'zlib'}),
  (1, np.uint16, {'rowsperstrip': 5}),
  (1, np.float32, {}),
)
SIZES = [(70, 45), (33, 16), (10, 12), (16, 50), (7, 64)]


def make_spec(channels, reduction, side=16):
  config = configs.default()
  config.data.update({'classes': ('a', 'b', 'c'), 'modalities': channels, 'unit': 'pixels'})
  config.data.update({'image_size': side, 'reduction': reduction, 'context': 0})
  config.data.update({'clahe_clip_limit': 0.0, 'curvature_flow_iterations': 0})
  config.data.intensity = 'percentiles'
  statistics = {'mean': np.zeros(channels), 'std': np.ones(channels)}
  return model_spec.make_spec(config, statistics)


def make_network(seed, channels, side=16):
  """Logits that depend on every channel and on the place in a window, [T, S, S, M] to K = 3."""
  rng = np.random.default_rng(seed)
  mixing = rng.normal(size=(channels, 3)).astype(np.float32)
  place = rng.normal(size=(side, side, 3)).astype(np.float32)

  def predict(image):
    # Pixel by pixel, so that the number of windows does not matter in the last bit.
    return ((image.astype(np.float32) - 0.5)[..., None] * mixing).sum(axis=-2) + place

  return predict


def segment_whole(picture, networks):
  whole = Volume(picture[None], None, pictures.AFFINE, 'a', 'a')
  volume = preparation.turn(whole, networks[0][0])
  images = [preparation.prepare(volume, spec) for spec, _ in networks]
  mask, shares = slices.native_classes(
    [predict(image) for image, (_, predict) in zip(images, networks, strict=True)],
    picture.shape[:2],
    reductions=[spec.image.reduction for spec, _ in networks],
    probabilities=True,
  )
  assert shares is not None
  return mask[0], shares[:, 0], likeness.measure(images[0], volume.image.shape[:3], (1, 1, 1))


@pytest.mark.parametrize('reductions', [(1.0,), (2.5,), (1.0, 3.0)])
@pytest.mark.parametrize('size', SIZES)
def test_masks_and_probabilities_are_those_of_the_whole(size, reductions, tmp_path, monkeypatch):
  monkeypatch.setattr(bands, '_BAND_PIXELS', 300)
  rng = np.random.default_rng(0)
  for channels, kind, options in FILES:
    networks = [(make_spec(channels, r), make_network(int(r), channels)) for r in reductions]
    picture = (999 * rng.random((*size, channels)) % 250).astype(kind)
    path = tmp_path / 'a.tif'
    pixels = picture if channels == 3 else picture[..., 0]
    tifffile.imwrite(path, pixels, photometric='rgb' if channels == 3 else 'minisblack', **options)
    assert all(by_rows.suits(spec) for spec, _ in networks)
    mask, shares, measures = by_rows.segment(
      pictures.Rows([path]), networks, batch_size=3, probabilities=True
    )
    expected, expected_shares, expected_measures = segment_whole(picture, networks)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(shares, expected_shares)
    assert measures.keys() == expected_measures.keys()
    for name, values in measures.items():
      np.testing.assert_allclose(values, expected_measures[name], rtol=1e-6)


class Tall:
  """A picture of which every row is made when it is read, and the most rows read at a time."""

  def __init__(self, height):
    self.shape, self.most = (height, 128, 1), 0

  def __getitem__(self, rows):
    first, last, _ = rows.indices(self.shape[0])
    self.most = max(self.most, last - first)
    values = np.arange(first, last)[:, None, None] * np.arange(1, 129)[:, None]
    return (values % 251).astype(np.uint8)


def test_memory_does_not_grow_with_the_picture_but_for_a_byte_a_pixel(monkeypatch):
  monkeypatch.setattr(bands, '_BAND_PIXELS', 1 << 12)
  spec, network = make_spec(1, 4.0, side=32), make_network(0, 1, side=32)
  peaks = []
  for height in (512, 2048):
    picture: Any = Tall(height)
    tracemalloc.start()
    mask, *_ = by_rows.segment(picture, [(spec, network)], batch_size=4)
    peaks.append(tracemalloc.get_traced_memory()[1] - mask.nbytes)
    tracemalloc.stop()
    assert picture.most <= 64
  # The weights of rows grow, along one side alone; logits would be 12 bytes for each pixel.
  assert peaks[1] - peaks[0] < 300 * 1536 < 0.2 * 12 * 1536 * 128


def test_what_needs_all_rows_at_once_does_not_suit():
  spec = make_spec(1, 2.0)
  assert by_rows.suits(spec)
  drawn: Any = ({'reduction': 0.0}, {'clahe_clip_limit': 0.1}, {'curvature_flow_iterations': 2})
  for changed in drawn:
    image = dataclasses.replace(spec.image, **changed)
    assert not by_rows.suits(dataclasses.replace(spec, image=image))
  others: Any = ({'padding': (9.0, 0.0)}, {'context': 1}, {'unit': 'mm'})
  for changed in others:
    assert not by_rows.suits(dataclasses.replace(spec, **changed))


def test_a_picture_of_one_value_is_segmented_as_the_whole():
  networks = [(make_spec(3, 2.0), make_network(0, 3))]
  picture = np.random.default_rng(0).integers(0, 250, (40, 30, 3), np.uint8)
  for channels in ((1,), (0, 1, 2)):
    picture[..., channels] = 7
    mask, *_ = by_rows.segment(picture, networks, batch_size=3)
    np.testing.assert_array_equal(mask, segment_whole(picture, networks)[0])


def test_what_is_no_image_is_refused_as_of_the_whole():
  spec, network = make_spec(1, 1.0), make_network(0, 1)
  picture = np.random.default_rng(0).random((20, 20, 1), np.float32)
  bad = picture.copy()
  bad[3, 3] = np.nan
  for values, message in (
    (bad, 'non-finite voxels, NaN or infinite; --nan_is_lowest of thrifty_jax.predict, or'),
    (np.where(np.isnan(bad), np.inf, bad), 'non-finite voxels, NaN or infinite; export it'),
    (picture[:0], 'empty'),
    (np.concatenate([picture] * 3, axis=-1), 'has 3 channel'),
  ):
    for segment in (by_rows.segment, lambda one, two, **_: segment_whole(one, two)):
      with pytest.raises(InputError, match=message):
        segment(values, [(spec, network)], batch_size=2)


def test_probabilities_that_take_too_much_memory_are_refused(monkeypatch):
  monkeypatch.setattr(by_rows, '_MOST_SHARES', 4 * 2 * 20 * 30)
  spec, network = make_spec(1, 1.0), make_network(0, 1)
  picture = np.random.default_rng(0).random((20, 31, 1), np.float32)
  by_rows.segment(picture[:, :30], [(spec, network)], batch_size=2, probabilities=True)
  by_rows.segment(picture, [(spec, network)], batch_size=2)
  with pytest.raises(InputError, match='20 x 31 pixels.* Leave out --probabilities'):
    by_rows.segment(picture, [(spec, network)], batch_size=2, probabilities=True)
