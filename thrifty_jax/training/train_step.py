"""The training step: its state, its optimiser, and the compiled step, a pure function."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from thrifty_jax import files, logbook
from thrifty_jax.data import mesh
from thrifty_jax.data.batching import Batch
from thrifty_jax.networks import batch_norm, build, genotype
from thrifty_jax.networks.losses import (
  LABELS,
  Lesson,
  Sums,
  Target,
  loss_of,
  loss_sums,
  make_target,
  segmentation_loss,
)
from thrifty_jax.networks.model_spec import ModelSpec, background, make_spec
from thrifty_jax.training import compiling, memory, microbatches, not_finite
from thrifty_jax.training.compiling import Program
from thrifty_jax.training.teacher import Teacher
from thrifty_jax.training.train_data import Epochs, Facts, TrainData


class TrainState(NamedTuple):
  """State of a training, which a step changes."""

  step: jax.Array
  params: build.Params
  average: build.Params  # running average of params, which is scored and kept
  optimizer: optax.OptState


class Best(NamedTuple):
  """Best epoch so far on the validation patients."""

  params: build.Params
  epoch: int
  dsc: float


Metrics = dict[str, jax.Array]


def build_network(
  config: ConfigDict, train_data: TrainData, genotype_file: Path | None, folder: Path
) -> tuple[nn.Module, ModelSpec]:
  """Returns the network that is trained and its description, as far as it is known before.

  The genotype of a thrifty network is copied to the folder, beside the checkpoints, from which
  another genotype must not continue.
  """
  found = None
  if genotype_file:
    found = genotype.load_any(genotype_file)
    files.write_bytes(folder / 'genotype.json', genotype_file.read_bytes())
  spec = make_spec(config, train_data.statistics)
  return build.build(spec, found), spec


def start(
  config: ConfigDict,
  epochs: Epochs,
  net: nn.Module,
  *,
  take_over: Callable[[build.Params], build.Params] = lambda params: params,
) -> tuple[TrainState, Best, Facts]:
  """Returns the first state, its weights as the best so far, on the host, and the facts.

  `take_over` replaces drawn weights by those of a model, if any.
  """
  image = epochs.train_data.image_shape(epochs.batch_size)
  find_shapes = compiling.make_shapes_finder(config, net, image)
  transformation, _ = optimizer(config.retrain, epochs.facts)
  state, best = init_state(
    net, transformation, image, seed=config.seed, find_shapes=find_shapes, take_over=take_over
  )
  logbook.say('network', f'{build.count(best.params):,} parameters; {epochs.steps} steps an epoch')
  whole = mesh.whole(epochs.train_data.mesh)
  return mesh.place(state, whole), best, mesh.place(epochs.facts, whole)


def init_state(
  net: nn.Module,
  transformation: optax.GradientTransformation,
  image: jax.ShapeDtypeStruct,
  *,
  seed: int,
  find_shapes: Callable[..., build.Shapes] = build.trace_shapes,
  take_over: Callable[[build.Params], build.Params] = lambda params: params,
) -> tuple[TrainState, Best]:
  """Returns the state before the first step for batches like `image`, and the best weights."""
  params = take_over(build.initialise(find_shapes(net, image), seed=seed))
  average = jax.tree.map(jnp.copy, params)  # a copy, as a step donates both
  state = TrainState(jnp.zeros((), jnp.int32), params, average, transformation.init(params))
  return state, Best(jax.tree.map(np.asarray, params), 0, -1.0)


def optimizer(
  settings: ConfigDict, facts: Facts
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimiser and its learning rate: a linear warm-up, then a cosine to 0.

  AdamW decays only kernels; SGD, as the authors use it, adds L2 decay of all weights to the
  gradient.
  """

  def rate(step: jax.typing.ArrayLike) -> jax.Array:
    peak, warmup, epochs = facts.schedule
    epoch = step / facts.epoch_steps
    over = jnp.clip((epoch - warmup) / (epochs - warmup), 0, 1)
    rising = epoch / jnp.where(warmup > 0, warmup, 1)
    return peak * jnp.where(epoch < warmup, rising, (1 + jnp.cos(jnp.pi * over)) / 2)

  clip = optax.clip_by_global_norm(settings.clip_norm)
  if settings.optimizer == 'sgd':
    decay = optax.add_decayed_weights(settings.weight_decay)
    return optax.chain(clip, decay, optax.sgd(rate, momentum=settings.momentum)), rate

  def is_kernel(params: build.Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

  adamw = optax.adamw(rate, weight_decay=settings.weight_decay, mask=is_kernel)
  return optax.chain(clip, adamw), rate


def step_key(seed: jax.Array | int, state: TrainState) -> jax.Array:
  """Returns the random key of a step."""
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
  frozen: Sequence[str] = (),
  target: Target = LABELS,
  teach: Callable[[jax.Array], Lesson] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the training step, a pure function (state, batch) -> (state, metrics).

  Args:
    net: Network that is trained.
    transformation: Optimiser of the weights.
    augment: Function (key, batch) -> batch.
    average_decay: Decay of the running average of the weights; 0 keeps the weights themselves.
    seed: Seed that, with the number of the step, determines its random numbers.
    background: Normalised value of the padding, [C].
    parts: Number of microbatches in a batch, see microbatches.py.
    frozen: Names of the network's modules whose weights and statistics stay as they are.
    target: Meaning of the labels.
    teach: Function from images, [B, S, S, C], to what a teacher says of them; None without one.
  """

  def keep_frozen(params: build.Params, old: build.Params) -> build.Params:
    return {**params, **{name: old[name] for name in frozen}}

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    batch = augment(step_key(seed, state), batch)

    def loss(params: build.Params) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      params = keep_frozen(params, jax.lax.stop_gradient(params))

      def sums(part: Batch) -> tuple[Sums, Any]:
        logits, statistics = build.apply_training(net, params, part['image'], background=background)
        lesson = teach(part['image']) if teach else None
        return loss_sums(logits, part['label'], target, lesson), statistics

      total, statistics = microbatches.total(sums, batch, parts=parts)
      value, dice = loss_of(total)
      return value, (dice, statistics)

    (value, (dice, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, transformed = transformation.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    params = batch_norm.follow(params, statistics, old=state.params)
    params = keep_frozen(params, state.params)  # weight decay and rounding would move them
    # Early steps weigh more, or the average would lag behind because of the random initial weights.
    decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
    decay = decay if average_decay else 0.0
    average = optax.incremental_update(params, state.average, 1 - decay)
    average = keep_frozen(average, state.average)
    state = TrainState(state.step + 1, params, average, transformed)
    metrics = {'loss': value, 'dice': dice.mean(), 'gradient': optax.tree.norm(gradient)}
    return state, metrics

  return train_step


def compile_step(
  config: ConfigDict,
  epochs: Epochs,
  net: nn.Module,
  state: TrainState,
  facts: Facts,
  *,
  teacher: Teacher | None = None,
) -> Program:
  """Returns the step as a program, (state, facts, batch) -> (state, metrics), for any facts."""
  settings, train_data = config.retrain, epochs.train_data
  check = functools.partial(
    memory.require_fit, config=config, stage='retrain', examples=[epochs.examples]
  )

  target = make_target(config)
  trained, frozen = build.freeze(net.copy(remat=settings.remat), settings.freeze_levels)

  def train_step(state: TrainState, facts: Facts, batch: Batch) -> tuple[TrainState, Metrics]:
    teach = None
    if teacher:
      teach = functools.partial(
        teacher.teach, facts.teachers, statistics=facts.statistics, regions=bool(target.regions)
      )
    step = make_train_step(
      trained,
      optimizer(settings, facts)[0],
      augment=functools.partial(train_data.augment, statistics=facts.statistics),
      average_decay=settings.ema_decay,
      seed=facts.seed,
      background=background(facts.statistics, context=config.data.context),
      parts=settings.microbatches,
      frozen=frozen,
      target=target,
      teach=teach,
    )
    return step(state, batch)

  return Program(
    mesh.replicate(train_step, train_data.mesh),
    lambda: (state, facts, train_data.batch_shape(settings.batch_size)),
    donate=not config.debug,
    check=check,
  )


def find_source(
  train_data: TrainData, net: nn.Module, spec: ModelSpec
) -> Callable[[TrainState, Facts, Batch], str]:
  """Returns the function that finds the source of a non-finite value, see not_finite."""

  def source(state: TrainState, facts: Facts, batch: Batch) -> str:
    batch = jax.jit(train_data.augment)(step_key(facts.seed, state), batch)

    def network(params: build.Params, image: jax.Array) -> jax.Array:
      return build.apply_training(net, params, image, background=spec.background)[0]

    loss = functools.partial(segmentation_loss, target=make_target(train_data.config))
    return not_finite.first_source(network, state.params, batch, loss=loss)

  return source
