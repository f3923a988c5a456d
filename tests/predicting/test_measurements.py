"""The figures of masks, by hand."""

import numpy as np
import pytest

from thrifty_jax.predicting import measurements
from thrifty_jax.scans import bands, pictures

CLASSES = ('background', 'liver', 'spleen', 'absent')


def test_figures_of_a_volume_are_those_counted_by_hand():
  mask = np.zeros((3, 4, 5), np.uint8)
  mask[1, 2, 1:4] = 1  # three voxels in a row
  mask[0, 0, 0] = mask[2, 3, 4] = 2  # two corners
  image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
  affine = np.diag((3.0, 0.5, 2.0, 1.0))
  affine[0, 1] = 0.4  # sheared: the volume of a voxel is still 3 mm3
  liver, spleen, absent = measurements.measure(
    image[..., None], mask, scan='a', classes=CLASSES, affine=affine
  )
  assert liver == {
    'scan': 'a', 'number': '1', 'class': 'liver', 'voxels': '3', 'volume_ml': '0.009',
    'mean_intensity': '32', 'std_intensity': '0.816497',  # of 31, 32 and 33
    'x_first': '1', 'x_last': '3', 'y_first': '2', 'y_last': '2', 'z_first': '1', 'z_last': '1',
    'extent_left_right_mm': '3', 'extent_back_front_mm': '0.640312', 'extent_foot_head_mm': '6',
  }  # fmt: skip
  assert (spleen['voxels'], spleen['volume_ml'], spleen['mean_intensity']) == ('2', '0.006', '29.5')
  assert [spleen[f'{axis}_last'] for axis in 'xyz'] == ['4', '3', '2']
  assert absent['voxels'] == absent['volume_ml'] == '0'
  assert all(absent[name] == '' for name in absent if name[:4] in ('mean', 'std_', 'exte', 'x_fi'))
  assert [*liver] == [*spleen] == [*absent]


def test_figures_of_a_picture_are_in_pixels_and_of_each_colour():
  mask = np.zeros((6, 7), np.uint8)
  mask[2:4, 3:6] = 1
  image = np.zeros((6, 7, 3), np.uint8)
  image[..., 0] = 250
  image[2, 3:6, 2] = 60
  (row, *_) = measurements.measure(image, mask, scan='p', classes=CLASSES, affine=pictures.AFFINE)
  assert row == {
    'scan': 'p', 'number': '1', 'class': 'liver', 'pixels': '6',
    'mean_intensity_0': '250', 'std_intensity_0': '0', 'mean_intensity_1': '0',
    'std_intensity_1': '0', 'mean_intensity_2': '30', 'std_intensity_2': '30',
    'x_first': '3', 'x_last': '5', 'y_first': '2', 'y_last': '3',
    'extent_x_pixels': '3', 'extent_y_pixels': '2',
  }  # fmt: skip


@pytest.mark.parametrize('kind', [np.uint8, np.int16, np.float32])
def test_means_of_large_classes_do_not_overflow(kind):
  image = np.full((4, 200, 200, 1), 100, kind)
  mask = np.ones(image.shape[:3], np.uint8)
  (row,) = measurements.measure(image, mask, scan='a', classes=CLASSES[:2], affine=np.eye(4))
  assert row['mean_intensity'] == '100' and row['volume_ml'] == '160'


@pytest.mark.parametrize('order', ['RAS', 'LPI', 'SAL', 'AIR'])
def test_figures_read_by_bands_are_those_of_the_whole_along_the_axes_of_the_patient(
  order, monkeypatch
):
  monkeypatch.setattr(bands, '_BAND_PIXELS', 50)
  generator = np.random.default_rng(0)
  mask = (generator.random((7, 6, 5)) > 0.8).astype(np.uint8)
  mask[0], mask[:, :2] = 0, 0
  image = generator.normal(1000, 5, (*mask.shape, 2)).astype(np.float32)
  spacing_mm = np.array([2.5, 0.7, 1.2])
  affine = np.zeros((4, 4))
  for place, direction in enumerate(order):  # of d, h and w
    axis = next(number for number, both in enumerate(('RL', 'AP', 'SI')) if direction in both)
    affine[axis, place] = spacing_mm[place] * (1 if direction in 'RAS' else -1)
  affine[:, 3] = (-50, 20, 7, 1)
  (row,) = measurements.measure(image, mask, scan='a', classes=CLASSES[:2], affine=affine)
  inside = np.argwhere(mask)
  corners = np.concatenate([inside + offset for offset in (-0.5, 0.5)])
  world = corners @ affine[:3, :3].T + affine[:3, 3]
  expected = {
    'volume_ml': len(inside) * spacing_mm.prod() / 1000,
    **{f'mean_intensity_{m}': image[mask == 1][:, m].mean(dtype=float) for m in (0, 1)},
    **{f'std_intensity_{m}': image[mask == 1][:, m].std(dtype=float) for m in (0, 1)},
    **{
      f'extent_{name}_mm': np.ptp(world[:, axis])
      for axis, name in enumerate(('left_right', 'back_front', 'foot_head'))
    },
  }
  assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-5)


def test_figures_of_a_region_are_those_of_all_its_labels():
  mask = np.zeros((3, 4, 5), np.uint8)
  mask[1, 2, 1:4] = (1, 2, 2)
  mask[0, 0, 0] = 3
  image = np.arange(60, dtype=np.float32).reshape(3, 4, 5, 1)
  names, regions = ('background', 'whole', 'core', 'absent'), ((1, 2, 3), (2, 3), (4,))
  whole, core, absent = measurements.measure(
    image, mask, scan='a', classes=names, affine=np.eye(4), regions=regions
  )
  for row, own in ((whole, (1, 2, 3)), (core, (2, 3))):
    places = np.argwhere(np.isin(mask, own))
    assert row['voxels'] == str(len(places))
    assert float(row['mean_intensity']) == pytest.approx(image[np.isin(mask, own)].mean(), rel=1e-5)
    values = image[np.isin(mask, own)].astype(float)
    assert float(row['std_intensity']) == pytest.approx(values.std(), rel=1e-5)
    for axis, column in zip('zyx', places.T, strict=True):
      assert (row[f'{axis}_first'], row[f'{axis}_last']) == (f'{min(column)}', f'{max(column)}')
  assert absent['voxels'] == '0' and absent['x_first'] == absent['mean_intensity'] == ''
