"""The brain that comes with nilearn: nothing cut off, nothing shared between blocks."""

import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pytest
import recorded
import tensorflow_datasets as tfds

from data_prep import brain, prepare
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.scans import slices
from thrifty_jax.scans.preprocessing import image_settings

NOWHERE = Path('nowhere')
installed = pytest.mark.skipif(
  importlib.util.find_spec('nilearn') is None, reason='nilearn is not installed'
)


def maps():
  """T1, grey and white as stored, x y z to the right, front and head."""
  return [
    np.asanyarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    for path in (*brain.find_cases(NOWHERE)[0].image, *brain.find_cases(NOWHERE)[0].label)
  ]


def window_settings(size):
  data = configs.default().data
  data.update({'image_size': size, 'intensity': 'window', 'window': (0.0, 255.0)})
  return image_settings(data)


@installed
def test_blocks_are_apart_and_named_in_order():
  cases = brain.find_cases(NOWHERE)
  assert [case.case for case in cases] == [f'block{index:02d}' for index in range(12)]
  assert [case.patient for case in cases] == [case.case for case in cases]
  heights = [round(brain.read_case(case).affine[2, 3]) for case in cases]  # of the lowest slice
  assert set(np.diff(heights)) == {10}  # 8 slices of 1 mm and a gap of 2


@installed
def test_every_voxel_is_that_of_the_stored_maps(monkeypatch):
  monkeypatch.setattr(brain, 'simulate', lambda block, generator: block)
  t1, grey, white = maps()
  image = nibabel.Nifti1Image.from_filename(brain.find_cases(NOWHERE)[0].image[0])
  to_world = np.asarray(image.affine)
  random = np.random.default_rng(0)
  for case in brain.find_cases(NOWHERE)[::4]:
    volume = brain.read_case(case)
    assert volume.image.shape == (8, 192, 192, 1)
    for d, h, w in random.integers(0, (8, 192, 192), (200, 3)):
      x, y, z = np.round(np.linalg.solve(to_world, volume.affine @ (d, h, w, 1)))[:3].astype(int)
      assert volume.image[d, h, w, 0] == t1[x, y, z]
      g, v = int(grey[x, y, z]), int(white[x, y, z])
      expected = 0 if g + v < 127.5 else 1 if g >= v else 2
      assert volume.truth[d, h, w] == expected


def test_the_simulated_coil_contrast_and_noise_are_what_is_stated(monkeypatch):
  def shown(value, seed):
    return brain.simulate(np.full((3, 40, 30, 1), value), np.random.default_rng(seed))

  noise = shown(0.0, 0).ravel() / 255  # of a magnitude without a signal: Rayleigh's distribution
  np.testing.assert_allclose(np.mean(noise**2), 2 * brain._NOISE**2, rtol=0.05)
  monkeypatch.setattr(brain, '_NOISE', 0.0)
  exponents = []
  for seed in range(40):
    white, grey = shown(255.0, seed), shown(102.0, seed)
    np.testing.assert_allclose(white.max(), 255, rtol=1e-6)
    np.testing.assert_allclose(white.max() / white.min(), brain._COIL, rtol=1e-5)
    np.testing.assert_array_equal(white, np.broadcast_to(white[:1], white.shape))
    assert np.ptp(grey / white) < 1e-5  # contrast knows no place
    exponents.append(np.log((grey / white).mean()) / np.log(0.4))
  assert 1 / brain._GAMMA <= min(exponents) < 0.85 and 1.15 < max(exponents) <= brain._GAMMA


@installed
def test_a_block_is_the_same_whenever_it_is_read_and_another_one_is_lit_otherwise():
  first, second = brain.find_cases(NOWHERE)[4:6]
  once, again = (brain.read_case(first).image for _ in range(2))
  np.testing.assert_array_equal(once, again)
  assert np.abs(once - brain.read_case(second).image).mean() > 5


@installed
def test_the_box_cuts_nothing_off_and_a_pixel_is_a_voxel():
  how = window_settings(192)
  for case in brain.find_cases(NOWHERE):
    volume = brain.read_case(case)
    assert not volume.truth[:, [0, -1]].any()
    assert not volume.truth[:, :, [0, -1]].any()
    assert all((volume.truth == k).sum() > 2000 for k in (1, 2))
    image, label = slices.to_slices(volume, how)
    np.testing.assert_array_equal(label, volume.truth)
    np.testing.assert_allclose(image, volume.image / 255, atol=1e-3)


@installed
@pytest.mark.parametrize('size', [96, 128, 160])
def test_a_coarser_grid_leaves_room_above_the_score_to_reach(size):
  volume = brain.read_case(brain.find_cases(NOWHERE)[5])
  how = window_settings(size)
  _, label = slices.to_slices(volume, how)
  back = slices.to_native(np.eye(3, dtype=np.float32)[label], (192, 192)).argmax(-1)
  for k in (1, 2):
    both = np.sum((back == k) & (volume.truth == k))
    assert 2 * both / (np.sum(back == k) + np.sum(volume.truth == k)) > 0.92


@installed
def test_it_prepares_with_its_warning(tmp_path):
  config = configs.default()
  classes = ('background', 'grey matter', 'white matter')
  config.data.update({'name': 'brain', 'classes': classes, 'image_size': 64})
  config.data.data_dir = str(tmp_path)
  recorded.check(config, tmp_path)
  info = tfds.builder_from_directory(str(prepare.prepare(config))).info
  assert info.metadata['note'] == brain.ABOUT.note
  assert info.splits['slices'].num_examples == 96


def test_without_nilearn_it_is_said_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'pip install .*requirements-demo\.txt'):
    brain.find_cases(NOWHERE)
