"""The search: weights and architecture, trained in turn on two halves of the training patients."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from data_prep import splits
from thrifty_jax import genotype, logbook, model
from thrifty_jax.checkpoint import Checkpoints
from thrifty_jax.data import Batch, steps_per_epoch
from thrifty_jax.losses import segmentation_loss
from thrifty_jax.network import (
  Architecture,
  Supernet,
  architecture_weights,
  init_architecture,
)
from thrifty_jax.train_data import SAVE_SECONDS, Figures, open_train_data, overlap

# Batches that tell the DSC of the architecture half while only the weights are trained.
PROBED_BATCHES = 4


class SearchState(NamedTuple):
  """Everything that a step changes."""

  step: jax.Array
  params: model.Params
  architecture: Architecture
  weight_optimizer: optax.OptState
  architecture_optimizer: optax.OptState


Metrics = dict[str, jax.Array]
HalfStep = Callable[[SearchState, Batch], tuple[SearchState, Metrics]]


def weight_optimizer(settings: ConfigDict, *, steps: int) -> optax.GradientTransformation:
  """SGD with momentum and a cosine from the first to the last of `steps`.

  The gradient is clipped, then L2 decay is added, then momentum: the order of PyTorch's SGD.
  """
  rate = optax.cosine_decay_schedule(
    settings.weight_learning_rate,
    steps,
    alpha=settings.weight_learning_rate_end / settings.weight_learning_rate,
  )
  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm),
    optax.add_decayed_weights(settings.weight_decay),
    optax.sgd(rate, momentum=settings.weight_momentum),
  )


def architecture_optimizer(settings: ConfigDict) -> optax.GradientTransformation:
  """Adam with L2 decay of the variables added to their gradient."""
  first, second = settings.architecture_betas
  return optax.chain(
    optax.add_decayed_weights(settings.architecture_decay),
    optax.adam(settings.architecture_learning_rate, b1=first, b2=second),
  )


def init_state(
  net: Supernet,
  image: jax.ShapeDtypeStruct,
  for_weights: optax.GradientTransformation,
  for_architecture: optax.GradientTransformation,
  *,
  seed: int,
) -> SearchState:
  """The state before the first step; image gives the shape of a batch."""
  architecture = init_architecture(jax.random.key(seed), nodes=net.nodes)
  params = model.initialise(net, image, architecture, seed=seed)
  return SearchState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    architecture=architecture,
    weight_optimizer=for_weights.init(params),
    architecture_optimizer=for_architecture.init(architecture),
  )


def make_half_steps(
  net: Supernet,
  for_weights: optax.GradientTransformation,
  for_architecture: optax.GradientTransformation,
  *,
  augment: Callable[[jax.Array, Batch], Batch],
  seed: int,
  random_sampling: bool = False,
) -> tuple[HalfStep, HalfStep]:
  """The two halves of the bilevel step, pure functions of (state, batch).

  Each differentiates its own variables only, so neither optimiser ever sees the other's. First
  order: the architecture's gradient is taken at the present weights.

  Args:
    net: The supernet.
    for_weights: Optimiser of its weights.
    for_architecture: Optimiser of the architecture variables.
    augment: (key, batch) -> batch.
    seed: The random numbers of a step follow from it and from the step.
    random_sampling: Draw the sampled channels at random in each step.

  Returns:
    weight_step and architecture_step, each (state, batch) -> (state, metrics). The weight step
    counts.
  """

  def loss(
    params: model.Params, architecture: Architecture, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    augment_key, sample_key = jax.random.split(key)
    batch = augment(augment_key, batch)
    logits = net.apply(
      {'params': params}, batch['image'], architecture, sample_key if random_sampling else None
    )
    return segmentation_loss(logits, batch['label'])[0], overlap(logits, batch['label'])

  def key_of(state: SearchState, half: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), half)

  def weight_step(state: SearchState, batch: Batch) -> tuple[SearchState, Metrics]:
    (value, _), gradient = jax.value_and_grad(loss, argnums=0, has_aux=True)(
      state.params, state.architecture, batch, key_of(state, 0)
    )
    updates, optimizer = for_weights.update(gradient, state.weight_optimizer, state.params)
    state = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      weight_optimizer=optimizer,
    )
    return state, {'weight_loss': value, 'weight_gradient': optax.tree.norm(gradient)}

  def architecture_step(state: SearchState, batch: Batch) -> tuple[SearchState, Metrics]:
    (value, counts), gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)(
      state.params, state.architecture, batch, key_of(state, 1)
    )
    updates, optimizer = for_architecture.update(
      gradient, state.architecture_optimizer, state.architecture
    )
    state = state._replace(
      architecture=optax.apply_updates(state.architecture, updates),
      architecture_optimizer=optimizer,
    )
    return state, {'architecture_loss': value, 'overlap': counts}

  return weight_step, architecture_step


def search(config: ConfigDict, workdir: Path | str) -> genotype.Genotype:
  """Searches an architecture and writes <workdir>/search/genotype.json.

  Goes on from the last checkpoint if there is one.

  Args:
    config: Of the run.
    workdir: Its folder.

  Returns:
    The genotype.

  Raises:
    InputError: Unprepared data, too few patients, or a number that is not finite.
  """
  folder = Path(workdir) / 'search'
  settings = config.search
  train_data = open_train_data(config)
  halves = splits.search_halves(train_data.patients['train'], seed=config.seed)
  weight_examples, architecture_examples = (train_data.examples(half) for half in halves)
  steps = steps_per_epoch(len(weight_examples), settings.batch_size)

  net = Supernet(
    classes=len(config.data.classes),
    channels=settings.channels,
    depth=config.model.depth,
    nodes=config.model.nodes,
    sample=settings.sample,
    background=tuple(model.background(train_data.statistics, context=config.data.context)),
  )
  for_weights = weight_optimizer(settings, steps=settings.epochs * steps)
  for_architecture = architecture_optimizer(settings)
  batch_shape = train_data.batch_shape(settings.batch_size)
  state = init_state(net, batch_shape['image'], for_weights, for_architecture, seed=config.seed)
  logbook.say('supernet', f'{model.count(state.params):,} weights, {settings.channels} channels')
  logbook.say(
    'halves',
    f'{len(halves[0])} patients for the weights, {len(halves[1])} for the '
    f'architecture; {steps} steps an epoch',
  )

  weight_step, architecture_step = compile_together(
    make_half_steps(
      net,
      for_weights,
      for_architecture,
      augment=train_data.augment,
      seed=config.seed,
      random_sampling=settings.sampling == 'random',
    ),
    state,
    batch_shape,
  )

  checkpoints = Checkpoints(folder / 'checkpoints')
  metrics_log = logbook.Logbook(folder)
  first_epoch, unchanged = 0, 0
  if checkpoints.latest() is not None:
    state, first_epoch, unchanged = _restore(checkpoints, state)
    logbook.say('resumed', f'after epoch {first_epoch}')
  metrics_log.truncate(int(state.step))
  found = _derive(state, config)
  saved = time.monotonic()

  with logbook.progress(settings.epochs * steps, 'search') as bar:
    bar.update(first_epoch * steps)
    for epoch in range(first_epoch, settings.epochs):
      began = time.monotonic()
      warm_up = epoch < settings.warmup_epochs
      weights, architecture = Figures('search', epoch), Figures('search', epoch)
      batches = (
        train_data.batches(examples, batch_size=settings.batch_size, epoch=epoch, steps=steps)
        for examples in (weight_examples, architecture_examples)
      )
      for index, (weight_batch, architecture_batch) in enumerate(zip(*batches, strict=True)):
        step = epoch * steps + index + 1
        if not warm_up or index < PROBED_BATCHES:
          moved, metrics = architecture_step(state, architecture_batch)
          architecture.add(step, metrics)
          state = state if warm_up else moved
        state, metrics = weight_step(state, weight_batch)
        weights.add(step, metrics)
        if architecture.steps:
          bar.set_postfix(
            loss=f'{weights.mean("weight_loss"):.3f}', dsc=f'{architecture.dsc():.3f}'
          )
        bar.update(1)
      weights.flush()
      architecture.flush()

      previous, found = found, _derive(state, config)
      unchanged = 0 if warm_up or found != previous else unchanged + 1
      metrics_log.append(
        {
          'epoch': epoch + 1,
          'step': int(state.step),
          'weight_loss': weights.mean('weight_loss'),
          'weight_gradient': weights.mean('weight_gradient'),
          'architecture_loss': None if warm_up else architecture.mean('architecture_loss'),
          'architecture_dsc': architecture.dsc(),
          'unchanged_epochs': unchanged,
          'seconds': time.monotonic() - began,
          **_weights_as_lists(state, config),
        }
      )
      last = epoch + 1 == settings.epochs or 0 < settings.patience <= unchanged
      if last or time.monotonic() - saved > SAVE_SECONDS:
        kept = {'state': state._asdict(), 'epoch': epoch + 1, 'unchanged': unchanged}
        checkpoints.save(epoch + 1, kept)
        saved = time.monotonic()
      if last:
        break
  checkpoints.close()

  genotype.save(
    folder / 'genotype.json',
    found,
    scores=_scores(state, config),
    provenance={
      'data': config.data.name,
      'seed': config.seed,
      'fold': config.data.fold,
      'epochs': epoch + 1 if first_epoch < settings.epochs else first_epoch,
      'search': settings.to_dict(),
      'architecture_patients': list(halves[1]),
      'weight_patients': list(halves[0]),
    },
  )
  logbook.say('genotype', str(folder / 'genotype.json'))
  return found


def compile_together(
  functions: tuple[HalfStep, ...], state: SearchState, batch: dict[str, jax.ShapeDtypeStruct]
) -> list[Callable]:
  """Compiles functions of the same arguments side by side: half the wait on two cores."""
  began = time.monotonic()
  lowered = [jax.jit(function).lower(state, batch) for function in functions]
  with ThreadPoolExecutor(len(lowered)) as pool:
    compiled = list(pool.map(lambda one: one.compile(), lowered))
  logbook.say('compiled', f'in {logbook.duration(time.monotonic() - began)}')
  return compiled


def _restore(checkpoints: Checkpoints, state: SearchState) -> tuple[SearchState, int, int]:
  """State, epochs done, and epochs without a change of the genotype."""
  kept = checkpoints.restore({'state': state._asdict(), 'epoch': 0, 'unchanged': 0})
  return SearchState(**kept['state']), int(kept['epoch']), int(kept['unchanged'])


def _weights(state: SearchState, config: ConfigDict) -> dict[str, Any]:
  """Softmax weights as numpy arrays."""
  return jax.device_get(architecture_weights(state.architecture, nodes=config.model.nodes))


def _derive(state: SearchState, config: ConfigDict) -> genotype.Genotype:
  return genotype.derive(
    _weights(state, config),
    nodes=config.model.nodes,
    edges_per_node=config.model.edges_per_node,
  )


def _scores(state: SearchState, config: ConfigDict) -> genotype.Scores:
  weights = _weights(state, config)
  return {
    kind: genotype.scores(
      kind, weights[kind]['alphas'], weights[kind]['betas'], nodes=config.model.nodes
    )
    for kind in ('down', 'up')
  }


def _weights_as_lists(state: SearchState, config: ConfigDict) -> dict[str, Any]:
  """down_alphas [E][N], down_betas [E], and the same for up, for metrics.jsonl."""
  return {
    f'{kind}_{name}': [np.asarray(value).round(6).tolist() for value in values]
    for kind, part in _weights(state, config).items()
    for name, values in part.items()
  }
