"""Scores the retrained network once, per patient, on the native grid, beside the floors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep import prepare
from thrifty_jax import files, logbook, model_folder
from thrifty_jax.data import batching, splits
from thrifty_jax.errors import InputError
from thrifty_jax.scores import cases, floors, scoring, summaries, tables

_NAMES = ('patient_names', 'cases')  # of a summary; a model may go to others


def evaluate(
  config: ConfigDict, workdir: Path | str, *, split: str | None = None
) -> dict[str, Any]:
  """Scores the model folder of a run, prints the table and writes what the report is made of.

  Writes <workdir>/evaluate/{scores.csv, predictions/<case>.npz, summary.json}, the summary last,
  and, without the names of patients, model/scores.json; for a split that is asked for by name
  evaluate_<split>/ alone.

  Args:
    config: The run's settings.
    workdir: The run's folder, with model/ in it.
    split: Whose patients are scored: train, validation or test; None is the protocol's own: test,
      or for pooled_2d validation, as the paper has it: not held out.

  Returns:
    The summary, as written.

  Raises:
    InputError: If the model, the prepared data or a listed patient is missing, or nobody is in the
      split.
  """
  workdir = Path(workdir)
  folder, by_protocol = workdir / (f'evaluate_{split}' if split else 'evaluate'), not split
  split = split or ('validation' if config.evaluate.protocol == 'pooled_2d' else 'test')
  loaded = model_folder.load(workdir / 'model')
  prepared = batching.open_prepared(prepare.prepared_dir(config))
  patients = splits.of(config, prepared.patients)
  scored = prepared.cases_of(patients[split])
  if not scored:
    raise InputError(
      f'there are no {split} patients, as config.data.hold_out_test is False; score another split'
    )
  classes = tuple(config.data.classes)
  flips = loaded.spec.flips if config.evaluate.flips else ()
  fitted = floors.fit(
    TrainingCases(prepared, patients['train']),
    classes=len(classes),
    intensity=config.evaluate.threshold_floor,
  )
  predict = loaded.predict_with(batch_size=config.evaluate.batch_size, flips=flips)
  counts: list[scoring.CaseCounts] = []
  floor_counts: dict[str, list[scoring.CaseCounts]] = {name: [] for name in fitted}
  with logbook.progress(len(scored), f'evaluate {split}') as bar:
    for found in cases.predict_cases(prepared, scored, predict):
      counts.append(
        found.score(
          largest=loaded.spec.largest,
          spacing_mm=found.case.spacing_mm,
          nsd_tolerance_mm=config.evaluate.nsd_tolerance_mm,
        )
      )
      for name, floor in fitted.items():
        floor_counts[name].append(found.score(scores=floor.scores(found.image)))
      path = folder / 'predictions' / f'{found.case.case}.npz'
      found.write(path, largest=loaded.spec.largest)
      bar.set_postfix(dsc=f'{scoring.mean_dsc(counts):.3f}')
      bar.update(1)

  table = list(summaries.rows(counts, classes, floor_counts))
  files.write_text(folder / 'scores.csv', summaries.csv_text(table))
  summary = {
    **_circumstances(config, prepared, patients, split, flips),
    'parameters': loaded.parameters,
    'largest_component': list(loaded.spec.largest_component),
    **summaries.summarise(counts, classes),
    **_summary_of_floors(fitted, floor_counts, classes),
  }
  if by_protocol:
    nameless = {name: value for name, value in summary.items() if name not in _NAMES}
    model_folder.add_scores(workdir / 'model', nameless)
  files.write_json(folder / 'summary.json', summary)
  print(tables.evaluation(summary), flush=True)
  return summary


class TrainingCases:
  """The training cases for fitting floors: iterated over as often as needed, one in memory."""

  def __init__(self, prepared: batching.Prepared, patients: Sequence[str]):
    self.prepared, self.cases = prepared, prepared.cases_of(patients)

  def __iter__(self) -> Iterator[floors.TrainingCase]:
    for case in self.cases:
      yield floors.TrainingCase(case.patient, **self.prepared.read(case))


def _circumstances(
  config: ConfigDict,
  prepared: batching.Prepared,
  patients: dict[str, tuple[str, ...]],
  split: str,
  flips: Sequence[str],
) -> dict[str, Any]:
  """What was scored and how, without any score."""
  of_split = {name: prepared.cases_of(names) for name, names in patients.items()}
  return {
    'protocol': config.evaluate.protocol,
    'split': split,
    'nsd_tolerance_mm': config.evaluate.nsd_tolerance_mm,
    'held_out': split == 'test' and config.evaluate.protocol == 'volume',
    'data': config.data.name,
    'note': prepared.metadata.get('note', ''),
    'folds': config.data.folds,
    'fold': config.data.fold,
    'model': config.model.name,
    'flips': list(flips),
    'patients': len(patients[split]),
    'patient_names': {name: list(names) for name, names in patients.items()},
    'slices': {name: sum(one.slices for one in found) for name, found in of_split.items()},
    'cases': [{'case': one.case, 'patient': one.patient} for one in of_split[split]],
  }


def _summary_of_floors(
  fitted: dict[str, Any], counts: dict[str, list[scoring.CaseCounts]], classes: Sequence[str]
) -> dict[str, Any]:
  """`floor_dsc`, that of the best floor, and `floors` with how each was fitted."""
  described = {}
  for name, floor in fitted.items():
    described[name] = {
      **summaries.summarise(counts[name], classes),
      'fitted_on': 'training slices',
      'training_dsc': floor.training_dsc,
    }
    if isinstance(floor, floors.MeanMask):
      described[name]['threshold'] = floor.threshold
    else:
      described[name]['thresholds'] = list(floor.thresholds)
      described[name]['bands'] = [classes[k] for k in floor.band_classes]
  return {
    'floor_dsc': max(floor['dsc_mean'] for floor in described.values()),
    'floors': described,
  }
