"""Regions and ignored labels all along: checked, trained, scored, predicted and exported."""

import collections
import csv
import dataclasses
import functools
import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from tiny_lean_runs import NO_WARP

from data_prep import phantom, phantom_folders
from thrifty_jax import evaluate, export, main, predict
from thrifty_jax.data import prepared
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape, Level

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
PATIENTS = 5  # and six scans
SHAPE = LeanShape((Level(8, 1, 1, 'plain'),) * 3, 1, 'nearest', 'add', 'batch')
LABELS = {'background': 0, 'whole': [1, 2], 'right part': [2], 'ignore': 3}
load: Any = nibabel.load  # its type does not say that it loads images


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that is done, and what its masks mean: labels of each class, and the ignored one."""

  place: Path
  images: Path
  truths: Path
  sets: Mapping[str, tuple[int, ...]]
  ignore: int
  unit: str

  def pair(self, case):
    """Predicted and true mask of a scan, as whatever reads their files has them."""
    truth = case.replace('photo', 'drawn')
    ((mask,), (truth,)) = (
      folder.glob(f'{name}.*')
      for folder, name in ((self.place / 'masks', case), (self.truths, truth))
    )
    return [read_mask(path) for path in (mask, truth)]


def read_mask(path):
  if path.name.endswith('.nii.gz'):
    return np.asarray(load(path).dataobj).astype(int)
  with Image.open(path) as picture:
    return np.asarray(picture).astype(int)


def write_volumes(raw):
  """Volumes by dataset.json: a region in a region, and a third of the voxels without a label."""
  phantom_folders.write_nnunet(raw, patients=PATIENTS, seed=0)
  described = json.loads((raw / 'dataset.json').read_text())
  described |= {'labels': LABELS, 'regions_class_order': [1, 2]}
  (raw / 'dataset.json').write_text(json.dumps(described))
  for path in (raw / 'labelsTr').iterdir():
    file = load(path)
    mask = np.asarray(file.dataobj).copy()
    cut = mask.shape[0] // 3
    mask[:cut] = mask[:, :, : mask.shape[2] // 4] = 3  # a side, and the end along another axis
    nibabel.save(nibabel.Nifti1Image(mask, file.affine), path)
  tested = phantom_folders.make_scan(number=PATIENTS + 1, seed=0)
  mask = tested.label.copy()
  mask[:3] = 3
  (raw / 'labelsTs').mkdir()
  path = raw / 'labelsTs' / f'scan_{PATIENTS + 1:03d}.nii.gz'
  SimpleITK.WriteImage(phantom.itk_image(mask, tested.affine, 'LPS'), str(path))
  with (raw / 'patients.csv').open('a') as file:
    file.write(f'scan_{PATIENTS + 1:03d},tested\n')
  sets = {'whole': (1, 2), 'right part': (2,)}
  return Run(raw.parent, raw / 'imagesTr', raw / 'labelsTr', sets, 3, 'voxels'), [
    *(f'--config.data.raw_dir={raw}', '--config.data.image_size=32'),
  ]


def write_pictures(raw):
  """Pictures in windows, with masks in numbers of which 255 is ignored."""
  phantom_folders.write_pictures(raw, patients=PATIENTS, seed=0)
  palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])
  for path in (raw / 'masks').iterdir():
    with Image.open(path) as picture:
      pixels = np.asarray(picture.convert('RGB')).astype(int)
    mask = np.abs(pixels[..., None, :] - palette).sum(-1).argmin(-1).astype(np.uint8)
    mask[:18] = 255
    Image.fromarray(mask).save(path)
  sets = {'left part': (1,), 'right part': (2,)}
  return Run(raw.parent, raw / 'images', raw / 'masks', sets, 255, 'pixels'), [
    *(f'--config.data.images={raw / "images"}', f'--config.data.masks={raw / "masks"}'),
    *(f'--config.data.classes={phantom_folders.CLASSES!r}', '--config.data.ignore=255'),
    *('--config.data.reduction=1.0', '--config.data.image_size=16', '--config.model.depth=3'),
    *NO_WARP,
  ]


KINDS = {'volumes': write_volumes, 'pictures': write_pictures}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Runs on a kind of scans, once."""

  @functools.cache
  def run(kind):
    place = tmp_path_factory.mktemp('run')
    genotype.save(place / 'lean.json', SHAPE)
    done, arguments = KINDS[kind](place / 'raw')
    status = main.main(
      [
        *('--config=configs/folder.py:small', f'--config.genotype={place / "lean.json"}'),
        *(f'--config.data.data_dir={place / "tfds"}', '--config.compilation_cache='),
        *('--config.data.folds=3', '--config.retrain.epochs=3'),
        *('--config.retrain.warmup_epochs=1', '--config.retrain.least_steps=30'),
        '--config.retrain.validate_every=3',
        *(f'--workdir={place / "run"}', *arguments),
      ]
    )
    assert status == 0
    more = [f'--output={place / "masks"}', '--probabilities']
    assert predict.main([f'--model={place / "run"}', f'--input={done.images}', *more]) == 0
    return done

  return run


def rows_of(folder):
  with (folder / 'scores.csv').open(newline='') as file:
    return {(row['patient'], row['class']): row for row in csv.DictReader(file)}


@pytest.mark.parametrize('kind', KINDS)
def test_scores_are_counted_over_the_labels_of_a_class_where_there_is_a_label(run, kind):
  done = run(kind)
  summary = json.loads((done.place / 'run' / 'evaluate' / 'summary.json').read_text())
  counts: dict[tuple[str, str], Any] = {}
  for case in summary['cases']:
    found, truth = done.pair(case['case'])
    assert found.shape == truth.shape and (truth == done.ignore).mean() > 0.1
    known = truth != done.ignore
    for name, labels in done.sets.items():
      p, t = (np.isin(mask, labels) & known for mask in (found, truth))
      key = case['patient'], name
      counts[key] = counts.get(key, 0) + np.array([(p & t).sum(), p.sum(), t.sum()])
  rows = rows_of(done.place / 'run' / 'evaluate')
  assert {*rows} == {*counts} and len(rows) == 2 * summary['patients'] == 4
  for key, row in rows.items():
    names = ('common', 'predicted', 'truth')
    assert [int(row[f'{name}_{done.unit}']) for name in names] == counts[key].tolist()
    both, predicted, true = counts[key]
    assert float(row['dsc']) == pytest.approx(2 * both / (true + predicted), abs=1e-6)
  assert np.mean([float(row['dsc']) for row in rows.values()]) > 0.1  # so that it is a comparison


def test_the_external_test_set_is_scored_in_the_same_way(run):
  done = run('volumes')
  folder = done.place / 'run' / 'evaluate' / 'external'
  (mask,), (truth,) = (folder / 'masks').iterdir(), (done.place / 'raw' / 'labelsTs').iterdir()
  found, true = (
    np.asarray(nibabel.as_closest_canonical(load(path)).dataobj) for path in (mask, truth)
  )
  assert found.shape == true.shape and (true == 3).any()
  for (_, name), row in rows_of(folder).items():
    p, t = (np.isin(one, done.sets[name]) & (true != 3) for one in (found, true))
    assert [int(row[f'{one}_voxels']) for one in ('predicted', 'truth')] == [p.sum(), t.sum()]
    assert float(row['dsc']) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-6)


def test_a_mask_has_each_region_that_is_more_likely_than_not_the_inner_over_the_outer(run):
  done = run('volumes')
  about = json.loads((done.place / 'masks' / 'classes.json').read_text())
  assert about['classes'] == {'0': 'background', '1': 'whole', '2': 'right part'}
  assert about['regions'] == [[1, 2], [2]] and not about['largest_component']
  seen = set()
  for path in sorted((done.place / 'masks').glob('scan_???.nii.gz')):
    mask = read_mask(path)
    expected, clear = np.zeros_like(mask), np.ones(mask.shape, bool)
    for number in (1, 2):
      (share,) = (done.place / 'masks').glob(f'{path.name.split(".")[0]}_*_{number}.nii.gz')
      probability = np.asarray(load(share).dataobj)
      expected[probability > 0.5] = number
      clear &= np.abs(probability - 0.5) > 1e-6  # else rounding decides
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert clear.mean() > 0.999
    seen |= {*np.unique(mask).tolist()}
  assert seen == {0, 1, 2}


def test_slices_and_windows_without_a_label_are_prepared_as_such_and_never_drawn(run):
  for kind, whole in (('volumes', False), ('pictures', True)):
    done = run(kind)
    recorded = json.loads((done.place / 'run' / 'data.json').read_text())
    opened = prepared.open_folder(Path(recorded['folder']))
    assert any(case.unlabelled for case in opened.cases) and bool(opened.reduction) == whole
    for case in opened.cases:
      label = opened.read(case)['label']
      empty = np.flatnonzero((label == 255).all(axis=(1, 2)))
      assert [*case.unlabelled] == empty.tolist() and len(empty) < len(label)


@pytest.mark.parametrize('kind', KINDS)
def test_masks_of_any_program_are_scored_alike(run, kind, tmp_path, capsys):
  done = run(kind)
  options = [] if kind == 'volumes' else ['--ignore=255']  # dataset.json says it of the volumes
  summary = json.loads((done.place / 'run' / 'evaluate' / 'summary.json').read_text())
  patients = {case['case']: case['patient'] for case in summary['cases']}
  for case in patients:
    (tmp_path / 'masks').mkdir(exist_ok=True)
    for path in (done.place / 'masks').glob(f'{case}.*'):
      (tmp_path / 'masks' / path.name).write_bytes(path.read_bytes())
  (tmp_path / 'masks' / 'classes.json').write_bytes(
    (done.place / 'masks' / 'classes.json').read_bytes()
  )
  command = [f'--masks={tmp_path / "masks"}', f'--truths={done.truths}', '--allow_missing']
  assert evaluate.main([*command, f'--output={tmp_path / "scores"}', *options]) == 0
  assert f'label {done.ignore} of the truths' in capsys.readouterr().out
  ours = rows_of(done.place / 'run' / 'evaluate')
  alone = [one for one, times in collections.Counter(patients.values()).items() if times == 1]
  assert alone
  for (case, name), row in rows_of(tmp_path / 'scores').items():
    patient = patients[case.replace('drawn', 'photo')]
    if patient in alone:
      assert row['dsc'] == ours[patient, name]['dsc']
      assert [row[one] for one in row if one.startswith('hd95')] == [
        ours[patient, name][one] for one in row if one.startswith('hd95')
      ]


def test_an_export_in_8_bits_too_has_the_masks_of_predict(run, tmp_path, monkeypatch):
  pytest.importorskip('onnxruntime')
  done, output = run('volumes'), tmp_path / 'onnx'
  command = [f'--model={done.place / "run"}', f'--output={output}', '--int8']
  assert export.main(command) == 0
  described = json.loads((output / 'preprocessing.json').read_text())
  assert described['regions'] == [[1, 2], [2]] and 'regions' in str(described['output']['steps'])
  monkeypatch.syspath_prepend(output)
  scan = min(done.images.glob('[!.]*_0000.nii.gz'))
  if len([*done.images.glob(scan.name.replace('_0000', '_*'))]) > 1:
    channels = [load(path) for path in sorted(done.images.glob(scan.name.replace('_0000', '_*')))]
    voxels = np.stack([np.asarray(one.dataobj) for one in channels], axis=-1)
    scan = tmp_path / 'scan.nii.gz'
    nibabel.save(nibabel.Nifti1Image(voxels, channels[0].affine), scan)
  ours = tmp_path / 'mask.nii.gz'
  monkeypatch.setattr(sys, 'argv', ['segment.py', str(scan), str(ours)])
  runpy.run_path(str(output / 'segment.py'), run_name='__main__')
  wanted = read_mask(min((done.place / 'masks').glob('scan_???.nii.gz')))
  np.testing.assert_array_equal(read_mask(ours), wanted)
  assert {*np.unique(wanted)} == {0, 1, 2}


def test_the_pages_and_the_start_name_regions_with_their_labels(run):
  folder = run('volumes').place / 'run'
  page = (folder / 'report.html').read_text(encoding='utf-8')
  assert 'right part' in page and 'whole' in page
  card = (folder / 'model' / 'card.md').read_text(encoding='utf-8')
  assert 'whole, right part' in card
  model = json.loads((folder / 'model' / 'preprocessing.json').read_text())
  assert model['regions'] == [[1, 2], [2]] and model['version'] == 7
