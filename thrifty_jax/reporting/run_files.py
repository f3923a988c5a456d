"""What the report reads of a run, each file held to its form: it may be damaged, or anybody's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thrifty_jax import files, logbook
from thrifty_jax.errors import InputError
from thrifty_jax.networks import space
from thrifty_jax.networks.space import CELL_KINDS
from thrifty_jax.reporting import forms
from thrifty_jax.scores import tables

_NUMBER = (float, None)
_EPOCH = range(1, 10_000_000)
_COUNT = range(10**12)


def image(value: Any) -> bool:
  """height, width and channels of an image"""
  sizes = isinstance(value, list) and len(value) == 3
  return sizes and all(type(one) is int and 0 < one < 1 << 20 for one in value)


def interval(value: Any) -> bool:
  """the two ends of an interval"""
  return (
    isinstance(value, list) and len(value) == 2 and all(forms.fits(one, float) for one in value)
  )


def _of(metrics: Sequence[str]) -> dict[str, forms.Form]:
  """Mean, deviation and interval of every metric, as summaries.figures has them."""
  each = {'mean': _NUMBER, 'std': _NUMBER, 'ci95': (interval, None)}
  return {f'{metric}_{name}': form for metric in metrics for name, form in each.items()}


CONFIG = {
  '?model': {'?name': str, '?depth': range(2, 13)},
  '?data': {'name': str, 'classes': [str], 'image_size': range(1, 1 << 20), 'intensity': str},
  '?search': {'?operations': [str]},
  '?genotype': str,
}
ENVIRONMENT = {'?command': str, '?earlier': [dict]}
RESOURCES = {
  'seconds': float,
  'peak_process_bytes': _COUNT,
  'peak_device_bytes': (_COUNT, None),
  'device': str,
}
SEEDS = {
  'picked': int,
  'searches': [{'seed': int, 'architecture_dsc': float, 'parameters': _COUNT, 'epochs': _EPOCH}],
}
RETRAINED = {
  'model': str,
  'parameters': _COUNT,
  '?best_epoch': range(10_000_000),
  '?macs': float,
  '?image': image,
}
_DSC = {'dsc_mean': float, 'dsc_std': _NUMBER, 'pooled_2d_dsc': float}
_OF_MODEL = {**_of(tuple(tables.LABELS)), **_DSC, 'missed': _COUNT, 'invented': _COUNT}
EVALUATED = {
  **_OF_MODEL,
  'classes': {str: _OF_MODEL},
  'floor_dsc': float,
  'floors': {
    str: {
      **_DSC,
      'classes': {str: _DSC},
      'training_dsc': float,
      '?thresholds': [float],
      '?bands': [str],
    }
  },
  **dict.fromkeys(('protocol', 'split', 'data', 'model', 'note'), str),
  'held_out': bool,
  'nsd_tolerance_mm': float,
  'parameters': _COUNT,
  'patients': _COUNT,
  'patient_names': {str: [str]},
  'slices': {str: _COUNT},
  'flips': [str],
  'largest_component': [str],
  'folds': _COUNT,
  'fold': (_COUNT, [_COUNT]),
  '?of_folds': [{'fold': _COUNT, 'dsc_mean': float, 'pooled_2d_dsc': float, 'parameters': _COUNT}],
  'cases': [{'case': forms.name, 'patient': str, '?run': forms.name}],
}
RESULTS = [{'folder': forms.inside}]
COMPARED = {
  'split': str,
  'held_out': bool,
  'folds': [_COUNT],
  'patients': _COUNT,
  'rivals': [
    {
      **_of(('dsc', 'hd95_mm', 'nsd')),
      **dict.fromkeys(('name', 'label', 'kind'), str),
      **dict.fromkeys(
        ('dsc_mean', 'parameters', 'macs', 'steps', 'seconds', 'validation_dsc', 'pooled_2d_dsc'),
        float,
      ),
      'difference': _NUMBER,
      'p_value': _NUMBER,
      'learning_rates': [float],
      'image': image,
    }
  ],
}
RETRAIN_LINE = {'epoch': _EPOCH, 'loss': float, 'dsc': float, '?validation_dsc': _NUMBER}
SEARCH_LINE = {
  'epoch': _EPOCH,
  'unchanged_epochs': range(10_000_000),
  **dict.fromkeys(('weight_loss', 'architecture_loss', 'architecture_dsc'), _NUMBER),
  **{f'{kind}_alphas': [[float]] for kind in CELL_KINDS},
  **{f'{kind}_betas': [float] for kind in CELL_KINDS},
}


def optional(path: Path, form: forms.Form) -> Any:
  """The content of a JSON file, or None where there is none."""
  return forms.read(path, form) if path.exists() else None


def evaluated(run: Path) -> dict[str, Any] | None:
  """evaluate/summary.json, whose parts also fit one another; None where there is none.

  Raises:
    InputError: If it is damaged, or of a version that knew no distances.
  """
  path = run / 'evaluate' / 'summary.json'
  if not path.exists():
    return None
  found = files.read_json(path)
  if isinstance(found, dict) and 'nsd_tolerance_mm' not in found:
    raise InputError(
      f'{path} has no distances: an earlier version wrote it; remove {run / "evaluate"} and run '
      '--stage=evaluate'
    )
  forms.require(path, found, EVALUATED)
  # What is shown side by side.
  forms.require(path, found['floors'], {str: {'classes': dict.fromkeys(found['classes'], {})}})
  forms.require(path, found['slices'], dict.fromkeys(found['patient_names'], int))
  return found


def compared(workdir: Path) -> tuple[dict[str, Any], list[dict[str, str]]] | None:
  """compare/summary.json and the rows of compare/scores.csv; None where there are none."""
  path, table = workdir / 'compare' / 'summary.json', workdir / 'compare' / 'scores.csv'
  if not path.exists():
    return None
  found = forms.read(path, COMPARED)
  rows = forms.read_rows(table, ('rival', 'class', 'dsc'), scores=('dsc',))
  names = [rival['name'] for rival in found['rivals']]
  everyone = {(row['class'], row['rival']) for row in rows}
  if {rival for _, rival in everyone} != {*names} or len({*names}) < len(names):
    raise InputError(f'{path}: compares others than {table} has; run --stage=compare again')
  if len(everyone) != len(names) * len({of_class for of_class, _ in everyone}):
    raise InputError(f'{table}: not every rival has every class; run --stage=compare again')
  return found, rows


def lines(folder: Path, form: forms.Form) -> list[dict[str, Any]]:
  """The lines of a stage's metrics.jsonl, none where there is no file."""
  # A Logbook makes its folder, which a report must not do.
  path = folder / 'metrics.jsonl'
  if not path.exists():
    return []
  found = logbook.Logbook(folder).entries()
  for number, line in enumerate(found, start=1):
    forms.require(Path(f'{path}, line {number}'), line, form)
  return found


def search_lines(workdir: Path) -> list[dict[str, Any]]:
  """Those of the search, with the weights of every choice that there is."""
  found, chosen = lines(workdir / 'search', SEARCH_LINE), chosen_operations(workdir)
  nodes = next((n for n in range(1, 17) if found and _shape(n, chosen) == _weights(found[0])), 0)
  if found and not all(nodes and _weights(line) == _shape(nodes, chosen) for line in found):
    raise InputError(
      f'{workdir / "search" / "metrics.jsonl"}: the weights are not those of cells with the same '
      'nodes in every line; the file is damaged'
    )
  return found


def chosen_operations(workdir: Path) -> tuple[str, ...]:
  """Names of the candidates that the run searched among; () stands for all."""
  config = optional(workdir / 'config.json', CONFIG) or {}
  chosen = tuple(config.get('search', {}).get('operations', ()))
  space.require_choice(chosen)
  return chosen


def _shape(nodes: int, chosen: Sequence[str]) -> list[list[int]]:
  """Number of candidates of every edge of a down and an up cell."""
  return [
    [len(space.candidates(space.resample_of(kind, s), chosen)) for _, s in space.edges_of(nodes)]
    for kind in CELL_KINDS
  ]


def _weights(line: Mapping[str, Any]) -> list[list[int]] | None:
  """As _shape, of a line; None where edges have no weight of their own."""
  if any(len(line[f'{kind}_alphas']) != len(line[f'{kind}_betas']) for kind in CELL_KINDS):
    return None
  return [[len(alphas) for alphas in line[f'{kind}_alphas']] for kind in CELL_KINDS]
