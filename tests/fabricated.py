"""The files of a run with made-up figures, for the tests of what reads them."""

import json
from typing import Any

import numpy as np

from thrifty_jax import files, records
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.networks import space
from thrifty_jax.run_files import (
  Case,
  Compared,
  Evaluated,
  Figures,
  Floor,
  Overlap,
  Resources,
  Result,
  Retrained,
  Rival,
  Spread,
  Timed,
)

GENOTYPE = genotypes.Genotype(
  down=(
    ((0, 'down_sep_conv_3x3'), (1, 'down_conv_3x3')),
    ((0, 'down_dil_conv_3x3'), (2, 'se')),
  ),
  up=(((0, 'conv_3x3'), (1, 'up_dil_conv_3x3')), ((1, 'up_sep_conv_3x3'), (2, 'identity'))),
)
CLASSES = ('grey', 'white')
PATIENTS = ('p1', 'p2', 'p3', 'p4', 'p5')


def fabricate(workdir, *, size=32, stages=('start', 'search', 'retrain', 'evaluate')):
  """The files that a run leaves, with made-up figures."""
  if 'start' in stages:
    config = {
      'model': {'name': 'thrifty', 'depth': 4},
      'data': {'name': 'brain', 'image_size': size},
    }
    config['data'] |= {'classes': ['background', *CLASSES], 'intensity': 'percentiles'}
    files.write_json(workdir / 'config.json', config)
    environment = {'command': 'python -m thrifty_jax.main --config=x.py', 'packages': {'jax': '1'}}
    files.write_json(workdir / 'environment.json', environment)
  if 'search' in stages:
    _search(workdir)
  if 'retrain' in stages:
    _retrain(workdir)
  if 'evaluate' in stages:
    _evaluate(workdir, size)


def _search(workdir):
  rng = np.random.default_rng(0)
  sizes = {
    kind: [
      len(space.candidates(space.resample_of(kind, source))) for _, source in space.edges_of(2)
    ]
    for kind in space.CELL_KINDS
  }
  state = {kind: [np.zeros(n) for n in counts] for kind, counts in sizes.items()}
  lines = []
  for epoch in range(1, 31):
    line: dict[str, Any] = {
      'epoch': epoch,
      'step': epoch * 10,
      'weight_loss': 1.5 * 0.93**epoch + 0.1,
    }
    line['architecture_loss'] = 1.6 * 0.94**epoch + 0.15 if epoch > 8 else None
    line['architecture_dsc'] = 0.9 * (1 - 0.88**epoch)
    line['unchanged_epochs'] = max(0, epoch - 20)
    for kind, alphas in state.items():
      for alpha in alphas if epoch > 8 else ():
        alpha += rng.normal(0, 0.06, alpha.size) + 0.04 * np.arange(alpha.size)
      softmax = [np.exp(alpha) / np.exp(alpha).sum() for alpha in alphas]
      line[f'{kind}_alphas'] = [list(each) for each in softmax]
      line[f'{kind}_betas'] = [0.5, 0.5, 0.3, 0.4, 0.3]
    lines.append(line)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  files.write_text(workdir / 'search' / 'metrics.jsonl', text)
  down, up = (
    {
      (node, s): {name: rng.random() for name in space.derivable(space.resample_of(kind, s))}
      for node, s in space.edges_of(2)
    }
    for kind in space.CELL_KINDS
  )
  scores = genotypes.Scores(down, up)
  path = workdir / 'search' / 'genotype.json'
  genotypes.save(path, GENOTYPE, scores=scores, provenance={'seed': 0})


def _retrain(workdir):
  lines = []
  for epoch in range(1, 61):
    line = {'epoch': epoch, 'step': epoch * 10, 'loss': 1.2 * 0.95**epoch + 0.05}
    line |= {'dsc': 1 - 0.95**epoch, 'learning_rate': 1e-3, 'seconds': 2.0}
    if epoch % 5 == 0:
      line['validation_dsc'] = 0.93 * (1 - 0.93**epoch)
    lines.append(line)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  files.write_text(workdir / 'retrain' / 'metrics.jsonl', text)
  records.write(
    workdir / 'retrain' / 'resources.json', Resources(3725.0, 4 << 30, None, 'CPU with 2 cores')
  )
  summary = Retrained(
    model='thrifty', parameters=605280, macs=4_568_115_200, image=(256, 256, 1), genotype='x.json',
    epochs=60, planned_epochs=(10, 20), precision='float32', steps=600, best_epoch=50,
    validation_dsc=0.925, largest_component=(), selection='best validation DSC', seconds=121.0,
  )  # fmt: skip
  records.write(workdir / 'retrain' / 'summary.json', summary)


def _figures(dsc, *, missed=0):
  spreads = [
    Spread(mean, 0.012, (mean - 0.02, mean + 0.01)) for mean in (dsc, 6.25, 11.5, 1.75, 0.875, -3.5)
  ]
  return Figures(*spreads, missed=missed, invented=0, pooled_2d_dsc=0.94)


def _evaluate(workdir, size):
  rng = np.random.default_rng(1)

  def floor(dsc, **fitted):
    overlap = Overlap(Spread(dsc, 0.03, (dsc - 0.1, dsc + 0.1)), 0.8)
    return Floor(overlap, dict.fromkeys(CLASSES, overlap), 'training slices', 0.82, **fitted)

  summary = Evaluated(
    protocol='volume', split='test', held_out=True, data='brain', folds=5, fold=0, model='thrifty',
    parameters=605280, flips=('left_right',), largest_component=('prostate',),
    patients=len(PATIENTS), nsd_tolerance_mm=2.0,
    patient_names={'train': ('p6', 'p7'), 'validation': ('p8',), 'test': PATIENTS},
    slices={'train': 40, 'validation': 20, 'test': 100},
    cases=tuple(Case(name, name) for name in PATIENTS),
    mean=_figures(0.9312, missed=1),
    classes={name: _figures(0.93, missed=int(name == 'white')) for name in CLASSES},
    floor_dsc=0.9,
    floors={
      'mean_mask': floor(0.45, threshold=0.34),
      'intensity_thresholds': floor(
        0.9, thresholds=(0.31, 0.62), bands=('background', *CLASSES)
      ),
    },
    note='Demonstration on one averaged brain: it proves nothing.',
  )  # fmt: skip
  records.write(workdir / 'evaluate' / 'summary.json', summary)
  header = 'patient,cases,class,dsc,truth_voxels,predicted_voxels,common_voxels,mean_mask_dsc,'
  rows = [header + 'intensity_thresholds_dsc']
  for index, patient in enumerate(PATIENTS):
    rows += [
      f'{patient},{patient},{k},{0.95 - 0.01 * index},9,9,8,0.{40 + index},0.9' for k in CLASSES
    ]
    y, x = np.mgrid[:size, :size] / size - 0.5
    radius = np.hypot(x, y) + 0.03 * np.sin(6 * np.arctan2(y, x) + index)
    depth = np.abs(np.linspace(-1, 1, 9))[:, None, None] * 0.25
    truth = ((radius + depth < 0.4).astype(np.uint8) + (radius + depth < 0.25)).astype(np.uint8)
    image = np.clip(70 * truth + rng.normal(20, 8, truth.shape), 0, 255).astype(np.uint8)
    path = workdir / 'evaluate' / 'predictions' / f'{patient}.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
      path, image=image, truth=truth, prediction=np.roll(truth, index + 1, axis=2)
    )
  files.write_text(workdir / 'evaluate' / 'scores.csv', '\n'.join(rows) + '\n')


def result(name):
  return Result(
    name, 'U-Net', 'random', parameters=605280, macs=4.57e9, image=(96, 96, 3), epochs=9,
    steps=1040, best_epoch=8, validation_dsc=0.8, seconds=90.0, learning_rate=0.002, trials=(),
    folder=f'compare/{name}',
  )  # fmt: skip


def rival(name, *, label='U-Net', kind='random', dsc=0.9, difference=None, ms=None, seeds=()):
  way = {'runtime': 'onnxruntime', 'precision': 'int8', 'threads': 1, 'size': 96}
  timed = () if ms is None else (Timed(ms, 0.02, **way, machine='a processor'),)
  return Rival(
    name, label, kind, image=(96, 96, 3), parameters=605280.0, macs=4.57e9, validation_dsc=0.8,
    epochs=9.0, steps=1040.0, seconds=90.0, learning_rates=(0.002,), mean=_figures(dsc), classes={},
    difference=difference, p_value=None, seeds_dsc=seeds, timed=timed,
  )  # fmt: skip


def compared(*rivals):
  return Compared('brain', '', 'volume', 'test', True, 2.0, (0,), 5, rivals[0].name, rivals)
