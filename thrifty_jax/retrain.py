"""Trains a network from scratch: the searched one, that of a genotype file, or a baseline."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from data_prep import data_sets
from thrifty_jax import (
  RESEARCH_USE,
  describe,
  evaluate,
  files,
  genotype,
  likeness,
  logbook,
  model,
  resources,
  stages,
)
from thrifty_jax.checkpoint import Checkpoints
from thrifty_jax.data import Batch, steps_per_epoch
from thrifty_jax.losses import segmentation_loss
from thrifty_jax.train_data import SAVE_SECONDS, Figures, TrainData, open_train_data

SELECTION = {
  'volume': 'mean volume DSC of the validation patients on the native grid',
  'pooled_2d': 'pooled 2D DSC of the validation slices',
}


class TrainState(NamedTuple):
  """Everything that a step changes."""

  step: jax.Array
  params: model.Params
  average: model.Params  # of params over steps: what is scored and kept
  optimizer: optax.OptState


class Best(NamedTuple):
  """The best epoch so far on the validation patients."""

  params: model.Params
  epoch: int
  dsc: float


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def init_state(
  net: nn.Module,
  transformation: optax.GradientTransformation,
  image: jax.ShapeDtypeStruct,
  *,
  seed: int,
) -> tuple[TrainState, Best]:
  """The state before the first step, and its weights as the best so far."""
  params = model.initialise(net, image, seed=seed)
  average = jax.tree.map(jnp.copy, params)  # of its own: a step donates both
  state = TrainState(jnp.zeros((), jnp.int32), params, average, transformation.init(params))
  return state, Best(jax.tree.map(np.asarray, params), 0, -1.0)


def optimizer(
  settings: ConfigDict, *, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimiser and its learning rate: a linear warm-up, then a cosine to 0.

  AdamW decays kernels only; SGD, as the authors have it, adds L2 decay of all to the gradient.
  """
  rate = optax.warmup_cosine_decay_schedule(
    init_value=0.0 if settings.warmup_epochs else settings.learning_rate,
    peak_value=settings.learning_rate,
    warmup_steps=settings.warmup_epochs * steps_per_epoch,
    decay_steps=settings.epochs * steps_per_epoch,
  )
  clip = optax.clip_by_global_norm(settings.clip_norm)
  if settings.optimizer == 'sgd':
    decay = optax.add_decayed_weights(settings.weight_decay)
    return optax.chain(clip, decay, optax.sgd(rate, momentum=settings.momentum)), rate

  def kernels(params: model.Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

  adamw = optax.adamw(rate, weight_decay=settings.weight_decay, mask=kernels)
  return optax.chain(clip, adamw), rate


def make_train_step(
  net: nn.Module,
  transformation: optax.GradientTransformation,
  *,
  augment: Callable[[jax.Array, Batch], Batch],
  average_decay: float,
  seed: int,
) -> Step:
  """The training step, a pure function (state, batch) -> (state, metrics).

  Args:
    net: The network.
    transformation: Its optimiser.
    augment: (key, batch) -> batch.
    average_decay: Of the running average of the weights; 0 keeps the weights themselves.
    seed: The random numbers of a step follow from it and from the step.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    batch = augment(jax.random.fold_in(jax.random.key(seed), state.step), batch)

    def loss(params: model.Params) -> tuple[jax.Array, jax.Array]:
      return segmentation_loss(model.apply(net, params, batch['image']), batch['label'])

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
  """
  resources.forget_peak()
  workdir = Path(workdir)
  train_data = open_train_data(config)
  genotype_file = _genotype_file(config, workdir)
  found = genotype.load(genotype_file) if genotype_file else None
  if genotype_file:  # beside the checkpoints: another one must not go on from them
    files.write_bytes(workdir / 'retrain' / 'genotype.json', genotype_file.read_bytes())
  spec = model.describe(config, train_data.statistics)
  net = model.build(spec, found)
  predict = make_predict(config, train_data, net)
  best, epochs, steps, seconds = _fit(config, train_data, net, predict, workdir / 'retrain')

  slice_shape = train_data.image_shape(1).shape[1:]
  judges = train_data.patients['validation']
  spec['training_scans'] = likeness.of_training(train_data.prepared, train_data.patients['train'])
  padding = getattr(data_sets.module(config), 'PADDING', None)
  spec['padding'] = list(padding) if padding else None
  spec['largest_component'] = evaluate.classes_of_one_piece(
    train_data.prepared, judges, predict(best.params), classes=config.data.classes
  )
  summary = {
    'model': config.model.name,
    'parameters': model.count(best.params),
    'macs': describe.macs(net, slice_shape),
    'image': list(slice_shape),
    'genotype': config.genotype or 'search/genotype.json' if found else None,
    'epochs': epochs,
    'steps': steps,
    'best_epoch': int(best.epoch),
    'validation_dsc': float(best.dsc),
    'largest_component': spec['largest_component'],
    'selection': SELECTION[config.evaluate.protocol],
    'seconds': seconds,
  }
  model.save(
    workdir / 'model',
    best.params,
    preprocessing=spec,
    genotype_file=genotype_file,
    card=_card(config, summary, citation=train_data.prepared.citation),
  )
  resources.write(workdir / 'retrain', seconds=seconds)
  files.write_json(workdir / 'retrain' / 'summary.json', summary)
  logbook.say('best', f'epoch {best.epoch}, validation DSC {100 * best.dsc:.2f} %')
  logbook.say('model', str(workdir / 'model'))
  return summary


def _fit(
  config: ConfigDict,
  train_data: TrainData,
  net: nn.Module,
  predict: Callable[[model.Params], evaluate.Predict],
  folder: Path,
) -> tuple[Best, int, int, float]:
  """The training loop: the best weights, the epochs and steps it took, and the seconds."""
  settings = config.retrain
  examples = train_data.examples(train_data.patients['train'])
  steps = steps_per_epoch(len(examples), settings.batch_size)
  transformation, rate = optimizer(settings, steps_per_epoch=steps)
  image = train_data.image_shape(settings.batch_size)
  state, best = init_state(net, transformation, image, seed=config.seed)
  logbook.say('network', f'{model.count(best.params):,} parameters; {steps} steps an epoch')
  train_step = jax.jit(
    make_train_step(
      net,
      transformation,
      augment=train_data.augment,
      average_decay=settings.ema_decay,
      seed=config.seed,
    ),
    donate_argnums=0,
  )

  checkpoints = Checkpoints(folder / 'checkpoints')
  log = logbook.Logbook(folder, tensorboard=config.tensorboard)
  epoch = 0
  if checkpoints.latest() is not None:
    kept = checkpoints.restore({'state': state._asdict(), 'best': best._asdict()})
    state, best = TrainState(**kept['state']), Best(**kept['best'])
    epoch = int(state.step) // steps
    logbook.say('resumed', f'after epoch {epoch}')
  log.truncate(int(state.step))
  saved = time.monotonic()

  with (
    contextlib.closing(checkpoints),  # what is being saved is saved, whatever stops the run
    contextlib.closing(log),
    logbook.progress(settings.epochs * steps, 'retrain') as bar,
  ):
    bar.update(epoch * steps)
    while epoch < settings.epochs and not _out_of_patience(settings, epoch, best):
      began = time.monotonic()
      figures = Figures('retrain', epoch)
      batches = train_data.batches(examples, batch_size=settings.batch_size, epoch=epoch)
      for step, batch in enumerate(batches, start=epoch * steps + 1):
        state, metrics = train_step(state, batch)
        figures.add(step, metrics)
        if figures.steps:
          loss, dsc = figures.mean('loss'), figures.mean('dice')
          bar.set_postfix(loss=f'{loss:.3f}', dsc=f'{dsc:.3f}', best=f'{max(best.dsc, 0):.3f}')
        bar.update(1)
      figures.flush()

      epoch += 1
      entry = {
        'epoch': epoch,
        'step': int(state.step),
        'loss': figures.mean('loss'),
        'dsc': figures.mean('dice'),
        'gradient': figures.mean('gradient'),
        'learning_rate': np.asarray(rate(state.step - 1)).item(),
      }
      if epoch % settings.validate_every == 0 or epoch == settings.epochs:
        dsc = evaluate.validation_dsc(
          train_data.prepared,
          train_data.patients['validation'],
          predict(state.average),
          protocol=config.evaluate.protocol,
        )
        entry['validation_dsc'] = dsc
        if dsc > best.dsc:
          best = Best(jax.device_get(state.average), epoch, dsc)
      log.append({**entry, 'seconds': time.monotonic() - began})
      if epoch == settings.epochs or time.monotonic() - saved > SAVE_SECONDS:
        checkpoints.save(epoch, {'state': state._asdict(), 'best': best._asdict()})
        saved = time.monotonic()
  return best, epoch, int(state.step), sum(entry['seconds'] for entry in log.entries())


def make_predict(
  config: ConfigDict, train_data: TrainData, net: nn.Module
) -> Callable[[model.Params], evaluate.Predict]:
  """The function from parameters to one that predicts the slices of a case."""
  logits = jax.jit(lambda params, image: model.last_logits(model.apply(net, params, image)))

  def with_params(params: model.Params) -> evaluate.Predict:
    return evaluate.network_predict(
      lambda image: logits(params, image),
      statistics=train_data.statistics,
      context=config.data.context,
      batch_size=config.evaluate.batch_size,
    )

  return with_params


def _out_of_patience(settings: ConfigDict, epoch: int, best: Best) -> bool:
  if epoch % settings.validate_every:  # the best epoch may be this one: not yet known
    return False
  return 0 < settings.patience <= epoch - best.epoch


def _genotype_file(config: ConfigDict, workdir: Path) -> Path | None:
  """The genotype to train; a baseline has none."""
  if config.model.name != 'thrifty':
    return None
  return stages.genotype_file(config, workdir)


def _card(config: ConfigDict, summary: dict[str, Any], *, citation: str) -> str:
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
- Scores, and of whom: evaluate/summary.json of the run

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
