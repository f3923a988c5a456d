"""A raw scan gets the mask that evaluation scored, voxel by voxel, however it is stored."""

import csv
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import phantom_chaos
import pytest
import SimpleITK
from ml_collections import ConfigDict
from recorded import prepare_for

from data_prep import chaos, data_sets, phantom, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import device, model_folder, predict
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build
from thrifty_jax.predicting import preparation, segment
from thrifty_jax.scans import masks, slices, sources, volumes
from thrifty_jax.scores import components, evaluate, scoring

PATIENTS = 8  # five are tested: as many ways in which scans are stored


pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')


def turn_headers(folder):
  """Turns every scan, and its mask, in the scanner: by another angle each, up to 45 degrees."""
  for number in range(PATIENTS):
    x, y, z = np.array((1, 2, 3)) / np.sqrt(14)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(9 + 9 * number)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    for path in (folder / 'TrainingData').glob(f'Case{number:02d}*.mhd'):
      image = SimpleITK.ReadImage(str(path))
      image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
      SimpleITK.WriteImage(image, str(path), useCompression=True)


def axial(raw):
  """Stored five ways: as scanners do, upside down, turned round, feet first, slices last."""
  phantom.write_promise12(raw, patients=PATIENTS, seed=0)
  return {'name': 'phantom', 'context': 1}


def oblique(raw):
  phantom.write_promise12(raw, patients=PATIENTS, seed=0)
  turn_headers(raw)
  return {'name': 'phantom'}


def sagittal(raw):
  """Thick sagittal slices, stored seven ways, in a file for each of two channels."""
  phantom_folders.write_nnunet(raw, patients=PATIENTS, seed=0, slice_axis='sagittal')
  return {'name': 'folder', 'slice_axis': 'sagittal', 'modalities': 2, 'context': 1}


def coronal(raw):
  """Coronal slices, the channels on the last axis; the settings of the paper's recipe."""
  phantom_folders.write_decathlon(raw, patients=PATIENTS, seed=0, slice_axis='coronal')
  filters = {'clahe_clip_limit': 0.05, 'resize': 'nearest', 'curvature_flow_iterations': 2}
  return {'name': 'folder', 'slice_axis': 'coronal', 'modalities': 2, **filters}


def dicom(raw):
  """CT with padding around the field of view, file names in either order."""
  phantom_chaos.write(raw, patients=PATIENTS, seed=0)
  return {'name': 'chaos', 'intensity': 'window', 'window': (-150.0, 250.0)}


LAYOUTS = {each.__name__: each for each in (axial, oblique, sagittal, coronal, dicom)}


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory, random_model):
  """The function from a layout to a config, a run's folder, and the masks that were scored."""
  made = {}

  def of(layout):
    if layout not in made:
      folder = tmp_path_factory.mktemp(layout)
      config = configs.default()
      config.data.raw_dir, config.data.data_dir = str(folder / 'raw'), str(folder / 'tfds')
      config.data.update(LAYOUTS[layout](folder / 'raw'))
      if config.data.name == 'folder':
        config.data.classes = phantom_folders.CLASSES
      config.data.image_size, config.evaluate.batch_size = 16, 4
      patients = sorted({case.patient for case in data_sets.find(config).cases})
      config.data.test_patients = tuple(patients[:5])
      config.data.validation_patients = (patients[5],)
      config.model.update({'channels': 4, 'depth': 2})
      config.augment.flip_left_right = config.evaluate.flips = layout == 'axial'
      largest = {'largest_component': [config.data.classes[1]]}
      padding = {'padding': list(chaos.PADDING)} if config.data.name == 'chaos' else {}
      random_model(folder / 'run' / 'model', config, **largest, **padding)
      prepare_for(config, folder / 'run')
      made[layout] = (config, folder / 'run', scored_masks(config, folder / 'run'))
    return made[layout]

  return of


def scored_masks(config: ConfigDict, workdir: Path) -> dict[str, np.ndarray]:
  """What evaluation compares with the truth on the native grid, by case."""
  found = {}
  score_case = scoring.score_case

  def record(case, patient, *, scores, truth, largest=(), spacing_mm=None, **more):
    if spacing_mm is not None:  # not a floor
      native = slices.native_classes([scores], truth.shape[1:])[0]
      found[case] = components.keep_largest(native, largest)
    return score_case(
      case, patient, scores=scores, truth=truth, largest=largest, spacing_mm=spacing_mm, **more
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scoring, 'score_case', record)
    evaluate.evaluate(config, workdir)
  return found


def source_of(config, case):
  """The raw files of a case, without its mask."""
  named = {one.case: one for one in data_sets.find(config).cases}[case]
  if config.data.name == 'chaos':
    return sources.Source(case, (named.image[0].parent,)), named.label
  return sources.Source(case, named.image), named.label


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_raw_scan_gets_exactly_the_mask_that_evaluation_scored(evaluated, layout, tmp_path):
  config, workdir, scored = evaluated(layout)
  segmenter = segment.load_model(workdir, batch_size=4, flips=True)
  turned = []
  for case, expected in scored.items():
    source, _ = source_of(config, case)
    volume, grid = sources.read(source)
    found = segmenter.find(volume)
    np.testing.assert_array_equal(found.mask, expected)
    assert len(np.unique(expected)) == len(config.data.classes)
    # Back in a file, and read by those who know nothing of all this.
    path = tmp_path / f'{case}.nii.gz'
    path.write_bytes(masks.to_bytes(found.turned(found.mask, grid.affine), grid, ending='.nii.gz'))
    mask, affine = volumes.read_nifti(path)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-4)
    read = volumes.Volume(mask[..., None], mask, volume.affine, case, case)
    read = volumes.along(volumes.along(read, 'axial'), config.data.slice_axis)
    np.testing.assert_array_equal(read.label, expected)
    turned.append(mask.shape != expected.shape or (mask != expected).any())
  assert len(turned) >= 5 and (any(turned) or layout == 'dicom')


@pytest.mark.parametrize('layout', ['axial', 'oblique', 'sagittal', 'coronal'])
def test_masks_in_files_score_against_the_stored_truth_as_evaluation_did(
  evaluated, layout, tmp_path
):
  config, workdir, scored = evaluated(layout)
  segmenter = segment.load_model(workdir, batch_size=4, flips=True)
  counted: dict[tuple[str, str], np.ndarray] = {}
  patients = {one.case: one.patient for one in data_sets.find(config).cases}
  for case in scored:
    source, (label_file,) = source_of(config, case)
    volume, grid = sources.read(source)
    found = segmenter.find(volume)
    truth, _ = sources.read_voxels(label_file)
    mask = found.turned(found.mask, grid.affine)  # voxel by voxel where the file of the truth is
    for number, name in enumerate(config.data.classes[1:], start=1):
      ours, theirs = mask == number, truth == number
      counts = np.array([theirs.sum(), ours.sum(), (ours & theirs).sum()])
      counted[patients[case], name] = counted.get((patients[case], name), 0) + counts
  with (workdir / 'evaluate' / 'scores.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(counted)
  for row in rows:
    expected = [int(row[f'{name}_voxels']) for name in ('truth', 'predicted', 'common')]
    np.testing.assert_array_equal(counted[row['patient'], row['class']], expected)


def test_padding_of_a_data_set_is_replaced_as_it_was_for_the_training(evaluated):
  config, workdir, _ = evaluated('dicom')
  spec = model_folder.load(workdir / 'model').spec
  image = np.zeros((2, 16, 16, 1), np.float32)
  image[:, :8], image[:, 8:, :8] = 4001, 3999
  volume = volumes.Volume(image, None, np.eye(4), 'a', 'a')
  found = preparation.prepare(volume, spec)
  assert (found[:, :8] == 0).all() and (found[:, 8:, :8] == 1).all()
  found = preparation.prepare(volume, dataclasses.replace(spec, padding=None))
  assert (found[:, :8] == 1).all() and image.max() == 4001


# --- several models, flips, probabilities


def scores_of(segmenter, volume, axis):
  """Logits of each member, one slice at a time, without batches or flips."""
  volume = volumes.along(volume, axis)
  found = []
  for member in segmenter.members:
    image = preparation.prepare(volume, member.spec).astype(np.float32)
    normal = (image - np.asarray(member.spec.mean)) / np.asarray(member.spec.std)
    padded = np.concatenate([normal[:1], normal, normal[-1:]])  # the ends are their own neighbours
    images = [np.concatenate(padded[d : d + 3], axis=-1)[None] for d in range(len(normal))]
    found.append([np.asarray(member.logits(np.float32(one))[0]) for one in images])
  return volume, np.asarray(found)


def softmax(logits):
  powers = np.exp(logits.astype(np.float64))
  return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope='module')
def folds(evaluated, random_model, tmp_path_factory):
  """A run of three folds."""
  config, *_ = evaluated('axial')
  folder = tmp_path_factory.mktemp('folds')
  for fold in range(3):
    largest = ['foreground'] if fold else []
    random_model(folder / f'fold_{fold}' / 'model', config, seed=fold, largest_component=largest)
  return folder


def test_several_models_are_averaged_by_probability(evaluated, folds):
  config, workdir, scored = evaluated('axial')
  segmenter = segment.load_model(folds, batch_size=4)
  assert len(segmenter.members) == 3
  assert segmenter.largest_component == ('foreground',)  # two of three keep one piece
  case = next(iter(scored))
  volume, _ = sources.read(source_of(config, case)[0])
  found = segmenter.find(volume, probabilities=True)
  turned, scores = scores_of(segmenter, volume, 'axial')
  size = turned.image.shape[1:3]
  native = [slices.to_native(one, size) for one in scores]
  mean = np.mean([softmax(one) for one in native], axis=0)
  assert found.probabilities is not None
  np.testing.assert_allclose(found.probabilities[0], mean[..., 1], atol=2e-5)
  clear = np.abs(mean[..., 1] - 0.5) > 1e-4
  before = np.where(clear, mean.argmax(-1), found.probabilities[0] > 0.5)
  np.testing.assert_array_equal(found.mask, components.keep_largest(before, [1]))
  single = segment.load_model(folds / 'fold_0', batch_size=4).find(volume)
  assert (single.mask != found.mask).any()


def test_half_of_the_models_decide_and_the_scans_of_all_are_alike(evaluated, folds, monkeypatch):
  config, _, scored = evaluated('axial')
  segmenter = segment.load_model([folds / 'fold_0', folds / 'fold_1'], batch_size=4)
  assert segmenter.largest_component == ('foreground',)  # one of two keeps one piece
  members = [
    dataclasses.replace(one, spec=dataclasses.replace(one.spec, training_scans=ranges))
    for one, ranges in zip(segmenter.members, ({'slices': (1, 2)}, {'slices': (3, 4)}), strict=True)
  ]
  ranges = []
  monkeypatch.setattr(
    segment.likeness, 'find_unlike', lambda scan, training, **more: ranges.append(training) or []
  )
  volume, _ = sources.read(source_of(config, next(iter(scored)))[0])
  dataclasses.replace(segmenter, members=tuple(members)).find(volume)
  assert ranges == [{'slices': (1, 4)}]


def test_models_in_a_list_are_the_same_as_in_the_folder_of_their_run(folds):
  listed = [folds / f'fold_{fold}' / 'model' for fold in range(3)]
  sums = [member.sha256 for member in segment.load_model(folds).members]
  assert [member.sha256 for member in segment.load_model(listed).members] == sums
  assert len(set(sums)) == 3


def test_flips_are_those_of_the_training_and_average_logits(evaluated):
  config, workdir, scored = evaluated('axial')
  volume, _ = sources.read(source_of(config, next(iter(scored)))[0])
  flipped = segment.load_model(workdir, batch_size=4, flips=True)
  assert flipped.members[0].spec.flips == ('left_right',)
  plain = segment.load_model(workdir, batch_size=4)
  first = plain.find(volume, probabilities=True).probabilities
  second = flipped.find(volume, probabilities=True).probabilities
  assert first is not None and second is not None
  assert np.abs(first - second).max() > 1e-3


def test_probabilities_change_no_voxel_of_the_mask(evaluated):
  config, workdir, scored = evaluated('sagittal')
  segmenter = segment.load_model(workdir, batch_size=4, flips=True)
  volume, _ = sources.read(source_of(config, next(iter(scored)))[0])
  found = segmenter.find(volume, probabilities=True)
  np.testing.assert_array_equal(found.mask, segmenter.find(volume).mask)
  shares = found.probabilities
  assert shares is not None and shares.shape == (2, *found.mask.shape)
  assert shares.dtype == np.float32 and shares.min() >= 0 and shares.sum(axis=0).max() <= 1 + 1e-6


def test_models_that_disagree_on_classes_or_axis_are_not_averaged(
  evaluated, random_model, tmp_path
):
  config, workdir, _ = evaluated('axial')
  for name, change in (
    ('classes', {'classes': ['background', 'liver']}),
    ('slice_axis', {'slice_axis': 'coronal'}),
  ):
    other = random_model(tmp_path / name, config, **change)
    with pytest.raises(InputError, match=f'its "{name}" is .* must agree'):
      segment.load_model([workdir, other])


def test_the_batch_is_made_smaller_until_it_fits_and_a_budget_for_none_is_refused(
  evaluated, monkeypatch
):
  monkeypatch.setattr(device, 'cores', lambda: 4)  # so many slices at once
  config, workdir, scored = evaluated('axial')
  whole = segment.load_model(workdir, batch_size=8)
  planned = segment.planned_bytes(whole.members[0], 8)
  half = segment.load_model(workdir, batch_size=8, memory_budget_mb=planned / 2 / 2**20)
  assert 1 <= half.fitting_batch < 8
  assert segment.planned_bytes(half.members[0], half.fitting_batch) <= planned // 2
  volume, _ = sources.read(source_of(config, next(iter(scored)))[0])
  assert (whole.find(volume).mask == half.find(volume).mask).mean() > 0.999
  with pytest.raises(InputError, match='one slice takes .* MiB of activations'):
    _ = segment.load_model(workdir, memory_budget_mb=1e-5).fitting_batch


def test_scans_of_any_length_run_the_same_compiled_program(evaluated):
  config, workdir, scored = evaluated('axial')
  segmenter = segment.load_model(workdir, batch_size=4)
  logits, random = build.predict_logits(segmenter.members[0].module), np.random.default_rng(0)
  before = logits._cache_size()
  for depth in (1, 4, 9):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', UserWarning)
      assert segmenter.segment(random.normal(size=(depth, 20, 24)), (3, 1, 1)).shape[0] == depth
  assert logits._cache_size() - before <= 1


# --- arrays


def test_an_array_gets_the_mask_of_its_scan_whichever_way_round_it_is_given(evaluated):
  config, workdir, scored = evaluated('sagittal')
  segmenter = predict.load_model(workdir / 'model', batch_size=4, flips=True)
  case, expected = next(iter(scored.items()))
  volume, _ = sources.read(source_of(config, case)[0])
  for axes in ('SPL', 'RAS', 'LIP', 'AIR'):
    turned, affine = phantom.turn(volume.image, volume.affine, axes)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    mask = segmenter.segment(turned, spacing, axes=axes)
    assert mask.shape == turned.shape[:3] and mask.dtype == np.uint8
    read = volumes.Volume(mask[..., None], mask, affine, case, case)
    np.testing.assert_array_equal(volumes.along(read, 'sagittal').label, expected)


ARRAYS: dict[str, Any] = {
  'two axes': ((np.zeros((4, 4)), (1, 1, 1)), {}, r'an array \(4, 4\)'),
  'words': ((np.full((2, 2, 2), 'a'), (1, 1, 1)), {}, 'expected real numbers'),
  'complex numbers': ((np.zeros((2, 2, 2), complex), (1, 1, 1)), {}, 'expected real numbers'),
  'two spacings': ((np.zeros((2, 2, 2)), (1, 1)), {}, 'expected 3 distances'),
  'no spacing': ((np.zeros((2, 2, 2)), (1, 1, 0)), {}, 'expected 3 distances'),
  'spacings that are texts': ((np.zeros((2, 2, 2)), 'abc'), {}, "spacing_mm is 'abc'; expected 3"),
  'spacings in spacings': ((np.zeros((2, 2, 2)), (1, [1, 1], 1)), {}, 'expected 3 distances'),
  'unknown axes': ((np.zeros((2, 2, 2)), (1, 1, 1)), {'axes': 'XYZ'}, 'expected three letters'),
  'an axis twice': ((np.zeros((2, 2, 2)), (1, 1, 1)), {'axes': 'SIL'}, 'expected three letters'),
  'too many channels': ((np.zeros((2, 2, 2, 2)), (1, 1, 1)), {}, r'has 2 channel\(s\)'),
  'nothing': ((np.zeros((0, 2, 2)), (1, 1, 1)), {}, 'the scan is empty'),
  'not a number': ((np.full((2, 2, 2), np.nan), (1, 1, 1)), {}, 'non-finite voxels'),
  'one shade': ((np.ones((2, 2, 2)), (1, 1, 1)), {}, 'all voxels of a channel are the same'),
}


@pytest.mark.parametrize('name', ARRAYS)
def test_an_array_that_is_no_scan_is_refused(evaluated, name):
  arguments, more, message = ARRAYS[name]
  segmenter = segment.load_model(evaluated('axial')[1])
  with pytest.raises(InputError, match=message) as caught:
    segmenter.segment(*arguments, **more)
  assert '\n' not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
  with pytest.raises(InputError, match='there is no model; expected a model folder'):
    predict.load_model(tmp_path)
