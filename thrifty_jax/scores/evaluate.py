"""Scores the retrained network and the floors per patient on the native grid."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import labels, logbook, model_folder, presence, records
from thrifty_jax.data import splits
from thrifty_jax.data.prepared import Prepared, open_slices
from thrifty_jax.reporting import tracked
from thrifty_jax.run_files import Agreement, Case, Evaluated, Figures, Floor, Overlap, without_names
from thrifty_jax.scans import overlays
from thrifty_jax.scores import agreement, cases, components, floors, scoring, summaries, tables

Fitted = floors.MeanMask | floors.IntensityThresholds


def evaluate(config: ConfigDict, workdir: Path | str) -> Evaluated:
  """Scores the model folder of a run, prints the table and writes the report's files.

  The test patients are scored, or for pooled_2d the validation patients, which are not held out, as
  in the paper. Writes <workdir>/evaluate/{scores.csv, predictions/<case>.npz, summary.json}, the
  summary last, and model/scores.json without patients' names.

  Args:
    config: Settings of the run.
    workdir: Folder of the run, which contains model/.

  Returns:
    The summary, as written.

  Raises:
    InputError: If the model, the prepared data or a patient is missing.
  """
  workdir = Path(workdir)
  folder = workdir / 'evaluate'
  split = 'validation' if config.evaluate.protocol == 'pooled_2d' else 'test'
  loaded = model_folder.load(workdir / 'model')
  prepared = open_slices(workdir, config)
  patients = splits.assign(config, prepared.classes_of_patients)
  scored = prepared.cases_of(patients[split])
  classes = tuple(config.data.classes)
  flips = loaded.spec.flips if config.evaluate.flips else ()
  training = TrainingCases(prepared, patients['train'])
  fitted: dict[str, Fitted] = {}
  meaning: dict[str, Any] = {'classes': len(classes), 'regions': prepared.regions}
  if not prepared.reduction:  # a window has no place of its own
    fitted['mean_mask'] = floors.fit_mean_mask(training, **meaning)
  if config.evaluate.threshold_floor or prepared.reduction:
    if labels.count(len(classes), prepared.regions) <= floors.MOST_LABELS:
      fitted['intensity_thresholds'] = floors.fit_thresholds(training, **meaning)
    else:
      most = floors.MOST_LABELS
      logbook.say('floors', f'without thresholds, which are for {most} labels at most')
  predict = loaded.predict_with(batch_size=config.evaluate.batch_size, flips=flips)
  lists_suspects = config.evaluate.list_suspects
  agreements: list[Agreement] = []
  predicted = cases.predict_cases(prepared, scored, predict)
  counts, floor_counts = _score_cases(
    _noting(predicted, agreements, split, config) if lists_suspects else predicted,
    fitted,
    largest=loaded.spec.largest,
    nsd_tolerance_mm=config.evaluate.nsd_tolerance_mm,
    unit=config.data.unit,
    predictions=folder / 'predictions',
    bar=logbook.progress(len(scored), f'evaluate {split}'),
  )
  rows = list(summaries.make_rows(counts, classes, floor_counts, unit=config.data.unit))
  summaries.write_rows(folder / 'scores.csv', rows)
  known = [*agreements] if split != 'test' else []
  for name in ('train', 'validation') if lists_suspects else ():
    if name != split:
      of_name = prepared.cases_of(patients[name])
      with logbook.progress(len(of_name), f'suspects in {name}') as bar:
        for _ in _noting(cases.predict_cases(prepared, of_name, predict), known, name, config):
          bar.update(1)
  mean, of_classes = summaries.summarise(counts, classes, Figures)
  scored_floors = {
    name: _describe_floor(floor, floor_counts[name], classes) for name, floor in fitted.items()
  }
  of_split = {name: prepared.cases_of(names) for name, names in patients.items()}
  summary = Evaluated(
    protocol=config.evaluate.protocol,
    split=split,
    nsd_tolerance_mm=config.evaluate.nsd_tolerance_mm,
    unit=config.data.unit,
    held_out=split == 'test' and config.evaluate.protocol == 'volume',
    data=config.data.name,
    note=prepared.note,
    folds=config.data.folds,
    fold=config.data.fold,
    model=config.model.name,
    flips=tuple(flips),
    patients=len(patients[split]),
    patient_names=patients,
    having=presence.count(patients, prepared.classes_of_patients, classes),
    slices={name: sum(one.slices for one in found) for name, found in of_split.items()},
    cases=tuple(Case(one.case, one.patient) for one in scored),
    parameters=loaded.parameters,
    weights_sha256=(loaded.sha256,),
    largest_component=tuple(loaded.spec.largest_component),
    agreements=tuple(agreements),
    suspects=agreement.find_suspects(known),
    mean=mean,
    classes=of_classes,
    floor_dsc=summaries.best_dsc(scored_floors.values()),
    floors=scored_floors,
  )
  model_folder.add_scores(workdir / 'model', without_names(records.to_json(summary)))
  records.write(folder / 'summary.json', summary)
  if config.trackers:
    tracked.send_scores(config, workdir, summary)
  print(tables.format_evaluation(summary), flush=True)
  return summary


def _noting(
  predicted: Iterable[cases.PredictedCase],
  noted: list[Agreement],
  split: str,
  config: ConfigDict,
) -> Iterator[cases.PredictedCase]:
  """Yields the cases, and appends how well the mask of each agrees with the network."""
  count, axis = len(config.data.classes), config.data.slice_axis
  for one in predicted:
    if measured := agreement.measure(one, split, classes=count, slice_axis=axis):
      noted.append(measured)
    yield one


def _score_cases(
  predicted: Iterable[cases.PredictedCase],
  fitted: Mapping[str, Fitted],
  *,
  largest: Sequence[int],
  nsd_tolerance_mm: float,
  unit: str,
  predictions: Path,
  bar: Any,
) -> tuple[list[scoring.CaseCounts], dict[str, list[scoring.CaseCounts]]]:
  """Returns the counts of every case, of the network and of each floor, and keeps the masks."""
  counts: list[scoring.CaseCounts] = []
  floor_counts: dict[str, list[scoring.CaseCounts]] = {name: [] for name in fitted}
  with bar:
    for found in predicted:
      counts.append(
        found.score(
          largest=largest,
          spacing_mm=found.case.spacing_mm,
          nsd_tolerance_mm=nsd_tolerance_mm,
        )
      )
      for name, floor in fitted.items():
        floor_counts[name].append(found.score(scores=floor.scores(found.image)))
      image, label, shown = found.joined()
      shown = components.keep_largest(shown, largest, found.regions)
      pair = labels.leave_out_ignored(shown, label)
      shown, label = (labels.innermost(one, found.regions) for one in pair)
      path = predictions / f'{found.case.case}.npz'
      overlays.write(path, overlays.pick_channels(image, unit=unit), label, shown)
      bar.set_postfix(dsc=scoring.format_dsc(counts))
      bar.update(1)
  return counts, floor_counts


class TrainingCases:
  """Training cases for floors, which can be read repeatedly with one case in memory."""

  def __init__(self, prepared: Prepared, patients: Sequence[str]):
    self.prepared, self.cases = prepared, prepared.cases_of(patients)

  def __iter__(self) -> Iterator[floors.TrainingCase]:
    for case in self.cases:
      yield floors.TrainingCase(case.patient, **self.prepared.read(case))


def _describe_floor(
  floor: Fitted,
  counts: Sequence[scoring.CaseCounts],
  classes: Sequence[str],
) -> Floor:
  """Scores of a floor and its fitted values."""
  scored = Floor(
    *summaries.summarise(counts, classes, Overlap), 'training slices', floor.training_dsc
  )
  if isinstance(floor, floors.MeanMask):
    return dataclasses.replace(scored, threshold=floor.threshold)
  bands = tuple(classes[k] for k in labels.innermost(np.array(floor.band_labels), floor.regions))
  return dataclasses.replace(scored, thresholds=floor.thresholds, bands=bands)
