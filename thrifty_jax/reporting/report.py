"""Writes one self-contained page about a run from the files in its folder only."""

from pathlib import Path
from typing import Any

from thrifty_jax import config as configs
from thrifty_jax import files, logbook, pages, presence, records, weights, words
from thrifty_jax.data import data_file, splits
from thrifty_jax.networks import genotype
from thrifty_jax.reporting import (
  comparison,
  fronts,
  health,
  histories,
  inputs,
  origins,
  patients,
  raced_time,
  structure,
  verdict,
)
from thrifty_jax.run_files import (
  EXTERNAL,
  Compared,
  Evaluated,
  Resources,
  Result,
  Retrained,
  ScoredMasks,
  Seeds,
)
from thrifty_jax.scans import overlays, volumes
from thrifty_jax.scores import agreement, tables

MODELS = {
  'thrifty': 'Thrifty network',
  'lean': 'Lean network',
  'unet': 'U-Net',
  'unet_plus_plus': 'UNet++',
}
COMPARED = 'compare/results.json'  # of a single run; each of several folds has its own
# Table 1 of Thrifty NAS (AAAI 2022): architecture, parameters, DSC in percent, on two data sets.
_OF_PAPER = ('chaos', 'promise12')
PAPER = (
  {'model': 'U-Net', 'parameters': '7.76M', 'chaos': '96.12', 'promise12': '82.85'},
  {'model': 'UNet++', 'parameters': '9.04M', 'chaos': '95.89', 'promise12': '85.56'},
  {'model': 'Thrifty NAS', 'parameters': '0.61M', 'chaos': '96.21', 'promise12': '87.69'},
)


def report(workdir: Path | str) -> Path:
  """Writes report.html into the folder of a run and returns its path.

  The page names stages whose files are missing; a damaged file raises InputError.
  """
  workdir = Path(workdir)
  if weights.has_old_scores(_trained_run(workdir)):
    logbook.say('scores', 'are left out: the network was trained anew since; run --stage=evaluate')
  page = pages.render(
    'page.html.j2',
    gather(workdir),
    percent=tables.format_number,
    spread=tables.format_spread,
    interval=tables.format_interval,
    p_value=tables.format_p,
    seeds=tables.format_seeds,
    count=lambda value: '–' if value is None else f'{value:,}',  # 605,280
    gibibytes=lambda value: '–' if value is None else f'{value / 2**30:.2f} GiB',
    macs=tables.format_macs,
    duration=logbook.format_duration,
  )
  return files.write_text(workdir / 'report.html', page)


def judge(workdir: Path) -> tuple[verdict.Sentence, ...]:
  """Judges the run in a folder by its files; () while it has no scores."""
  run = _trained_run(workdir)
  evaluated = inputs.read_evaluated(run)
  _, settings = inputs.read_with_content(workdir / 'config.json', inputs.Settings)
  reduction = settings.data.reduction if settings.data else 0.0
  named = words.choose(evaluated.unit, reduction) if evaluated else words.Words()
  return verdict.judge(
    evaluated,
    records.read_optional(run / 'retrain' / 'summary.json', Retrained),
    patients.read_scores(run) if evaluated else [],
    floor=_best_floor(evaluated),
    advice=fronts.advise(workdir, named.part),
    listed=bool(settings.data and settings.data.validation_patients + settings.data.test_patients),
  )


def gather(workdir: Path) -> dict[str, Any]:
  """Gathers the content of the page; a value whose file is missing is None or empty."""
  run = _trained_run(workdir)
  evaluated = inputs.read_evaluated(run)
  retrained = records.read_optional(run / 'retrain' / 'summary.json', Retrained)
  config, settings = inputs.read_with_content(workdir / 'config.json', inputs.Settings)
  environment, told = inputs.read_with_content(workdir / 'environment.json', inputs.Environment)
  environment.pop('earlier', None)
  search_lines = inputs.read_search(workdir, settings.search.operations)
  searched = workdir / 'search' / 'genotype.json'
  scored = evaluated or retrained
  model = scored.model if scored and scored.model else settings.model.name
  drawn = settings.data
  data = (evaluated.data if evaluated else '') or (drawn.name if drawn else '')
  unit = evaluated.unit if evaluated else drawn.unit if drawn else 'mm'
  named = words.choose(unit, drawn.reduction if drawn else 0.0)
  raced = fronts.gather(workdir, named.part)
  # Configs of cells, or with a genotype, race too.
  is_front = bool(raced) and not (scored or search_lines)
  model = 'lean' if is_front else model
  compared = comparison.gather(workdir, named.part, paper=PAPER)
  network = structure.draw(workdir, settings.model.depth)
  timed = raced_time.find(network['provenance'])
  return {
    'sides': volumes.list_sides(drawn.slice_axis) if drawn and unit == 'mm' else (),
    'data': _title(workdir, data),
    'model': MODELS.get(model, model),
    'searched': model in ('thrifty', '') and not settings.genotype,
    'raced': is_front or (model == 'lean' and not settings.genotype),
    'split': splits.describe(drawn) if drawn else '',
    'folds': _list_folds(workdir, evaluated, compared['compared']),
    'given': Path(settings.genotype).name,
    'settings': settings,
    'words': named,
    'drawing': words.describe_drawing(drawn) if drawn else '',
    'fields': configs.flatten(config),
    'earlier_environments': len(told.earlier),
    'environment': configs.flatten(environment),
    'evaluated': evaluated,
    'verdict': judge(workdir),
    'of': tables.count_patients(evaluated) if evaluated else '',
    'retrained': retrained,
    'retrained_fields': records.to_json(retrained) if retrained else {},
    'lessons': origins.tell_teacher(retrained.taught) if retrained and retrained.taught else '',
    'started': origins.tell_start(retrained.started) if retrained and retrained.started else (),
    'parameters': scored.parameters if scored else None,
    'place': 'evaluate/',
    'metrics': tables.label_metrics(evaluated.unit) if evaluated else {},
    'largest': tables.describe_largest(evaluated) if evaluated else '',
    **(tables.describe_exceptions(evaluated) if evaluated else {}),
    'suspects': [agreement.describe(one) for one in evaluated.suspects] if evaluated else [],
    'having': presence.describe(evaluated.having, evaluated.patient_names) if evaluated else '',
    'lacking': presence.describe_absent(evaluated.having, evaluated.patient_names)
    if evaluated
    else '',
    'best_floor': _best_floor(evaluated),
    'paper': PAPER if data in _OF_PAPER else (),
    'fronts': raced,
    **compared,
    **_external(workdir),
    **patients.gather(run, evaluated, overlays.line_colours(drawn.colours if drawn else ())),
    'retrain_plots': histories.plot_retraining(
      inputs.read_lines(run / 'retrain', inputs.RetrainLine),
      retrained.best_epoch if retrained else None,
    ),
    'search_plots': histories.plot_search(search_lines),
    'seeds': records.read_optional(workdir / 'search' / 'seeds.json', Seeds),
    'alpha_plots': histories.plot_weights(search_lines, settings.search.operations),
    'health': health.judge(
      search_lines, genotype.load(searched) if search_lines and searched.exists() else None
    ),
    'resources': {
      stage: used
      for stage, folder in (('search', workdir), ('retrain', run))
      if (used := records.read_optional(folder / stage / 'resources.json', Resources))
    },
    'colours': structure.COLOURS,
    'dark_colours': structure.DARK_COLOURS,
    **network,
    'timed': timed,
    'time': raced_time.describe(timed, named.part, cross='×') if timed else '',
  }


def _external(workdir: Path) -> dict[str, Any]:
  """Content of the page about the external test set, with the names of that about the scores."""
  path = f'{EXTERNAL}/summary.json'
  if weights.has_old_scores(workdir, path) or not (workdir / path).exists():
    return {'external': None}
  found = records.read(workdir / path, ScoredMasks)
  return {
    'external': {
      'evaluated': found,
      'of': tables.describe_patients(found),
      'place': f'{EXTERNAL}/',
      **tables.describe_exceptions(found),
    }
  }


def _list_folds(
  workdir: Path, evaluated: Evaluated | None, compared: Compared | None
) -> tuple[int, ...]:
  """Returns the folds whose runs lie in folders of their own; () for a single run."""
  if evaluated:
    return tuple(one.fold for one in evaluated.of_folds)
  return compared.folds if compared and not (workdir / COMPARED).exists() else ()


def _title(workdir: Path, name: str) -> str:
  """Returns what people call the data set; the folds of a run know it."""
  place = next((fold for fold in sorted(workdir.glob('fold_*')) if fold.is_dir()), workdir)
  return data_file.read_title(place, name)


def _best_floor(evaluated: Evaluated | None) -> str:
  """Name of the strongest floor, for a sentence."""
  floors = evaluated.floors if evaluated else {}
  name = max(floors, key=lambda floor: floors[floor].mean.dsc_mean or 0, default='')
  return patients.FLOORS.get(name, name)


def _trained_run(workdir: Path) -> Path:
  """Folder where the network was trained; if there is only a comparison, the searched rival's."""
  results = workdir / COMPARED
  if (workdir / 'retrain').exists() or not results.exists():
    return workdir
  first = records.read(results, tuple[Result, ...])[:1]
  return workdir / first[0].folder if first else workdir
