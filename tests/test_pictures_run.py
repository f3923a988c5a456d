"""Pictures all along: two folders, windows, training, scores in pixels, masks as pictures."""

import collections
import csv
import json

import numpy as np
import pytest
from PIL import Image

from data_prep import phantom_folders
from thrifty_jax import main, predict


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """A run on made-up pictures in windows, and the folder that it lies in with its pictures."""
  place = tmp_path_factory.mktemp('pictures')
  phantom_folders.write_pictures(place / 'raw', patients=5, seed=0)
  status = main.main(
    [
      '--config=configs/folder.py:small,unet',
      f'--config.data.images={place / "raw" / "images"}',
      f'--config.data.masks={place / "raw" / "masks"}',
      f'--config.data.classes={phantom_folders.CLASSES!r}',
      f'--config.data.colours={phantom_folders.COLOURS!r}',
      f'--config.data.data_dir={place / "tfds"}',
      *('--config.data.image_size=32', '--config.data.reduction=1.0', '--config.model.width=4'),
      *('--config.retrain.epochs=3', '--config.retrain.warmup_epochs=1'),
      *('--config.retrain.least_steps=30', '--config.retrain.validate_every=3'),
      *('--config.data.folds=3', f'--workdir={place / "run"}'),
    ]
  )
  assert status == 0
  return place


def test_masks_of_the_test_pictures_have_the_scores_of_the_evaluation(done, capsys):
  summary = json.loads((done / 'run' / 'evaluate' / 'summary.json').read_text())
  assert summary['unit'] == 'pixels' and 'intensity_thresholds' in summary['floors']
  with (done / 'run' / 'evaluate' / 'scores.csv').open(newline='') as file:
    rows = [row for row in csv.DictReader(file)]
  assert 'hd95_pixels' in rows[0] and 'hd95_mm' not in rows[0]
  model, images = done / 'run' / 'model', done / 'raw' / 'images'
  assert predict.main([f'--model={model}', f'--input={images}', f'--output={done / "masks"}']) == 0
  palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in phantom_folders.COLOURS])
  counts = collections.defaultdict(lambda: np.zeros(2))
  for case in summary['cases']:
    name = case['case']
    drawn = np.asarray(Image.open(done / 'raw' / 'masks' / f'{name[:2]}_drawn.png').convert('RGB'))
    truth = (drawn[..., None, :] == palette).all(-1).argmax(-1)
    found = Image.open(done / 'masks' / f'{name}.png')
    assert found.mode == 'P' and found.size == truth.shape[::-1]
    for k, title in enumerate(phantom_folders.CLASSES[1:], 1):
      mask, own = np.asarray(found) == k, truth == k
      counts[case['patient'], title] += 2 * (mask & own).sum(), mask.sum() + own.sum()
  assert len(counts) == 2 * summary['patients'] == 4
  for row in rows:
    both, size = counts[row['patient'], row['class']]
    assert float(row['dsc']) == pytest.approx(both / size, abs=1e-6)


def test_the_pages_show_pictures_and_name_pixels(done):
  page = (done / 'run' / 'report.html').read_text(encoding='utf-8')
  assert 'pixels' in page and ' mm' not in page.replace('mm/', '')
  card = (done / 'run' / 'model' / 'card.md').read_text(encoding='utf-8')
  drawing = 'pictures in windows of 32 x 32 pixels, which overlap by half'
  assert drawing in card and drawing.replace(' x ', ' × ') in page
  for colour in phantom_folders.COLOURS[1:]:  # of the masks, in the page's legend
    assert f'<i style="background: {colour}"></i>' in page
  for text in (page, card):
    assert 'volume DSC' not in text and 'axial slices' not in text


def test_a_volume_is_no_scan_for_a_model_of_pictures(done, tmp_path, capsys):
  phantom_folders.write_decathlon(tmp_path / 'raw', patients=3, seed=0)
  scan = tmp_path / 'raw' / 'imagesTr' / 'scan_001.nii.gz'
  arguments = [f'--model={done / "run" / "model"}', f'--input={scan}', f'--output={tmp_path / "m"}']
  assert predict.main(arguments) == 2
  assert 'picture' in capsys.readouterr().err
