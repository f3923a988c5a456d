"""Scores the retrained network once, per patient, on the native grid, beside the floors."""

import collections
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from thrifty_jax import RESEARCH_USE, files, logbook, records
from thrifty_jax import model as model_
from thrifty_jax.data import batching, splits
from thrifty_jax.data.prepared import open_slices
from thrifty_jax.errors import InputError
from thrifty_jax.networks import slicewise
from thrifty_jax.run_files import Case, Evaluated, Figures, Floor, Overlap
from thrifty_jax.scans import slices
from thrifty_jax.scores import components, floors, scoring, summaries, tables

# Class scores of a case at network resolution, [D, S, S, K], float32, from its slices.
Predict = Callable[[batching.Examples], np.ndarray]
_THREADS = 4  # that score the cases of a validation
_NAMES = ('patient_names', 'cases')  # of a summary; a model may go to others


def evaluate(
  config: ConfigDict, workdir: Path | str, *, split: str | None = None, quiet: bool = False
) -> Evaluated:
  """Scores the model folder of a run and writes what the report is made of.

  Writes <workdir>/evaluate/{scores.csv, predictions/<case>.npz, summary.json}, the summary last,
  and, without the names of patients, model/scores.json; for a split that is asked for by name
  evaluate_<split>/ alone.

  Args:
    config: The run's settings.
    workdir: The run's folder, with model/ in it.
    split: Whose patients are scored: train, validation or test; None is the protocol's own: test,
      or for pooled_2d validation, as the paper has it: not held out.
    quiet: Print no table at the end.

  Returns:
    The summary, as written.

  Raises:
    InputError: If the model, the prepared data or a listed patient is missing, or nobody is in the
      split.
  """
  workdir = Path(workdir)
  folder, by_protocol = workdir / (f'evaluate_{split}' if split else 'evaluate'), not split
  split = split or ('validation' if config.evaluate.protocol == 'pooled_2d' else 'test')
  loaded = model_.load(workdir / 'model')
  prepared = open_slices(workdir, config)
  patients = patients_of(config, prepared)
  scored = cases_of(prepared, patients[split])
  if not scored:
    raise InputError(
      f'there are no {split} patients, as config.data.hold_out_test is False; score another split'
    )
  training = TrainingCases(prepared, patients['train'])
  classes = tuple(config.data.classes)

  fitted = fit_floors(training, classes=len(classes), intensity=config.evaluate.threshold_floor)
  predict = network_predict(
    loaded.logits,
    statistics={name: np.asarray(loaded.preprocessing[name]) for name in ('mean', 'std')},
    context=loaded.preprocessing['context'],
    batch_size=config.evaluate.batch_size,
    flips=flips_of(config),
  )
  largest = [classes.index(name) for name in loaded.preprocessing['largest_component']]
  counts: list[scoring.CaseCounts] = []
  floor_counts: dict[str, list[scoring.CaseCounts]] = {name: [] for name in fitted}
  with logbook.progress(len(scored), f'evaluate {split}') as bar:
    for case in scored:
      examples = batching.Examples(prepared, (case,))
      arrays = examples.read(np.arange(len(examples)))
      truth = {'label': arrays['label'], 'truth': prepared.label_volume(case)}
      scores = predict(examples)
      counts.append(
        scoring.score_case(
          case.case,
          case.patient,
          scores=scores,
          largest=largest,
          spacing_mm=case.spacing_mm,
          nsd_tolerance_mm=config.evaluate.nsd_tolerance_mm,
          **truth,
        )
      )
      for name, floor in fitted.items():
        guess = floor_scores(floor, arrays['image'])
        found = scoring.score_case(case.case, case.patient, scores=guess, **truth)
        floor_counts[name].append(found)
      shown = components.keep_largest(slices.largest_class(scores), largest)
      _write_prediction(folder / 'predictions' / f'{case.case}.npz', arrays, shown)
      bar.set_postfix(dsc=f'{scoring.mean_dsc(counts):.3f}')
      bar.update(1)

  table = list(summaries.make_rows(counts, classes, floor_counts))
  files.write_text(folder / 'scores.csv', summaries.to_csv(table))
  mean, of_classes = summaries.summarise(counts, classes, Figures)
  scored_floors = {
    name: _describe_floor(floor, floor_counts[name], classes) for name, floor in fitted.items()
  }
  summary = Evaluated(
    **_circumstances(config, prepared, patients, split),
    parameters=model_.count(loaded.params),
    largest_component=tuple(loaded.preprocessing['largest_component']),
    mean=mean,
    classes=of_classes,
    floor_dsc=max(floor.mean.dsc.mean for floor in scored_floors.values()),
    floors=scored_floors,
  )
  if by_protocol:
    content = records.to_json(summary)
    nameless = {name: value for name, value in content.items() if name not in _NAMES}
    model_.add_scores(workdir / 'model', {'research_use': RESEARCH_USE, **nameless})
  records.write(folder / 'summary.json', summary)
  if not quiet:
    print(tables.evaluation(summary), flush=True)
  return summary


class TrainingCases:
  """The training cases for fitting floors: iterated over as often as needed, one in memory."""

  def __init__(self, prepared: batching.Prepared, patients: Sequence[str]):
    self.prepared, self.cases = prepared, cases_of(prepared, patients)

  def __iter__(self) -> Iterator[floors.TrainingCase]:
    for case in self.cases:
      examples = batching.Examples(self.prepared, (case,))
      yield floors.TrainingCase(case.patient, **examples.read(np.arange(len(examples))))


def patients_of(config: ConfigDict, prepared: batching.Prepared) -> dict[str, tuple[str, ...]]:
  """The patients of each split, by name: train, validation, test."""
  return splits.of(config, [case.patient for case in prepared.cases])


def cases_of(
  prepared: batching.Prepared, patients: Sequence[str]
) -> tuple[batching.PreparedCase, ...]:
  """All cases of these patients; a case that happens to have a patient's name is not meant."""
  return tuple(case for case in prepared.cases if case.patient in patients)


def flips_of(config: ConfigDict) -> tuple[scoring.Flip, ...]:
  """The flips that logits are averaged over: those that augmentation allows, if asked for."""
  if not config.evaluate.flips:
    return ()
  return tuple(flip for flip in scoring.FLIP_AXES if config.augment[f'flip_{flip}'])


def network_predict(
  logits: Callable[[jax.Array], jax.Array],
  *,
  statistics: batching.Statistics,
  context: int,
  batch_size: int,
  flips: Sequence[scoring.Flip] = (),
  mesh: Mesh | None = None,
) -> Predict:
  """The function from the slices of a case to a network's logits.

  Args:
    logits: The network, [B, S, S, C] normalised to [B, S, S, K].
    statistics: Of the training patients that it was trained on.
    context: Neighbouring slices on each side, as it was trained.
    batch_size: Slices at a time; the last batch is filled, so one size is compiled. A CPU takes
      them one by one, see slicewise.py.
    flips: Logits are averaged over these.
    mesh: The devices that share a batch, which is enlarged until they do so evenly; None is the
      default device.
  """
  averaged = scoring.average_over_flips(logits, flips)
  devices = mesh.size if mesh else 1
  averaged = averaged if devices > 1 else slicewise.network(averaged)
  batch_size = -(-batch_size // devices) * devices

  def predict(examples: batching.Examples) -> np.ndarray:
    examples = dataclasses.replace(examples, mesh=mesh)
    batches = batching.in_order(
      examples, batch_size=batch_size, statistics=statistics, context=context
    )
    found = [np.asarray(averaged(batch['image']), np.float32) for batch in batches]
    return np.concatenate(found)[: len(examples)]

  return predict


def validation_dsc(
  prepared: batching.Prepared,
  patients: Sequence[str],
  predict: Predict,
  *,
  protocol: str = 'volume',
) -> float:
  """What chooses a checkpoint.

  Args:
    prepared: The data set.
    patients: Whose slices are predicted.
    predict: From the slices of a case to class scores.
    protocol: volume: the DSC on the native grid, mean over patients and classes; pooled_2d: that
      of all slices at network resolution, mean over classes.
  """
  counts = list(_in_threads(scoring.score_case, _predicted(prepared, patients, predict)))
  return scoring.pooled_dsc(counts) if protocol == 'pooled_2d' else scoring.mean_dsc(counts)


def classes_of_one_piece(
  prepared: batching.Prepared, patients: Sequence[str], predict: Predict, *, classes: Sequence[str]
) -> list[str]:
  """Names of the classes that gain from keeping only their largest component.

  Args:
    prepared: The data set.
    patients: The validation patients.
    predict: From the slices of a case to class scores.
    classes: Names of the K classes, background first.

  Returns:
    Those whose volume DSC, mean over the patients, is higher with it.
  """
  foreground = range(1, len(classes))

  def both(**case: Any) -> tuple[scoring.CaseCounts, scoring.CaseCounts]:
    return scoring.score_case(**case), scoring.score_case(**case, largest=foreground)

  counts = _in_threads(both, _predicted(prepared, patients, predict))
  whole, largest = map(scoring.mean_dsc_of_classes, zip(*counts, strict=True))
  gain = largest - whole
  return [classes[index] for index in foreground if gain[index - 1] > 0]


def _predicted(
  prepared: batching.Prepared, patients: Sequence[str], predict: Predict
) -> Iterator[dict[str, Any]]:
  """What score_case needs of each case of these patients."""
  for case in cases_of(prepared, patients):
    examples = batching.Examples(prepared, (case,))
    yield {
      'case': case.case,
      'patient': case.patient,
      'scores': predict(examples),
      'label': examples.read(np.arange(len(examples)))['label'],
      'truth': prepared.label_volume(case),
    }


def _in_threads(score: Callable[..., Any], cases: Iterable[dict[str, Any]]) -> Iterator[Any]:
  """`score` of each case, in order, while the next ones are being predicted.

  An accelerator predicts a case in less time than it takes to score it.
  """
  with ThreadPoolExecutor(_THREADS) as pool:
    running: collections.deque[Future] = collections.deque()
    for case in cases:
      if len(running) == _THREADS:  # so many are in memory at a time
        yield running.popleft().result()
      running.append(pool.submit(score, **case))
    yield from (each.result() for each in running)


def fit_floors(
  training: TrainingCases, *, classes: int, intensity: bool
) -> dict[str, floors.MeanMask | floors.IntensityThresholds]:
  """The floors by name, fitted on training slices; the intensity thresholds only if asked for."""
  fitted: dict[str, Any] = {'mean_mask': floors.fit_mean_mask(training, classes=classes)}
  if intensity:
    fitted['intensity_thresholds'] = floors.fit_thresholds(training, classes=classes)
  return fitted


def floor_scores(
  floor: floors.MeanMask | floors.IntensityThresholds, image: np.ndarray
) -> np.ndarray:
  """Class scores that a floor gives the slices [D, S, S, M] of a case: [D, S, S, K]."""
  if isinstance(floor, floors.MeanMask):
    return floor.scores(len(image))
  return floor.scores(image)


def _circumstances(
  config: ConfigDict, prepared: batching.Prepared, patients: dict[str, tuple[str, ...]], split: str
) -> dict[str, Any]:
  """The fields of the summary that say what was scored and how."""
  of_split = {name: cases_of(prepared, names) for name, names in patients.items()}
  return {
    'protocol': config.evaluate.protocol,
    'split': split,
    'nsd_tolerance_mm': config.evaluate.nsd_tolerance_mm,
    'held_out': split == 'test' and config.evaluate.protocol == 'volume',
    'data': config.data.name,
    'note': prepared.note,
    'folds': config.data.folds,
    'fold': config.data.fold,
    'model': config.model.name,
    'flips': flips_of(config),
    'patients': len(patients[split]),
    'patient_names': patients,
    'slices': {name: sum(case.slices for case in cases) for name, cases in of_split.items()},
    'cases': tuple(Case(case.case, case.patient) for case in of_split[split]),
  }


def _describe_floor(
  floor: floors.MeanMask | floors.IntensityThresholds,
  counts: Sequence[scoring.CaseCounts],
  classes: Sequence[str],
) -> Floor:
  """The scores of a floor, and how it was fitted."""
  mean, of_classes = summaries.summarise(counts, classes, Overlap)
  scored = Floor(mean, of_classes, 'training slices', floor.training_dsc)
  if isinstance(floor, floors.MeanMask):
    return dataclasses.replace(scored, threshold=floor.threshold)
  bands = tuple(classes[k] for k in floor.band_classes)
  return dataclasses.replace(scored, thresholds=floor.thresholds, bands=bands)


def _write_prediction(path: Path, arrays: dict[str, np.ndarray], prediction: np.ndarray) -> None:
  """Slices of a case for the report, 8-bit, at network resolution: image, truth, prediction."""
  image = np.clip(arrays['image'][..., 0].astype(np.float32), 0, 1)
  content = io.BytesIO()
  np.savez_compressed(
    content,
    image=np.round(255 * image).astype(np.uint8),
    truth=arrays['label'].astype(np.uint8),
    prediction=prediction,
  )
  files.write_bytes(path, content.getvalue())
