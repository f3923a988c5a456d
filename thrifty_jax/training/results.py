"""Progress and results of a training: figures of each epoch, the model folder and its summary."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import device, logbook, model_folder, records, stopping, words
from thrifty_jax.data import data_file, likeness, mesh, split_file
from thrifty_jax.data.batching import Prepared
from thrifty_jax.networks import build, inference, layers
from thrifty_jax.networks.model_spec import ModelSpec
from thrifty_jax.run_files import PatientScore, Retrained
from thrifty_jax.scores import cases
from thrifty_jax.training import autosave, hosts, model_card, resources, start_model, teacher
from thrifty_jax.training.compiling import Program
from thrifty_jax.training.train_data import Epochs, Facts, Figures, TrainData
from thrifty_jax.training.train_step import Best, TrainState, optimizer

# Maps parameters to the function that predicts the slices of a case.
WithParams = Callable[[build.Params], inference.Predict]

# Of the time of a slice in training, what its prediction takes with its way to the native grid: a
# third by the rule that a gradient costs twice a prediction, measured a half for small networks.
SHARE_OF_PREDICTION = 0.5
PACE = 20  # epochs that tell how long one takes
LEAST_EPOCHS = 10  # of a training for a time, about, so that it ends in time
PACED_STEPS = 3  # that tell, before the first epoch, how long a step takes
SELECTION = {
  'volume': 'mean {0.dsc} of the validation patients on the native grid',
  'pooled_2d': 'pooled 2D DSC of the validation {0.part}s',
}


@dataclasses.dataclass
class Progress(autosave.Progress):
  """Progress of a training: that of every loop, and the best epoch so far."""

  NOTED: ClassVar = ('epoch', 'parts')

  state: TrainState
  best: Best
  figures: Figures = dataclasses.field(default_factory=lambda: Figures('retrain', 0))
  parts: int = 1  # epochs that take the place of one, see `pace`

  def is_finished(self, settings: ConfigDict) -> bool:
    """Returns whether all epochs are done, or the best one was `patience` epochs ago."""
    if self.epoch >= self.epochs:
      return True
    if self.epoch % self.validate_every(settings):  # this epoch may be the best: not yet known
      return False
    return 0 < settings.patience * self.parts <= self.epoch - self.best.epoch

  def is_validated(self, settings: ConfigDict) -> bool:
    """Returns whether the present epoch ends with a validation; the last one always does."""
    due = not (self.epoch + 1) % self.validate_every(settings)
    return due or self.epoch + 1 == self.epochs

  def validate_every(self, settings: ConfigDict) -> int:
    """Returns the number of epochs from one validation to the next."""
    return settings.validate_every * self.parts

  def replan(self, minutes: float, seconds: Sequence[float], *, validation: float) -> None:
    """Plans the epochs that fit into what is left of the minutes, at least one more.

    Args:
      minutes: Time of the whole training.
      seconds: Those of each epoch so far.
      validation: Seconds of the last validation, 0 if those of the epochs tell what one takes.
    """
    pace = float(np.mean(seconds[-PACE:]))
    more = round((60 * minutes - sum(seconds) - validation) / pace)
    self.planned = (hosts.share_first(self.epoch + max(1, more)),)

  def shown(self) -> dict[str, str]:
    """Returns the figures of the present epoch for the progress bar; {} before the second step."""
    if not self.figures.steps:
      return {}
    dsc, loss = self.figures.mean('dice'), self.figures.mean('loss')
    best = {'best': f'{100 * self.best.dsc:.1f} %'} if self.best.epoch else {}  # one is validated
    return {**best, 'dsc': f'{100 * dsc:.1f} %', 'loss': f'{loss:.3f}'}

  def arrays(self) -> dict[str, Any]:
    """Returns the arrays of the progress, a pytree."""
    return {'state': self.state._asdict(), 'best': self.best._asdict()}

  def set_arrays(self, arrays: Any) -> None:
    """Sets the state and the best epoch."""
    self.state, self.best = TrainState(**arrays['state']), Best(**arrays['best'])


def pace(
  config: ConfigDict, epochs: Epochs, progress: Progress, program: Program, facts: Facts
) -> Epochs:
  """Returns the epochs of a training for a time, a part of those given where these take long.

  Before the first step a few on a copy of the state tell how long they take. A signal to stop waits
  for them.
  """
  if not progress.step:
    with logbook.waiting('pace', 'some steps tell how long an epoch takes', done='paced'):
      seconds = _time_step(epochs, progress.state, program, facts)
    parts = count_parts(epochs.steps, seconds, config.retrain.minutes)
    progress.parts = hosts.share_first(parts)
  steps = -(-epochs.steps // progress.parts)
  if progress.parts > 1:
    logbook.say('epochs', f'{steps} steps each: {progress.parts} of them take the place of one')
  return dataclasses.replace(epochs, steps=steps)


def count_parts(steps: int, seconds: float, minutes: float) -> int:
  """Returns into how many one epoch is cut, so that some LEAST_EPOCHS fit into the time.

  Args:
    steps: Number in an epoch, which is mostly one pass over the slices.
    seconds: Time of a step.
    minutes: Time of the training.
  """
  parts = min(steps, max(1, math.ceil(steps * seconds * LEAST_EPOCHS / (60 * minutes))))
  return -(-steps // -(-steps // parts))  # an epoch has whole steps, so that fewer make up a pass


def _time_step(epochs: Epochs, state: TrainState, program: Program, facts: Facts) -> float:
  """Returns the seconds of a step, the least of PACED_STEPS."""
  copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))  # a step may reuse its state's memory
  seconds = []
  with stopping.defer():  # several processes finish a step together
    state, batch = copy(state), next(epochs.batches(0))
    for _ in range(PACED_STEPS):
      began = time.monotonic()
      state, _ = jax.block_until_ready(program(state, facts, batch))
      seconds.append(time.monotonic() - began)
  return min(seconds)


def make_predict(
  config: ConfigDict, train_data: TrainData, net: nn.Module, spec: ModelSpec, progress: Progress
) -> WithParams:
  """Returns the function from parameters to one that predicts the slices of a case.

  The time of its compilation is left out of the progress.
  """
  whole = mesh.whole(train_data.mesh)  # so that every process has the whole output
  background = np.asarray(spec.background, np.float32)

  @functools.partial(jax.jit, out_shardings=whole)
  def compiled(params: build.Params, image: jax.Array) -> jax.Array:
    return build.take_last(build.apply(net, params, image, background=background))

  begun = False

  def logits(params: build.Params, image: Any) -> Any:
    nonlocal begun
    if begun:
      return compiled(params, image)
    begun = True
    waiting = logbook.waiting('compiling', 'the prediction, to validate with it', done='compiled')
    with progress.leaving_out(), waiting:
      return jax.block_until_ready(compiled(params, image))

  def with_params(params: build.Params) -> inference.Predict:
    of_image, batch_size = functools.partial(logits, params), config.evaluate.batch_size
    return inference.predict_with(of_image, spec, batch_size=batch_size, mesh=train_data.mesh)

  return with_params


def validate(config: ConfigDict, train_data: TrainData, predict: inference.Predict) -> float:
  """Returns the DSC of the validation patients, in [0, 1], equal in every process."""
  patients, protocol = train_data.patients['validation'], config.evaluate.protocol
  dsc = cases.validation_dsc(train_data.validation, patients, predict, protocol=protocol)
  dsc = float(np.nan_to_num(dsc))  # comparisons with NaN would choose no checkpoint at all
  return hosts.share_first(dsc)  # it determines the best epoch and when to stop


def end_epoch(
  config: ConfigDict,
  progress: Progress,
  train_data: TrainData,
  log: logbook.Logbook,
  facts: Facts,
  *,
  dsc: float | None,
) -> None:
  """Keeps the weights if they are the best, writes the figures of the epoch, and counts it.

  If time decides, the epochs that are left are planned anew.

  `dsc` is that of the validation patients, in [0, 1]; None in an epoch without validation.
  """
  progress.figures.flush()
  epoch, figures = progress.epoch + 1, progress.figures
  # On the host: small operations on arrays of all devices may wait for one another for ever.
  _, rate = optimizer(config.retrain, mesh.fetch(facts))
  if dsc is not None and dsc > progress.best.dsc:
    progress.best = Best(jax.device_get(progress.state.average), epoch, dsc)
  log.append(
    {
      'epoch': epoch,
      'step': progress.step,
      'loss': figures.mean('loss'),
      'dsc': figures.mean('dice'),
      'gradient': figures.mean('gradient'),
      'learning_rate': np.asarray(rate(progress.step - 1)).item(),
      **({} if dsc is None else {'validation_dsc': dsc}),
      'seconds': time.monotonic() - progress.began,
    }
  )
  progress.end_epoch()
  if progress.timed and not progress.is_finished(config.retrain):
    seconds = [line['seconds'] for line in log.entries()]
    unseen = 0.0  # of the last validation, while there was none
    if not progress.best.epoch:
      slices = _count_slices(train_data)['validation']
      unseen = slices * _foretell_slice(config, progress, seconds[-1])
    progress.replan(config.retrain.minutes, seconds, validation=unseen)


def foretell(
  config: ConfigDict, progress: Progress, train_data: TrainData, *, seconds: float
) -> None:
  """Prints when the training and its scores will be done, by the seconds of the last epoch.

  They are those of its steps, without a validation.
  """
  if progress.is_finished(config.retrain):
    return
  counts, per_slice = _count_slices(train_data), _foretell_slice(config, progress, seconds)
  left = progress.epochs - progress.epoch
  validations = -(-left // progress.validate_every(config.retrain))
  if progress.timed and not progress.best.epoch:
    validations = 1  # with more of them fewer epochs will fit into the time
  scored = sum(counts.values()) if config.evaluate.list_suspects else counts.get('test', 0)
  progress.foretell(
    'the training',
    left * seconds + validations * counts['validation'] * per_slice,
    then=f'its scores take about {logbook.format_duration(scored * per_slice)} more',
  )


def _count_slices(train_data: TrainData) -> dict[str, int]:
  """Returns the number of slices of each split."""
  return {
    name: sum(case.slices for case in train_data.prepared.cases_of(names))
    for name, names in train_data.patients.items()
  }


def _foretell_slice(config: ConfigDict, progress: Progress, seconds: float) -> float:
  """Returns the seconds that the prediction of a slice will take, by those of an epoch's steps."""
  slices = progress.step // progress.epoch * config.retrain.batch_size
  return SHARE_OF_PREDICTION * seconds / slices


def save(
  config: ConfigDict,
  workdir: Path,
  train_data: TrainData,
  net: nn.Module,
  spec: ModelSpec,  # as far as it was known before the training
  progress: Progress,
  log: logbook.Logbook,
  predict: WithParams,
  *,
  genotype_file: Path | None,
) -> Retrained:
  """Writes <workdir>/model, retrain/resources.json and, last, retrain/summary.json, its result."""
  best, slice_shape = progress.best, train_data.image_shape(1).shape[1:]
  judges = train_data.patients['validation']
  prepared, seconds = train_data.prepared, sum(line['seconds'] for line in log.entries())
  # Placed as in validation, so that prediction uses the same program.
  trained = predict(mesh.place(best.params, mesh.whole(train_data.mesh)))
  scores, largest_component = cases.judge(
    train_data.validation, judges, trained, classes=config.data.classes
  )
  spec = dataclasses.replace(
    spec,
    padding=tuple(prepared.padding) if prepared.padding else None,
    largest_component=largest_component,
    training_scans=_measure_scans(prepared, train_data.patients['train']),
    splits_sha256=split_file.digest(train_data.patients),
  )
  named = words.choose(config.data.unit, config.data.reduction)
  summary = Retrained(
    model=config.model.name,
    parameters=build.count(best.params),
    macs=layers.macs(net, slice_shape),
    image=slice_shape,
    genotype=config.genotype or 'search/genotype.json' if genotype_file else None,
    epochs=progress.epoch,
    planned_epochs=progress.planned,
    precision=device.precision(config.precision),
    steps=progress.step,
    best_epoch=int(best.epoch),
    validation_dsc=float(best.dsc),
    largest_component=tuple(spec.largest_component),
    selection=SELECTION[config.evaluate.protocol].format(named),
    seconds=seconds,
    patients=tuple(PatientScore(*score) for score in scores.items()),
    started=start_model.read(workdir / 'retrain') if config.retrain.start_from else None,
    taught=teacher.read(workdir / 'retrain') if config.retrain.teacher else None,
  )
  title, citation = data_file.read_title(workdir, config.data.name), prepared.citation
  card = model_card.write(
    config, spec, summary, title=title, citation=citation, genotype_file=genotype_file
  )
  model_folder.save(
    workdir / 'model', best.params, spec=spec, genotype_file=genotype_file, card=card
  )
  resources.write(workdir / 'retrain', seconds=seconds)
  records.write(workdir / 'retrain' / 'summary.json', summary)
  logbook.say('best', f'epoch {best.epoch}, validation DSC {100 * best.dsc:.2f} %')
  logbook.say('model', str(workdir / 'model'))
  return summary


def _measure_scans(prepared: Prepared, patients: Sequence[str]) -> likeness.Ranges:
  """Returns the ranges that the scans of patients span, see likeness."""
  measured = [
    likeness.measure(prepared.read(case)['image'], case.native_shape, case.spacing_mm)
    for case in prepared.cases_of(patients)
  ]
  return likeness.merge(measured)
