"""Trains a network from scratch: the searched one, that of a genotype file, or a baseline."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from data_prep import data_sets
from thrifty_jax import RESEARCH_USE, device, files, logbook, model_folder, stages
from thrifty_jax.data import likeness, mesh, split_file
from thrifty_jax.data.batching import Batch, Examples, steps_per_epoch
from thrifty_jax.networks import build, genotype, inference
from thrifty_jax.networks.losses import Sums, loss_of, loss_sums, segmentation_loss
from thrifty_jax.networks.model_spec import ModelSpec, background, make_spec
from thrifty_jax.reporting import describe
from thrifty_jax.running import hosts
from thrifty_jax.scores import cases
from thrifty_jax.training import (
  cache,
  compiling,
  debug,
  memory,
  microbatches,
  not_finite,
  packing,
  resources,
)
from thrifty_jax.training.autosave import Autosave, planned_epochs
from thrifty_jax.training.train_data import (
  Facts,
  Figures,
  TrainData,
  fault_recorded,
  open_train_data,
)

SELECTION = {
  'volume': 'mean volume DSC of the validation patients on the native grid',
  'pooled_2d': 'pooled 2D DSC of the validation slices',
}


class TrainState(NamedTuple):
  """Everything that a step changes."""

  step: jax.Array
  params: build.Params
  average: build.Params  # of params over steps: what is scored and kept
  optimizer: optax.OptState


class Best(NamedTuple):
  """The best epoch so far on the validation patients."""

  params: build.Params
  epoch: int
  dsc: float


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def init_state(
  net: nn.Module,
  transformation: optax.GradientTransformation,
  image: jax.ShapeDtypeStruct,
  *,
  seed: int,
  find_shapes: Callable[..., build.Shapes] = build.trace_shapes,
) -> tuple[TrainState, Best]:
  """The state before the first step, and its weights as the best so far.

  Args:
    net: The network.
    transformation: Its optimiser.
    image: Shape of a batch.
    seed: Number that the weights follow from.
    find_shapes: Function from the network and its inputs to the shapes of its weights.
  """
  drawn = build.initialise(find_shapes(net, image), seed=seed)
  params = packing.for_steps(drawn, 'retrain')
  average = jax.tree.map(jnp.copy, params)  # of its own: a step donates both
  state = TrainState(jnp.zeros((), jnp.int32), params, average, transformation.init(params))
  return state, Best(jax.tree.map(np.asarray, drawn), 0, -1.0)


def optimizer(
  settings: ConfigDict, facts: Facts
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimiser and its learning rate: a linear warm-up, then a cosine to 0.

  AdamW decays kernels only; SGD, as the authors have it, adds L2 decay of all to the gradient.
  """
  over_epochs = optax.warmup_cosine_decay_schedule(
    init_value=0.0 if settings.warmup_epochs else 1.0,
    peak_value=1.0,
    warmup_steps=settings.warmup_epochs,
    decay_steps=settings.epochs,
  )

  def rate(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    return facts.learning_rate * over_epochs(step / facts.epoch_steps)

  clip = optax.clip_by_global_norm(settings.clip_norm)
  if settings.optimizer == 'sgd':
    decay = optax.add_decayed_weights(settings.weight_decay)
    return optax.chain(clip, decay, optax.sgd(rate, momentum=settings.momentum)), rate
  adamw = optax.adamw(rate, weight_decay=settings.weight_decay, mask=packing.is_kernel)
  return optax.chain(clip, adamw), rate


def step_key(seed: jax.Array | int, state: TrainState) -> jax.Array:
  """Of the random numbers of a step."""
  return jax.random.fold_in(jax.random.key(seed), state.step)


def make_train_step(
  net: nn.Module,
  transformation: optax.GradientTransformation,
  *,
  augment: Callable[[jax.Array, Batch], Batch],
  average_decay: float,
  seed: jax.Array | int,
  background: Any,
  parts: int = 1,
) -> Step:
  """The training step, a pure function (state, batch) -> (state, metrics).

  Args:
    net: The network.
    transformation: Its optimiser.
    augment: (key, batch) -> batch.
    average_decay: Of the running average of the weights; 0 keeps the weights themselves.
    seed: The random numbers of a step follow from it and from the step.
    background: Normalised value that sides are filled up with, [C].
    parts: In which a batch is computed, see microbatches.py.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    batch = augment(step_key(seed, state), batch)

    def loss(params: build.Params) -> tuple[jax.Array, jax.Array]:
      def sums(part: Batch) -> Sums:
        logits = build.apply(net, packing.unpacked(params), part['image'], background=background)
        return loss_sums(logits, part['label'])

      return loss_of(microbatches.total(sums, batch, parts=parts))

    (value, dice), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, transformed = transformation.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # The first steps weigh more: an average that began with the random weights would lag.
    decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
    decay = decay if average_decay else 0.0
    average = optax.incremental_update(params, state.average, 1 - decay)
    state = TrainState(state.step + 1, params, average, transformed)
    metrics = {'loss': value, 'dice': dice.mean(), 'gradient': optax.tree.norm(gradient)}
    return state, metrics

  return train_step


def retrain(config: ConfigDict, workdir: Path | str) -> dict[str, Any]:
  """Trains the network and writes <workdir>/model and <workdir>/retrain/summary.json.

  Goes on from the last checkpoint if there is one.

  Args:
    config: Of the run.
    workdir: Its folder, with search/genotype.json unless the config names another or a baseline.

  Returns:
    The summary: model, parameters, best epoch, its validation DSC, and how it was chosen.

  Raises:
    InputError: Unprepared data, a missing genotype, or a number that is not finite.
    Stopped: If asked to stop; the state is saved.
  """
  resources.forget_peak()
  workdir = Path(workdir)
  mesh.require_even(config, 'retrain')
  genotype_file = _genotype_file(config, workdir)
  hosts.call('retrain', config, genotype_file=genotype_file)
  train_data = open_train_data(config)
  hosts.meet(train_data.in_words())
  found = genotype.load(genotype_file) if genotype_file else None
  if genotype_file:  # beside the checkpoints: another one must not go on from them
    files.write_bytes(workdir / 'retrain' / 'genotype.json', genotype_file.read_bytes())
  spec = make_spec(config, train_data.statistics)
  net = build.build(spec, found)
  predict = make_predict(config, train_data, net, spec)
  progress, seconds = _fit(config, train_data, net, spec, predict, workdir / 'retrain')
  best = progress.best

  slice_shape = train_data.image_shape(1).shape[1:]
  judges = train_data.patients['validation']
  padding = getattr(data_sets.module(config), 'PADDING', None)
  # Placed as validation has them: the program that predicts is the same.
  params = packing.for_steps(best.params, 'retrain')
  trained = predict(mesh.place(params, mesh.whole(train_data.mesh)))
  spec = dataclasses.replace(
    spec,
    padding=tuple(padding) if padding else None,
    largest_component=cases.classes_of_one_piece(
      train_data.validation, judges, trained, classes=config.data.classes
    ),
    training_scans=likeness.of_training(train_data.prepared, train_data.patients['train']),
    splits_sha256=split_file.digest(train_data.patients),
  )
  summary = {
    'model': config.model.name,
    'parameters': build.count(best.params),
    'macs': describe.macs(net, slice_shape),
    'image': list(slice_shape),
    'genotype': config.genotype or 'search/genotype.json' if found else None,
    'epochs': progress.epoch,
    'planned_epochs': list(progress.planned),
    'precision': device.precision(config.precision),
    'steps': int(progress.state.step),
    'best_epoch': int(best.epoch),
    'validation_dsc': float(best.dsc),
    'largest_component': list(spec.largest_component),
    'selection': SELECTION[config.evaluate.protocol],
    'seconds': seconds,
  }
  model_folder.save(
    workdir / 'model',
    best.params,
    spec=spec,
    genotype_file=genotype_file,
    card=_card(config, spec, summary, citation=train_data.prepared.citation),
  )
  resources.write(workdir / 'retrain', seconds=seconds)
  files.write_json(workdir / 'retrain' / 'summary.json', summary)
  logbook.say('best', f'epoch {best.epoch}, validation DSC {100 * best.dsc:.2f} %')
  logbook.say('model', str(workdir / 'model'))
  return summary


@dataclasses.dataclass
class Progress:
  """Where a training stands: all that another process needs to go on with the same bits.

  Attributes:
    state: After the last step.
    best: The best epoch so far.
    epoch: Epochs that are done.
    figures: Of the present epoch.
    began: When it began, by time.monotonic; earlier by what it took before it was stopped.
    planned: Epochs it was to take, from call to call: more of them stretch the schedules.
  """

  state: TrainState
  best: Best
  epoch: int = 0
  figures: Figures = dataclasses.field(default_factory=lambda: Figures('retrain', 0))
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  def arrays(self) -> dict[str, Any]:
    """The part that is arrays, a pytree."""
    return {'state': self.state._asdict(), 'best': self.best._asdict()}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and notes for a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'figures': self.figures.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    self.state, self.best = TrainState(**arrays['state']), Best(**arrays['best'])
    self.epoch = notes['epoch']
    self.figures = Figures('retrain', self.epoch, notes['figures'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and clears its figures."""
    self.epoch += 1
    self.figures = Figures('retrain', self.epoch)
    self.began = time.monotonic()


def _fit(
  config: ConfigDict,
  train_data: TrainData,
  net: nn.Module,
  spec: ModelSpec,
  predict: Callable[[build.Params], inference.Predict],
  folder: Path,
) -> tuple[Progress, float]:
  """The training loop: where it ended, and the seconds it took."""
  settings = config.retrain
  examples = train_data.examples(train_data.patients['train'])
  steps = steps_per_epoch(len(examples), settings.batch_size)
  facts = train_data.facts(config.seed, epoch_steps=steps)
  transformation, rate = optimizer(settings, facts)
  image = train_data.image_shape(settings.batch_size)
  find_shapes = functools.partial(cache.shapes, config)
  state, best = init_state(net, transformation, image, seed=config.seed, find_shapes=find_shapes)
  state, facts = mesh.place((state, facts), mesh.whole(train_data.mesh))
  progress = Progress(state, best, planned=(settings.epochs,))
  logbook.say(
    'network', f'{build.count(progress.best.params):,} parameters; {steps} steps an epoch'
  )
  # Before the loop, where a signal to stop need not wait for it.
  logbook.say_compiling()
  began = time.monotonic()
  compiled = compile_step(config, train_data, net, state, facts, examples=examples)
  logbook.say('compiled', f'in {logbook.duration(time.monotonic() - began)}')
  hosts.meet('compiled')  # on a CPU no device waits for another longer than 30 s
  if config.debug:
    compiled = debug.watched(compiled, 'retrain', _source(train_data, net, spec))

  autosave = Autosave(folder / 'checkpoints', 'retrain', seconds=config.save_seconds)
  log = logbook.Logbook(folder, tensorboard=config.tensorboard)
  autosave.resume(progress, log)

  def slices(step: int) -> list[str]:
    epoch, index = divmod(step - 1, steps)
    return train_data.slices_of(examples, batch_size=settings.batch_size, epoch=epoch, index=index)

  with (
    autosave,
    contextlib.closing(log),
    logbook.progress(settings.epochs * steps, 'retrain') as bar,
    fault_recorded(folder, slices),
  ):
    bar.update(int(progress.state.step))
    while not _is_finished(settings, progress):
      done = int(progress.state.step)
      batches = train_data.batches(
        examples,
        batch_size=settings.batch_size,
        epoch=progress.epoch,
        first=done - progress.epoch * steps,
      )
      for step, batch in enumerate(batches, start=done + 1):
        progress.state, metrics = compiled(progress.state, facts, batch)
        progress.figures.add(step, metrics)
        _show(progress, bar)
        autosave.offer(progress.keep)
      with autosave.interruptible(progress.keep):
        dsc = _validate(config, train_data, predict, progress)
      _end_epoch(progress, log, rate=rate, dsc=dsc)
      autosave.offer(progress.keep, epoch_ended=True, finished=_is_finished(settings, progress))
  return progress, sum(entry['seconds'] for entry in log.entries())


def compile_step(
  config: ConfigDict,
  train_data: TrainData,
  net: nn.Module,
  state: TrainState,
  facts: Facts,
  *,
  examples: Examples,
) -> jax.stages.Compiled:
  """The training step, compiled: (state, facts, batch) -> (state, metrics).

  Args:
    config: Of the run.
    train_data: Its slices.
    net: The network.
    state: It begins with.
    facts: It is told; nothing else of a run is in the program.
    examples: What it trains on, which takes memory too.
  """
  settings = config.retrain

  def train_step(
    state: TrainState, facts: Facts, batch: Batch
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    step = make_train_step(
      net.copy(remat=settings.remat),
      optimizer(settings, facts)[0],
      augment=functools.partial(train_data.augment, statistics=facts.statistics),
      average_decay=settings.ema_decay,
      seed=facts.seed,
      background=background(facts.statistics, context=config.data.context),
      parts=settings.microbatches,
    )
    return step(state, batch)

  step = jax.jit(
    mesh.replicated(train_step, train_data.mesh), donate_argnums=() if config.debug else 0
  )
  return compiling.compile_step(
    step.lower(state, facts, train_data.batch_shape(settings.batch_size)),
    check=lambda step: memory.require_fit(step, config, 'retrain', examples=[examples]),
  )


def _source(train_data: TrainData, net: nn.Module, spec: ModelSpec) -> Callable[..., str | None]:
  """(metrics, state, facts, batch) -> where a step meets what is no finite number."""
  network = functools.partial(build.apply, net, background=spec.background)

  def source(_: Any, state: TrainState, facts: Facts, batch: Batch) -> str | None:
    batch = jax.jit(train_data.augment)(step_key(facts.seed, state), batch)
    params = packing.unpacked(state.params)
    return not_finite.first_source(network, params, batch, loss=segmentation_loss)

  return source


def _show(progress: Progress, bar: Any) -> None:
  """A step further on the bar."""
  figures, best = progress.figures, progress.best
  if figures.steps:
    values = {'best': max(best.dsc, 0), 'dsc': figures.mean('dice'), 'loss': figures.mean('loss')}
    # Shown by update(), some times a second.
    bar.set_postfix({name: f'{value:.3f}' for name, value in values.items()}, refresh=False)
  bar.update(1)


def _validate(
  config: ConfigDict,
  train_data: TrainData,
  predict: Callable[[build.Params], inference.Predict],
  progress: Progress,
) -> float | None:
  """DSC of the validation patients by the averaged weights, None in an epoch without one."""
  epoch, settings = progress.epoch + 1, config.retrain
  if epoch % settings.validate_every and epoch != settings.epochs:
    return None
  dsc = cases.validation_dsc(
    train_data.validation,
    train_data.patients['validation'],
    predict(progress.state.average),
    protocol=config.evaluate.protocol,
  )
  return hosts.of_first(dsc)  # it decides which epoch is the best, and when to stop


def _end_epoch(
  progress: Progress, log: logbook.Logbook, *, rate: optax.Schedule, dsc: float | None
) -> None:
  """Keeps the weights if they are the best, writes the figures of the epoch and counts it."""
  progress.figures.flush()
  epoch, state, figures = progress.epoch + 1, progress.state, progress.figures
  if dsc is not None and dsc > progress.best.dsc:
    progress.best = Best(packing.unpacked(jax.device_get(state.average)), epoch, dsc)
  log.append(
    {
      'epoch': epoch,
      'step': int(state.step),
      'loss': figures.mean('loss'),
      'dsc': figures.mean('dice'),
      'gradient': figures.mean('gradient'),
      'learning_rate': np.asarray(rate(state.step - 1)).item(),
      **({} if dsc is None else {'validation_dsc': dsc}),
      'seconds': time.monotonic() - progress.began,
    }
  )
  progress.end_epoch()


def make_predict(
  config: ConfigDict, train_data: TrainData, net: nn.Module, spec: ModelSpec
) -> Callable[[build.Params], inference.Predict]:
  """The function from parameters to one that predicts the slices of a case."""
  whole = mesh.whole(train_data.mesh)  # so every process has all of it
  background = np.asarray(spec.background, np.float32)

  @functools.partial(jax.jit, out_shardings=whole)
  def logits(params: build.Params, image: jax.Array) -> jax.Array:
    params = packing.unpacked(params)
    return build.last_logits(build.apply(net, params, image, background=background))

  def with_params(params: build.Params) -> inference.Predict:
    return inference.predict_with(
      lambda image: logits(params, image),
      spec,
      batch_size=config.evaluate.batch_size,
      mesh=train_data.mesh,
    )

  return with_params


def _is_finished(settings: ConfigDict, progress: Progress) -> bool:
  epoch = progress.epoch
  if epoch >= settings.epochs:
    return True
  if epoch % settings.validate_every:  # the best epoch may be this one: not yet known
    return False
  return 0 < settings.patience <= epoch - progress.best.epoch


def _genotype_file(config: ConfigDict, workdir: Path) -> Path | None:
  """The genotype to train; a baseline has none."""
  if config.model.name != 'thrifty':
    return None
  return stages.genotype_file(config, workdir)


def _card(config: ConfigDict, spec: ModelSpec, summary: dict[str, Any], *, citation: str) -> str:
  """The model card."""
  data = config.data
  source = citation or 'as its owner asks'
  return f"""\
# {summary['model']} for {', '.join(data.classes[1:])}

{RESEARCH_USE}

- Data: {data.name}, fold {data.fold} of {data.folds}, {data.slice_axis} slices of \
{data.image_size} x {data.image_size} pixels
- Parameters: {summary['parameters']:,}
- Chosen: epoch {summary['best_epoch']} of {summary['epochs']}, by the {summary['selection']}: \
{100 * summary['validation_dsc']:.2f} %
- Patients: SHA-256 {spec.splits_sha256} of who trained, validated and tests
- Scores of patients that it never saw: `scores.json`, once they were scored

Use it: `python -m thrifty_jax.predict --model=THIS_FOLDER --input=SCANS --output=MASKS`.

`preprocessing.json` says what the network expects: sizes, intensity limits, mean and deviation,
the classes in the order of its outputs, and between which limits the training scans lay. Scans
outside of them it has never seen. `checksums.json` has the SHA-256 of the other files; a folder in
which one differs is refused.

Licence: the program is under the Apache License 2.0. The weights were learned from the data, whose
terms decide what may be done with them: read those before you pass this folder on.

Cite the method: Chen, Zhang, Zheng and Pan, Thrifty Neural Architecture Search for Medical Image
Segmentation (Student Abstract), AAAI 2022. Cite the data: {source}.
"""
