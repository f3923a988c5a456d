"""Metrics against the slow, obvious way, closed forms, and other libraries."""

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage
from scipy.spatial.distance import cdist

from thrifty_jax.scores import metrics, surface

NAMES = ('dsc', 'hd95_mm', 'max_distance_mm', 'assd_mm', 'nsd', 'ravd_percent')


def slow_dsc(prediction, truth):
  both = sum(bool(p) and bool(t) for p, t in zip(prediction.flat, truth.flat, strict=True))
  size = sum(map(bool, prediction.flat)) + sum(map(bool, truth.flat))
  return np.nan if size == 0 else 2 * both / size


def test_counts_of_each_class_equal_its_own_binary_counts():
  rng = np.random.default_rng(1)
  prediction, truth = rng.integers(0, 4, (2, 5, 6, 7))
  counts = metrics.overlap_counts(prediction, truth, classes=4)
  for k in range(1, 4):
    p, t = prediction == k, truth == k
    assert counts[k - 1].tolist() == [(p & t).sum(), p.sum(), t.sum()]
    assert metrics.dsc(counts)[k - 1] == pytest.approx(slow_dsc(p, t))


def test_counts_of_parts_add_up_to_those_of_the_whole():
  rng = np.random.default_rng(2)
  prediction, truth = rng.integers(0, 3, (2, 6, 4, 4))
  whole = metrics.overlap_counts(prediction, truth, classes=3)
  parts = [metrics.overlap_counts(prediction[i], truth[i], classes=3) for i in range(6)]
  np.testing.assert_array_equal(np.sum(parts, axis=0), whole)


def test_a_label_outside_the_classes_is_refused():
  label = np.full((1, 2, 2), 3)
  with pytest.raises(ValueError, match='class 3 is not one of 3'):
    metrics.overlap_counts(np.zeros_like(label), label, classes=3)
  with pytest.raises(ValueError, match='class -1 is not one of 3'):
    metrics.overlap_counts(label - 4, label - 1, classes=3)


def test_different_shapes_are_refused():
  with pytest.raises(ValueError, match='differ in shape'):
    metrics.overlap_counts(np.zeros((1, 2, 2), int), np.zeros((1, 2, 3), int), classes=2)


def slow_surface(mask):
  """Voxels with a neighbour outside, looked up one by one, [n, 3]; none across an axis of 1."""
  filled = set(map(tuple, np.argwhere(mask)))
  steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
  steps = [step for step in steps if mask.shape[np.flatnonzero(step)[0]] > 1]
  outside = [
    voxel for voxel in filled if any(tuple(np.add(voxel, step)) not in filled for step in steps)
  ]
  return np.asarray(sorted(outside)).reshape(-1, 3)


def slow_distances(first, second, spacing_mm):
  """From each surface voxel of first to the nearest of second: all pairs."""
  first, second = slow_surface(first) * spacing_mm, slow_surface(second) * spacing_mm
  return np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1)).min(1)


def slow_scores(prediction, truth, spacing_mm, tolerance_mm):
  """All scores from lists of single voxels and of all pairs of surface voxels."""
  sizes = int(prediction.sum()), int(truth.sum())
  missed, invented = bool(sizes[1] and not sizes[0]), bool(sizes[0] and not sizes[1])
  scores = {'dsc': slow_dsc(prediction, truth), 'missed': missed, 'invented': invented}
  scores['rightly_empty'] = sizes == (0, 0)
  if sizes == (0, 0):
    distances = dict.fromkeys((*metrics.DISTANCES, 'nsd', 'ravd_percent'), np.nan)
  elif missed or invented:
    sides = [(n, n * step) for n, step in zip(truth.shape, spacing_mm, strict=True)]
    diagonal = sum(side**2 for n, side in sides if n > 1) ** 0.5
    distances = dict.fromkeys(('hd95_mm', 'max_distance_mm', 'assd_mm'), diagonal)
    distances |= {'nsd': 0, 'ravd_percent': -100 if missed else np.inf}
  else:
    lists = [
      sorted(slow_distances(*pair, spacing_mm))
      for pair in ((prediction, truth), (truth, prediction))
    ]
    both = lists[0] + lists[1]
    distances = {
      'hd95_mm': max(slow_percentile(values, 0.95) for values in lists),
      'max_distance_mm': max(both),
      'assd_mm': sum(both) / len(both),
      'nsd': sum(value <= tolerance_mm for value in both) / len(both),
      'ravd_percent': 100 * (sizes[0] - sizes[1]) / sizes[1],
    }
  return scores | distances


def slow_percentile(ordered, share):
  """Between the two ranks that lie around it, linearly."""
  place = share * (len(ordered) - 1)
  low = int(place)
  high = min(low + 1, len(ordered) - 1)
  return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def box(shape, *limits):
  mask = np.zeros(shape, bool)
  mask[tuple(slice(*pair) for pair in limits)] = True
  return mask


def ball(shape, middle_mm, radius_mm, spacing_mm):
  grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1) * spacing_mm
  return ((grid - middle_mm) ** 2).sum(-1) <= radius_mm**2


def blobs(seed, shape=(9, 16, 13)):
  """Two smooth masks that overlap and touch the border, and a spacing."""
  rng = np.random.default_rng(seed)
  noise = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 1.5, 2, 2))
  return noise[0] + noise[1] > 0, noise[0] + 0.6 * noise[2] > 0, rng.uniform(0.5, 3.5, 3).tolist()


@pytest.mark.parametrize('seed', range(6))
def test_all_scores_equal_those_of_loops_over_voxels_and_pairs(seed):
  rng = np.random.default_rng(seed)
  for _ in range(50):
    shape = rng.integers(1, 6, 3)
    densities = rng.choice([0, 0.02, 0.3, 0.9], 2)  # often empty, or a single voxel
    prediction, truth = (rng.random(shape) < density for density in densities)
    spacing, tolerance = rng.uniform(0.3, 4.0, 3).tolist(), rng.uniform(0, 4)
    found = metrics.score_volume(prediction, truth, spacing_mm=spacing, nsd_tolerance_mm=tolerance)
    assert found._asdict() == pytest.approx(
      slow_scores(prediction, truth, spacing, tolerance), abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize('flat', [0, 1, 2])
def test_the_scores_of_a_picture_are_those_of_its_outlines_in_the_plane(flat):
  prediction, truth, spacing = blobs(3, shape=(1, 30, 25))
  prediction, truth = prediction[0], truth[0]
  cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
  rims = [mask & ~ndimage.binary_erosion(mask, cross) for mask in (prediction, truth)]
  assert all(
    0 < rim.sum() < mask.sum() for rim, mask in zip(rims, (prediction, truth), strict=True)
  )
  points = [np.argwhere(rim) * spacing[1:] for rim in rims]
  pairs = cdist(*points)
  forth, back = pairs.min(axis=1), pairs.min(axis=0)
  both, tolerance = np.concatenate([forth, back]), float(np.median(pairs.min(axis=1)))
  sides = np.insert(spacing[1:], flat, 7.0)
  found = metrics.score_volume(
    np.expand_dims(prediction, flat), np.expand_dims(truth, flat),
    spacing_mm=sides.tolist(), nsd_tolerance_mm=tolerance,
  )  # fmt: skip
  assert found.hd95_mm == pytest.approx(max(np.percentile(one, 95) for one in (forth, back)))
  assert found.max_distance_mm == pytest.approx(both.max())
  assert found.assd_mm == pytest.approx(both.mean())
  assert found.nsd == pytest.approx(np.mean(both <= tolerance + 1e-4))


def test_a_missed_class_of_a_picture_is_the_diagonal_of_its_plane_away():
  truth = box((1, 30, 40), (0, 1), (3, 9), (2, 5))
  found = metrics.score_volume(np.zeros_like(truth), truth, spacing_mm=(1, 1, 1))
  assert found.missed and found.hd95_mm == 50
  voxel = np.ones((1, 1, 1), bool)
  found = metrics.score_volume(voxel, voxel, spacing_mm=(1, 1, 1))
  assert (found.dsc, found.max_distance_mm, found.nsd) == (1, 0, 1)


def test_a_missed_organ_is_as_far_off_as_the_volume_is_wide():
  truth = box((4, 3, 12), (1, 3), (1, 2), (0, 9))
  found = metrics.score_volume(np.zeros_like(truth), truth, spacing_mm=(3, 3, 1))
  assert found.missed and not found.invented
  assert (found.dsc, found.nsd, found.ravd_percent) == (0, 0, -100)
  for name in metrics.DISTANCES:
    assert getattr(found, name) == pytest.approx(np.sqrt(12**2 + 9**2 + 12**2))


def test_an_invented_organ_has_infinite_volume_difference_and_no_nan():
  prediction = box((4, 3, 12), (1, 3), (1, 2), (0, 9))
  found = metrics.score_volume(prediction, np.zeros_like(prediction), spacing_mm=(3, 3, 1))
  assert found.invented and not found.missed
  assert found.ravd_percent == np.inf
  assert not any(np.isnan(getattr(found, name)) for name in NAMES)


def test_nothing_found_where_nothing_is_is_no_score_but_counted():
  empty = np.zeros((2, 3, 4), bool)
  found = metrics.score_volume(empty, empty, spacing_mm=(1, 1, 1))
  assert all(np.isnan(getattr(found, name)) for name in NAMES)
  assert found.rightly_empty and not found.missed and not found.invented


@pytest.mark.parametrize(
  ('scores', 'of_columns', 'of_all'),
  [
    ([[1.0, 0.5], [0.0, 0.5]], [0.5, 0.5], 0.5),
    ([[1.0, np.nan], [0.0, np.nan]], [0.5, np.nan], 0.5),
    ([[1.0, np.nan], [np.nan, 0.2]], [1.0, 0.2], 0.6),
    ([[np.nan, np.nan], [np.nan, np.nan]], [np.nan, np.nan], np.nan),
    ([[np.inf, np.nan], [0.0, 0.2]], [np.inf, 0.2], np.inf),
    ([[0.0, np.nan], [np.nan, np.nan]], [0.0, np.nan], 0.0),
  ],
)
def test_a_mean_is_over_the_scores_that_there_are(scores, of_columns, of_all):
  scores = np.asarray(scores)
  np.testing.assert_array_equal(metrics.mean_of_scored(scores, axis=0), of_columns)
  np.testing.assert_allclose(metrics.mean_of_scored(scores), of_all)


def test_a_perfect_prediction_is_at_no_distance():
  truth, _, spacing = blobs(0)
  found = metrics.score_volume(truth, truth, spacing_mm=spacing, nsd_tolerance_mm=0)
  assert [getattr(found, name) for name in NAMES] == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('shift', [1, 2, 3])
def test_a_shifted_box_is_off_by_the_shift(axis, shift):
  spacing, limits = (3.0, 0.75, 1.25), [(4, 10), (4, 10), (4, 10)]
  truth = box((16, 16, 16), *limits)
  found = metrics.score_volume(np.roll(truth, shift, axis), truth, spacing_mm=spacing)
  # The face that is left behind, a quarter of the surface, is off by all of it.
  assert found.hd95_mm == found.max_distance_mm == shift * spacing[axis]
  assert found.dsc == pytest.approx((6 - shift) / 6)
  assert found.ravd_percent == 0


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_two_parallel_sheets_are_one_distance_apart(axis):
  spacing = (2.5, 0.7, 1.1)
  place = [slice(None)] * 3
  sheets = np.zeros((2, 8, 8, 8), bool)
  for sheet, at in zip(sheets, (1, 6), strict=True):
    place[axis] = slice(at, at + 1)
    sheet[tuple(place)] = True
  apart = 5 * spacing[axis]
  for tolerance, nsd in ((apart, 1), (apart - 0.01, 0)):
    found = metrics.score_volume(*sheets, spacing_mm=spacing, nsd_tolerance_mm=tolerance)
    expected = [0, apart, apart, apart, nsd, 0]
    assert [getattr(found, name) for name in NAMES] == pytest.approx(expected)


def test_a_box_within_a_box():
  truth = box((9, 9, 9), (1, 8), (1, 8), (1, 8))
  prediction = box((9, 9, 9), (2, 7), (2, 7), (2, 7))
  found = metrics.score_volume(prediction, truth, spacing_mm=(1, 1, 1), nsd_tolerance_mm=1)
  # Of the 218 outer surface voxels those of the faces are 1 off, of the edges sqrt 2, of the
  # corners sqrt 3; all 98 inner ones are 1 off.
  faces, edges, corners = 6 * 25, 12 * 5, 8
  total = faces + edges * np.sqrt(2) + corners * np.sqrt(3) + 98
  assert found.assd_mm == pytest.approx(total / (218 + 98))
  assert found.nsd == pytest.approx((faces + 98) / (218 + 98))
  assert found.max_distance_mm == pytest.approx(np.sqrt(3))
  assert found.ravd_percent == pytest.approx(100 * (5**3 - 7**3) / 7**3)


@pytest.mark.parametrize('spacing', [(1.0, 1.0, 1.0), (2.0, 0.8, 0.8)])
@pytest.mark.parametrize('radius', [8.0, 11.0, 14.0])
def test_spheres_are_off_by_the_difference_of_their_radii(spacing, radius):
  shape, middle = [int(36 / step) for step in spacing], (17.3, 17.9, 17.6)
  truth, prediction = (ball(shape, middle, r, spacing) for r in (11.0, radius))
  found = metrics.score_volume(prediction, truth, spacing_mm=spacing)
  for name in metrics.DISTANCES:
    assert getattr(found, name) == pytest.approx(abs(radius - 11), abs=max(spacing))
  volumes = radius**3, 11.0**3
  assert found.dsc == pytest.approx(2 * min(volumes) / sum(volumes), abs=0.02)
  assert found.ravd_percent == pytest.approx(100 * (volumes[0] / volumes[1] - 1), abs=5)


def test_a_surface_at_just_the_tolerance_counts_whatever_the_spacing_was_rounded_to():
  truth = box((1, 1, 12), (0, 1), (0, 1), (0, 1))
  prediction = np.roll(truth, 5, axis=2)
  for step in (0.4, 0.4 * (1 + 1e-7), 0.4 * (1 - 1e-7)):
    found = metrics.score_volume(prediction, truth, spacing_mm=(1, 1, step))
    assert found.nsd == 1
  found = metrics.score_volume(prediction, truth, spacing_mm=(1, 1, 0.401))
  assert found.nsd == 0


def test_volume_difference_is_signed_and_of_the_truth():
  found = metrics.ravd_percent(np.array([[3, 5, 4], [4, 5, 10], [0, 0, 0]]))
  np.testing.assert_array_equal(found, [25, -50, np.nan])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prediction': np.ones((2, 2, 2), int)}, 'prediction is int64'),
    ({'truth': np.ones((2, 2), bool)}, 'truth is bool'),
    ({'truth': np.ones((2, 2, 3), bool)}, 'differ in shape'),
    ({'spacing_mm': (1, 1)}, 'three numbers above 0'),
    ({'spacing_mm': (1, 0, 1)}, 'three numbers above 0'),
    ({'spacing_mm': (1, float('nan'), 1)}, 'three numbers above 0'),
    ({'nsd_tolerance_mm': -1.0}, '0 or more'),
  ],
)
def test_what_has_no_score_is_refused(changes, message):
  mask = np.ones((2, 2, 2), bool)
  arguments = {'prediction': mask, 'truth': mask, 'spacing_mm': (1, 1, 1)} | changes
  prediction, truth = arguments.pop('prediction'), arguments.pop('truth')
  with pytest.raises(ValueError, match=message):
    metrics.score_volume(prediction, truth, **arguments)


# --- other libraries


def itk(mask, spacing_mm):
  image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
  image.SetSpacing(spacing_mm[::-1])
  return image


@pytest.mark.parametrize('seed', range(20))
def test_simpleitk_finds_the_same_dice_and_distances(seed):
  prediction, truth, spacing = blobs(seed)
  found = metrics.score_volume(prediction, truth, spacing_mm=spacing)
  images = itk(prediction, spacing), itk(truth, spacing)
  overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
  overlap.Execute(*images)
  assert found.dsc == pytest.approx(overlap.GetDiceCoefficient(1), abs=1e-4)
  surfaces = [SimpleITK.LabelContour(image, fullyConnected=False) for image in images]
  hausdorff = SimpleITK.HausdorffDistanceImageFilter()
  hausdorff.Execute(*surfaces)
  assert found.max_distance_mm == pytest.approx(hausdorff.GetHausdorffDistance(), abs=1e-4)
  lists = []
  for start, target in (surfaces, surfaces[::-1]):
    far = SimpleITK.SignedMaurerDistanceMap(target, squaredDistance=False, useImageSpacing=True)
    distance = np.abs(SimpleITK.GetArrayFromImage(far))
    lists.append(distance[SimpleITK.GetArrayFromImage(start) > 0])
  hd95 = max(np.percentile(values, 95) for values in lists)
  assert found.hd95_mm == pytest.approx(hd95, abs=1e-4)
  assert found.assd_mm == pytest.approx(np.concatenate(lists).mean(), abs=1e-4)


@pytest.mark.filterwarnings('ignore')
def test_monai_finds_the_same_scores():
  torch, monai = pytest.importorskip('torch'), pytest.importorskip('monai.metrics')
  for seed in range(20):
    prediction, truth, spacing = blobs(seed)
    found = metrics.score_volume(prediction, truth, spacing_mm=spacing, nsd_tolerance_mm=2.0)
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, truth)]
    settings = {'include_background': True, 'spacing': spacing}
    distance = monai.compute_hausdorff_distance
    average = monai.compute_average_surface_distance
    expected = {
      'dsc': monai.compute_dice(*pair, include_background=True),
      'hd95_mm': distance(*pair, percentile=95, **settings),
      'max_distance_mm': distance(*pair, **settings),
      'assd_mm': average(*pair, symmetric=True, **settings),
      'nsd': monai.compute_surface_dice(*pair, class_thresholds=[2.0], **settings),
    }
    for name, value in expected.items():
      assert getattr(found, name) == pytest.approx(float(value), abs=1e-4)


@pytest.mark.filterwarnings('ignore')
def test_medpy_finds_the_same_but_for_its_own_hd95():
  medpy = pytest.importorskip('medpy.metric.binary')
  for seed in range(20):
    prediction, truth, spacing = blobs(seed)
    found = metrics.score_volume(prediction, truth, spacing_mm=spacing)
    assert found.dsc == pytest.approx(medpy.dc(prediction, truth), abs=1e-4)
    assert found.max_distance_mm == pytest.approx(medpy.hd(prediction, truth, spacing), abs=1e-4)
    assert found.assd_mm == pytest.approx(medpy.assd(prediction, truth, spacing), abs=1e-4)
    assert found.ravd_percent == pytest.approx(100 * medpy.ravd(prediction, truth), abs=1e-4)
    both = np.concatenate(surface.distances_mm(prediction, truth, spacing_mm=spacing))
    assert np.percentile(both, 95) == pytest.approx(
      medpy.hd95(prediction, truth, spacing), abs=1e-4
    )


def test_a_missed_class_is_farther_away_than_any_two_voxels_of_the_volume():
  first, second = np.zeros((2, 3, 4, 12), bool)
  first[0, 0, 0] = second[-1, -1, -1] = True
  far, missed = (
    metrics.score_volume(mask, second, spacing_mm=(2.0, 1.5, 0.5))
    for mask in (first, np.zeros_like(first))
  )
  assert far.max_distance_mm < missed.hd95_mm == pytest.approx(np.sqrt(6**2 + 6**2 + 6**2))
