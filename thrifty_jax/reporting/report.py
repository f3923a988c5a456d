"""One self-contained page about a run, made from the files in its folder and nothing else."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thrifty_jax import config as configs
from thrifty_jax import files, logbook
from thrifty_jax.drawings import drawing, grid_drawing
from thrifty_jax.errors import InputError
from thrifty_jax.networks import genotype as genotypes
from thrifty_jax.reporting import forms, histories, plots, run_files
from thrifty_jax.scans import overlays
from thrifty_jax.scores import tables

MODELS = {'thrifty': 'Thrifty network', 'unet': 'U-Net', 'unet_plus_plus': 'UNet++'}
FLOORS = {'mean_mask': 'mean training mask', 'intensity_thresholds': 'intensity thresholds'}
# Table 1 of Thrifty NAS (AAAI 2022): architecture, parameters, DSC in percent.
PROVENANCE = {'?provenance': (dict, None)}  # of a genotype file
PAPER = (
  {'model': 'U-Net', 'parameters': '7.76M', 'chaos': '96.12', 'promise12': '82.85'},
  {'model': 'UNet++', 'parameters': '9.04M', 'chaos': '95.89', 'promise12': '85.56'},
  {'model': 'Thrifty NAS', 'parameters': '0.61M', 'chaos': '96.21', 'promise12': '87.69'},
)


def report(workdir: Path | str) -> Path:
  """Writes report.html.

  Args:
    workdir: The run's folder. Stages whose files are not there are named so in the page.

  Returns:
    The page's path.

  Raises:
    InputError: If a file is there but damaged, or its scores have no distances.
  """
  workdir = Path(workdir)
  return files.write_text(workdir / 'report.html', render(gather(workdir)))


def render(content: Mapping[str, Any], template: str = 'page.html.j2') -> str:
  """A page of page/: the report, from what `gather` found, unless another is named."""
  return _templates().get_template(template).render(content)


@functools.cache
def _templates() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('thrifty_jax.reporting', 'page'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {'percent': tables.number, 'count': count}
  environment.filters |= {'duration': logbook.duration, 'gibibytes': gibibytes}
  environment.filters |= {'spread': tables.spread, 'interval': tables.interval}
  return environment


def gather(workdir: Path) -> dict[str, Any]:
  """All that the page shows; a value is None, or empty, where its file is not there."""
  run = _trained_run(workdir)
  evaluated = run_files.evaluated(run)
  retrained = run_files.optional(run / 'retrain' / 'summary.json', run_files.RETRAINED)
  config = run_files.optional(workdir / 'config.json', run_files.CONFIG) or {}
  environment = run_files.optional(workdir / 'environment.json', run_files.ENVIRONMENT) or {}
  model = (evaluated or retrained or config.get('model', {})).get('model', '') or (
    config.get('model', {}).get('name', '')
  )
  rows = _rows(run / 'evaluate' / 'scores.csv')
  return {
    'data': (evaluated or {}).get('data') or config.get('data', {}).get('name', ''),
    'model': MODELS.get(model, model),
    'searched': model in ('thrifty', '') and not config.get('genotype'),
    'given': Path(config.get('genotype') or '').name,
    'config': config,
    'fields': configs.flatten(config),
    'earlier_environments': len(environment.pop('earlier', [])),
    'environment': configs.flatten(environment),
    'evaluated': evaluated,
    'of': scored_patients(evaluated) if evaluated else '',
    'retrained': retrained,
    'parameters': (evaluated or retrained or {}).get('parameters'),
    'floors': FLOORS,
    'metrics': tables.LABELS,
    'flagged': tables.flagged(evaluated) if evaluated else '',
    'best_floor': best_floor(evaluated),
    'paper': PAPER,
    **_comparison(workdir),
    'rows': rows,
    'dots': Markup(dots(rows)) if rows else '',
    'viewers': viewers(run, evaluated, rows),
    'retrain_plots': [Markup(text) for text in histories.retrain_plots(run, retrained)],
    'search_plots': [Markup(text) for text in histories.search_plots(workdir)],
    'seeds': run_files.optional(workdir / 'search' / 'seeds.json', run_files.SEEDS),
    'alpha_plots': histories.alpha_plots(workdir),
    'health': histories.search_health(workdir),
    'resources': {
      stage: used
      for stage, folder in (('search', workdir), ('retrain', run))
      if (used := run_files.optional(folder / stage / 'resources.json', run_files.RESOURCES))
    },
    'colours': drawing.variables() | grid_drawing.variables(),
    'dark_colours': drawing.variables(dark=True) | grid_drawing.variables(dark=True),
    'differences': overlays.DIFFERENCES,
    'class_colours': overlays.CLASS_COLOURS,
    **_drawn_genotype(workdir, config.get('model', {}).get('depth')),
  }


def count(value: int | None) -> str:
  """A whole number with thin groups, `605,280`."""
  return '–' if value is None else f'{value:,}'


def gibibytes(value: int | None) -> str:
  """Memory, `4.43 GiB`."""
  return '–' if value is None else f'{value / 2**30:.2f} GiB'


def scored_patients(evaluated: Mapping[str, Any]) -> str:
  """How many patients of which split, `8 test patients`."""
  count = evaluated['patients']
  return f'{count} {evaluated["split"]} patient{"s" * (count != 1)}'


def best_floor(evaluated: Mapping[str, Any] | None) -> str:
  """The name of the strongest floor, for a sentence."""
  if not evaluated or not evaluated.get('floors'):
    return ''
  floors = evaluated['floors']
  name = max(floors, key=lambda floor: floors[floor]['dsc_mean'])
  return FLOORS.get(name, name)


def dots(rows: Sequence[Mapping[str, str]]) -> str:
  """The plot of the score of every patient, class by class, the floors below the model."""
  columns = {'dsc': 'this network'}
  columns |= {f'{floor}_dsc': name for floor, name in FLOORS.items() if f'{floor}_dsc' in rows[0]}
  groups: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    group = groups.setdefault(row['class'], {name: [] for name in columns.values()})
    for column, name in columns.items():
      group[name].append(100 * float(row[column]))
  return plots.dots(groups, name='patients')


def viewers(
  run: Path, evaluated: Mapping[str, Any] | None, rows: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
  """Pictures of the best, the median and the worst patient, as far as they are there."""
  if not evaluated or not rows:
    return []
  of_patient: dict[str, list[float]] = {}
  for row in rows:
    of_patient.setdefault(row['patient'], []).append(float(row['dsc']))
  means = {patient: sum(scores) / len(scores) for patient, scores in of_patient.items()}
  ranked = sorted(means, key=lambda patient: -means[patient])
  places = {'best': 0, 'median': len(ranked) // 2, 'worst': len(ranked) - 1}
  if len(ranked) < 3:
    places = {'only': 0} if len(ranked) == 1 else {'best': 0, 'worst': 1}
  found = []
  for which, place in places.items():
    patient = ranked[place]
    case = next((case for case in evaluated['cases'] if case['patient'] == patient), None)
    if case is None:
      raise InputError(
        f'{run / "evaluate"}: scores.csv has the patient {patient!r:.60}, summary.json has not; '
        'remove the folder and run --stage=evaluate'
      )
    folder = run / case.get('run', '') / 'evaluate' / 'predictions'
    if (path := folder / f'{case["case"]}.npz').exists():
      title = {'which': which, 'patient': patient, 'case': case['case'], 'dsc': means[patient]}
      found.append(title | {'frames': overlays.frames(path)})
  return found


def _trained_run(workdir: Path) -> Path:
  """Where the run's network was trained; of a comparison alone, that of the searched rival."""
  results = workdir / 'compare' / 'results.json'
  if (workdir / 'retrain').exists() or not results.exists():
    return workdir
  first = forms.read(results, run_files.RESULTS)[:1]
  return workdir / first[0]['folder'] if first else workdir


def _comparison(workdir: Path) -> dict[str, Any]:
  """What --stage=compare left."""
  found = run_files.compared(workdir)
  if found is None:
    return {'compared': None}
  compared, rows = found
  labels = {rival['name']: rival['label'] for rival in compared['rivals']}
  scores: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    of_class = scores.setdefault(row['class'], {label: [] for label in labels.values()})
    of_class[labels[row['rival']]].append(100 * float(row['dsc']))
  random = [rival['dsc_mean'] for rival in compared['rivals'] if rival['kind'] == 'random']
  return {
    'compared': compared,
    'compared_dots': Markup(plots.dots(scores, name='rivals')),
    'random_mean': sum(random) / len(random) if random else None,
    'paper_of': dict(zip(('unet', 'unet_plus_plus', 'thrifty'), PAPER, strict=True)),
  }


def _drawn_genotype(workdir: Path, depth: int | None) -> dict[str, Any]:
  """The structure that was retrained, else the one that the search found, drawn cell by cell.

  The grid of cells is there if the depth is known.
  """
  for path in (workdir / 'model' / 'genotype.json', workdir / 'search' / 'genotype.json'):
    if path.exists():
      genotype, scores = genotypes.load(path), drawing.edge_scores(path)
      if depth:
        genotypes.require_depth(genotype, depth, place=str(path))
      cells = [
        drawing.draw_cell(kind, getattr(genotype, kind), scores[kind]) for kind in drawing.TITLES
      ]
      grid = grid_drawing.draw_grid(depth, genotype.skipped).inline() if depth else ''
      provenance = configs.flatten(forms.read(path, PROVENANCE).get('provenance') or {})
      return {
        'cells': [Markup(cell.inline()) for cell in cells],
        'grid': Markup(grid),
        'scores_note': drawing.SCORES if any(scores.values()) else '',
        'genotype_path': path.relative_to(workdir),
        'provenance': provenance,
      }
  return {'cells': [], 'grid': '', 'scores_note': '', 'genotype_path': '', 'provenance': {}}


def _rows(path: Path) -> list[dict[str, str]]:
  """The rows of scores.csv, none where there is no file."""
  if not path.exists():
    return []
  scores = ('dsc', *(f'{floor}_dsc' for floor in FLOORS))
  return forms.read_rows(path, ('patient', 'class', 'dsc'), scores=scores)
