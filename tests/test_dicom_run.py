"""DICOM studies all along: the slices and scores of the same scans in NIfTI, and masks in DICOM."""

import collections
import csv
import json
import shutil
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_studies import SECRET, write_studies
from recorded import prepare_for
from tiny_lean_runs import NO_WARP

from data_prep import data_sets, phantom, phantom_folders
from thrifty_jax import config as configs
from thrifty_jax import main, predict
from thrifty_jax.data import prepared
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.scans import dicom, dicom_truth, sources

pytest.importorskip('highdicom')
pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

CLASSES = phantom_folders.CLASSES
SHAPE = LeanShape((Level(8, 1, 1, 'plain'),) * 3, 1, 'nearest', 'add', 'batch')
load: Any = nibabel.load


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a run on studies, half with a SEG and half with an RTSTRUCT, and its masks."""
  place = tmp_path_factory.mktemp('dicom')
  genotype.save(place / 'lean.json', SHAPE)
  made = write_studies(place / 'studies', patients=5, classes=CLASSES[1:])
  for name, (voxels, label, affine) in made.items():
    for folder, array in (('images', voxels), ('masks', label)):
      (place / folder).mkdir(exist_ok=True)
      turned, there = phantom.turn(array.astype(np.int16), affine, 'SPL')
      image = nibabel.Nifti1Image(turned.T, there[:, [2, 1, 0, 3]])
      nibabel.save(image, place / folder / f'{name}.nii.gz')
  lines = [f'{name},{name.split("_")[0]}' for name in made]
  (place / 'patients.csv').write_text('\n'.join(['case,patient', *lines]) + '\n')
  arguments = [
    '--config=configs/folder.py:small',
    f'--config.genotype={place / "lean.json"}',
    f'--config.data.raw_dir={place / "studies"}',
    f'--config.data.data_dir={place / "tfds"}',
    *('--config.data.image_size=32', '--config.compilation_cache=', '--config.data.folds=3'),
    *NO_WARP,
    *('--config.retrain.epochs=2', '--config.retrain.warmup_epochs=1'),
    *('--config.retrain.least_steps=20', '--config.retrain.validate_every=2'),
    f'--workdir={place / "run"}',
  ]
  assert main.main(arguments) == 0
  for name in made:
    number = 0 if name == 'p001_1' else int(name[-1]) - (name == 'p001_2')
    (series,) = (place / 'studies' / f'study {number}').rglob('ct')
    shutil.copytree(series, place / 'new' / name)
  output = [f'--input={place / "new"}', f'--output={place / "found"}']
  options = ('--rtstruct', '--dicom_seg')
  assert predict.main([f'--model={place / "run"}', *output, *options]) == 0
  return place


def test_its_slices_are_those_of_the_same_scans_in_nifti(place):
  config = configs.default()
  config.data.name = 'folder'
  configs.leave_to_data(config)
  config.data.update({'images': str(place / 'images'), 'masks': str(place / 'masks')})
  config.data.update({'classes': CLASSES, 'image_size': 32, 'data_dir': str(place / 'tfds')})
  config.data.intensity = 'window'  # which DICOM asks for by its modality
  split = json.loads((place / 'run' / 'splits.json').read_text())
  data_sets.resolve(config, data_sets.find(config), split['train'])
  theirs = prepared.open_folder(prepare_for(config))
  ours = prepared.open_slices(place / 'run', config)
  assert ours.folder != theirs.folder and len(ours.slices) == len(theirs.slices) > 40
  for one, other in zip(ours.cases, theirs.cases, strict=True):
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    np.testing.assert_allclose(one.spacing_mm, other.spacing_mm, rtol=1e-6)
    names = ('case', 'patient', 'first_slice', 'slices', 'native_shape', 'classes')
    assert all(getattr(one, name) == getattr(other, name) for name in names)
  for one, other in zip(ours.slices, theirs.slices, strict=True):
    for name in ('image', 'label', 'native_label'):
      np.testing.assert_array_equal(one[name], other[name])


def test_its_scores_are_those_of_its_masks_against_nifti(place):
  summary = json.loads((place / 'run' / 'evaluate' / 'summary.json').read_text())
  with (place / 'run' / 'evaluate' / 'scores.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  counts = collections.defaultdict(lambda: np.zeros(3, int))
  for case in summary['cases']:
    found, truth = (
      np.asarray(load(place / folder / f'{case["case"]}.nii.gz').dataobj)
      for folder in ('found', 'masks')
    )
    for k, name in enumerate(CLASSES[1:], 1):
      own = (truth == k).sum(), (found == k).sum(), ((truth == k) & (found == k)).sum()
      counts[case['patient'], name] += own
  assert len(counts) == len(rows) > 2
  for row in rows:
    true, predicted, both = counts[row['patient'], row['class']]
    assert [int(row[f'{name}_voxels']) for name in ('truth', 'predicted', 'common')] == [
      *(true, predicted, both)
    ]
    assert float(row['dsc']) == pytest.approx(2 * both / (true + predicted), abs=1e-6)
  assert np.mean([float(row['dsc']) for row in rows]) > 0.1  # so that masks are compared at all


def test_its_masks_in_dicom_are_those_in_nifti(place):
  for series in sorted((place / 'new').iterdir()):
    mask = np.asarray(load(place / 'found' / f'{series.name}.nii.gz').dataobj).T
    grid = dicom.read_grid(sources.slices_of(series))
    for kind in ('seg', 'rtstruct'):
      path = place / 'found' / f'{series.name}_{kind}.dcm'
      np.testing.assert_array_equal(dicom_truth.read_mask(path, CLASSES[1:], *grid), mask)


def test_the_patient_is_named_in_no_file_of_the_run(place):
  files = [path for path in (place / 'run').rglob('*') if path.is_file()]
  files += [path for path in (place / 'tfds').rglob('*') if path.is_file()]
  names = {path.name for path in files}
  assert {'report.html', 'check.html', 'splits.json', 'weights.safetensors'} <= names
  for path in files:
    content = path.read_bytes()
    for secret in (SECRET, 'Jane', '19610203', '.77.'):
      assert secret.encode() not in content, path
