"""Two folders all along: pictures and volumes, training, scores, masks of new scans, an export."""

import collections
import csv
import dataclasses
import functools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny_lean_runs import NO_WARP

from data_prep import phantom_folders
from thrifty_jax import export, main, predict
from thrifty_jax.networks import genotype
from thrifty_jax.networks.lean_space import LeanShape, Level

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')
PATIENTS = 5  # and six scans
SHAPE = LeanShape((Level(8, 1, 1, 'plain'),) * 3, 1, 'nearest', 'add', 'batch')
load: Any = nibabel.load  # its type does not say that it loads images
CLASSES, COLOURS = phantom_folders.CLASSES, phantom_folders.COLOURS
PALETTE = np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in COLOURS], np.uint8)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that is done, and the folder that it lies in with its scans."""

  place: Path
  images: Path
  masks: Path

  def read_truth(self, case):
    """Classes of the drawn mask of a scan, as whatever reads its file has them."""
    (path,) = self.masks.glob(f'{case.split("_photo")[0]}*')
    return read_mask(path)


def read_mask(path):
  """Classes of a mask, read without this program."""
  if path.name.endswith('.nii.gz'):
    return np.asarray(load(path).dataobj).astype(int)
  with Image.open(path) as picture:
    pixels = np.asarray(picture)
  return (pixels[..., None, :] == PALETTE).all(-1).argmax(-1) if pixels.ndim == 3 else pixels


def write_colours(raw):
  """Pictures in colours, and masks in others."""
  phantom_folders.write_pictures(raw, patients=PATIENTS, seed=0)
  return raw / 'images', raw / 'masks', [f'--config.data.colours={COLOURS!r}']


def write_deep_grey(raw):
  """Grey pictures of 16 bits, and masks that are indices of a palette; one patient has two."""
  (raw / 'images').mkdir(parents=True)
  (raw / 'masks').mkdir()
  for number in range(PATIENTS + 1):
    image, label = phantom_folders.make_picture(number=number, seed=0)
    tifffile.imwrite(raw / 'images' / f'p{number}.tif', image[..., 0].astype(np.uint16) * 200)
    mask = Image.fromarray(label)
    mask.putpalette(PALETTE.tobytes())
    mask.save(raw / 'masks' / f'p{number}_mask.png')
  lines = [f'p{number},{max(number, 1)}' for number in range(PATIENTS + 1)]
  (raw / 'patients.csv').write_text('\n'.join(['case,patient', *lines]) + '\n')
  return raw / 'images', raw / 'masks', [*NO_WARP]


def write_volumes(raw):
  """Volumes of two channels in NIfTI, in any orientation."""
  phantom_folders.write_decathlon(raw, patients=PATIENTS, seed=0)
  return raw / 'imagesTr', raw / 'labelsTr', [*NO_WARP]


KINDS = {'colours': write_colours, 'deep grey': write_deep_grey, 'volumes': write_volumes}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Runs on a kind of scans, once."""

  @functools.cache
  def run(kind):
    place = tmp_path_factory.mktemp('run')
    genotype.save(place / 'lean.json', SHAPE)
    images, masks, more = KINDS[kind](place / 'raw')
    windows = ['--config.data.reduction=1.0'] if kind == 'colours' else []
    status = main.main(
      [
        '--config=configs/folder.py:small',
        f'--config.genotype={place / "lean.json"}',
        *(f'--config.data.images={images}', f'--config.data.masks={masks}'),
        f'--config.data.classes={CLASSES!r}',
        f'--config.data.data_dir={place / "tfds"}',
        *('--config.data.image_size=32', '--config.compilation_cache='),
        *('--config.retrain.epochs=3', '--config.retrain.warmup_epochs=1'),
        *('--config.retrain.least_steps=30', '--config.retrain.validate_every=3'),
        *('--config.data.folds=3', f'--workdir={place / "run"}', *windows, *more),
      ]
    )
    assert status == 0
    arguments = [f'--input={images}', f'--output={place / "masks"}']
    assert predict.main([f'--model={place / "run"}', *arguments]) == 0
    return Run(place, images, masks)

  return run


@pytest.mark.parametrize('kind', KINDS)
def test_masks_of_the_test_scans_have_the_scores_of_the_evaluation(run, kind):
  done = run(kind)
  summary = json.loads((done.place / 'run' / 'evaluate' / 'summary.json').read_text())
  unit, element = ('mm', 'voxels') if kind == 'volumes' else ('pixels', 'pixels')
  assert summary.get('unit', 'mm') == unit
  assert ('mean_mask' in summary['floors']) == (
    kind == 'volumes'
  )  # else windows, by choice or need
  with (done.place / 'run' / 'evaluate' / 'scores.csv').open(newline='') as file:
    rows = [row for row in csv.DictReader(file)]
  counts = collections.defaultdict(lambda: np.zeros(3, int))
  for case in summary['cases']:
    (path,) = (done.place / 'masks').glob(f'{case["case"]}.*')
    found, truth = read_mask(path), done.read_truth(case['case'])
    assert found.shape == truth.shape
    for k, name in enumerate(CLASSES[1:], 1):
      own = (truth == k).sum(), (found == k).sum(), ((truth == k) & (found == k)).sum()
      counts[case['patient'], name] += own
  assert len(counts) == len(rows) == 2 * summary['patients'] == 4
  for row in rows:
    true, predicted, both = counts[row['patient'], row['class']]
    names = ('truth', 'predicted', 'common')
    assert [int(row[f'{name}_{element}']) for name in names] == [true, predicted, both]
    assert float(row['dsc']) == pytest.approx(2 * both / (true + predicted), abs=1e-6)
    assert float(row['ravd_percent']) == pytest.approx(100 * (predicted / true - 1), abs=1e-5)
    assert [name for name in row if name.startswith('hd95')] == [f'hd95_{unit}']
  assert np.mean([float(row['dsc']) for row in rows]) > 0.1  # so that the masks are compared at all


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'colours'])
def test_the_exported_script_writes_the_masks_of_predict(run, kind, tmp_path, monkeypatch):
  pytest.importorskip('onnxruntime')
  done, output = run(kind), tmp_path / 'onnx'
  assert export.main([f'--model={done.place / "run"}', f'--output={output}']) == 0
  monkeypatch.syspath_prepend(output)
  for scan in sorted(done.images.glob('[!.]*'))[:2]:
    (mask,) = (done.place / 'masks').glob(f'{scan.name.split(".")[0]}.*')
    ours = tmp_path / mask.name
    monkeypatch.setattr(sys, 'argv', ['segment.py', str(scan), str(ours)])
    runpy.run_path(str(output / 'segment.py'), run_name='__main__')
    np.testing.assert_array_equal(read_mask(ours), read_mask(mask))


def test_the_pages_show_pictures_and_name_pixels(run):
  folder = run('colours').place / 'run'
  page = (folder / 'report.html').read_text(encoding='utf-8')
  assert 'pixels' in page and ' mm' not in page.replace('mm/', '')
  card = (folder / 'model' / 'card.md').read_text(encoding='utf-8')
  drawing = 'pictures in windows of 32 x 32 pixels, which overlap by half'
  assert drawing in card and drawing.replace(' x ', ' × ') in page
  for colour in COLOURS[1:]:  # of the masks, in the page's legend
    assert f'<i style="background: {colour}"></i>' in page
  for text in (page, card):
    assert 'volume DSC' not in text and 'axial slices' not in text


def test_a_volume_is_no_scan_for_a_model_of_pictures(run, tmp_path, capsys):
  place, scan = run('colours').place, run('volumes').images / 'scan_001.nii.gz'
  arguments = [f'--model={place / "run"}', f'--input={scan}', f'--output={tmp_path / "m"}']
  assert predict.main(arguments) == 2
  assert 'picture' in capsys.readouterr().err
