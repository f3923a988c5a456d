"""The bilevel step: weights and architecture, each with an optimiser and a half of the data.

All pure functions of (seed, state, batch); the loop around them is in search.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from thrifty_jax.data.batching import Batch
from thrifty_jax.networks import build
from thrifty_jax.networks.architecture import Architecture
from thrifty_jax.networks.grid import Supernet, init_architecture
from thrifty_jax.networks.losses import Sums, loss_of, loss_sums
from thrifty_jax.training import microbatches
from thrifty_jax.training.train_data import overlap


class SearchState(NamedTuple):
  """Everything that a step changes."""

  step: jax.Array
  params: build.Params
  architecture: Architecture
  weight_optimizer: optax.OptState
  architecture_optimizer: optax.OptState


Metrics = dict[str, jax.Array]
WeightStep = Callable[[jax.Array, SearchState, Batch], tuple[SearchState, Metrics]]
ArchitectureStep = Callable[[jax.Array, SearchState, Batch, Batch], tuple[SearchState, Metrics]]


def weight_optimizer(
  settings: ConfigDict, *, steps: int | jax.Array, clipped: bool = True
) -> optax.GradientTransformation:
  """SGD with momentum and a cosine from the first to the last of `steps`, which may be traced.

  The gradient is clipped, then L2 decay is added, then momentum: the order of PyTorch's SGD.
  Without the clip the state has the same structure: one takes over where the other was.
  """
  over_share = optax.cosine_decay_schedule(  # of the steps, whose number may be traced
    settings.weight_learning_rate,
    1,
    alpha=settings.weight_learning_rate_end / settings.weight_learning_rate,
  )
  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm) if clipped else optax.identity(),
    optax.add_decayed_weights(settings.weight_decay),
    optax.sgd(lambda step: over_share(step / steps), momentum=settings.weight_momentum),
  )


def architecture_optimizer(settings: ConfigDict) -> optax.GradientTransformation:
  """Adam with L2 decay of the variables added to their gradient."""
  first, second = settings.architecture_betas
  return optax.chain(
    optax.add_decayed_weights(settings.architecture_decay),
    optax.adam(settings.architecture_learning_rate, b1=first, b2=second),
  )


class Learners(NamedTuple):
  """The supernet, and the optimiser of each of the two levels.

  Attributes:
    net: The supernet.
    background: Normalised value that sides are filled up with, [C].
    for_weights: Optimiser of the weights.
    for_architecture: Optimiser of the architecture variables.
    look_ahead: Takes the weight step that the architecture's gradient is unrolled through, on the
      state of for_weights: second order. None is first order.
  """

  net: Supernet
  background: Any
  for_weights: optax.GradientTransformation
  for_architecture: optax.GradientTransformation
  look_ahead: optax.GradientTransformation | None = None


def init_state(
  learners: Learners,
  image: jax.ShapeDtypeStruct,
  *,
  seed: int,
  find_shapes: Callable[..., build.Shapes] = build.trace_shapes,
) -> SearchState:
  """The state before the first step.

  Args:
    learners: The supernet and both optimisers.
    image: Shape of a batch.
    seed: Number that weights and architecture variables follow from.
    find_shapes: Function from the supernet and its inputs to the shapes of its weights.
  """
  net = learners.net
  architecture = init_architecture(
    jax.random.key(seed), nodes=net.nodes, gated=net.gated, operations=net.operations
  )
  params = build.initialise(find_shapes(net, image, architecture), seed=seed)
  return SearchState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    architecture=architecture,
    weight_optimizer=_zeros(learners.for_weights.init, params),
    architecture_optimizer=_zeros(learners.for_architecture.init, architecture),
  )


def _zeros(init: Callable[[Any], optax.OptState], variables: Any) -> optax.OptState:
  """The state that an optimiser begins with; for SGD and Adam, all zeros, nothing is compiled."""
  shapes = jax.eval_shape(init, variables)
  return jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)


def half_key(seed: jax.Array, state: SearchState, half: int) -> jax.Array:
  """Of the random numbers of a half step, 0 of the weights, 1 of the architecture.

  It is split in two: for the augmentation, and for the channels where they are drawn.
  """
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), half)


def make_half_steps(
  learners: Learners,
  *,
  augment: Callable[[jax.Array, Batch], Batch],
  parts: int = 1,
  random_sampling: bool = False,
  penalty: Callable[[Architecture], jax.Array] | None = None,
) -> tuple[WeightStep, ArchitectureStep]:
  """The two halves of the bilevel step, pure functions of a seed, the state and batches.

  Each differentiates its own variables only, so neither optimiser ever sees the other's. First
  order: the architecture's gradient is taken at the present weights. Second order: at the weights
  one step ahead, and through that step, exactly. It is the step that weight_step takes next on the
  same weight batch, with the same random numbers, rate and momentum, but without the clip.

  Args:
    learners: The supernet and both optimisers.
    augment: (key, batch) -> batch.
    parts: In which a batch is computed, see microbatches.py.
    random_sampling: Draw the sampled channels at random in each step.
    penalty: Added to the architecture's loss, of which `architecture_loss` shows the rest alone.

  Returns:
    weight_step, (seed, state, weight_batch) -> (state, metrics), which counts, and
    architecture_step, (seed, state, weight_batch, architecture_batch) -> (state, metrics). The
    random numbers of a step follow from the seed, uint32 [], and from the state's step. First order
    never computes on the latter's weight batch; in second order its loss and overlap are those one
    step ahead.

  Source: DARTS (Liu et al., 2019), equations 6 and 7, with momentum and decay in the step, and
  differentiated where DARTS takes finite differences.
  """

  def loss(
    params: build.Params, architecture: Architecture, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    augment_key, sample_key = jax.random.split(key)
    sample_key = sample_key if random_sampling else None

    def sums(part: Batch) -> tuple[Sums, jax.Array]:
      inputs = part['image'], architecture, sample_key
      logits = build.apply(learners.net, params, *inputs, background=learners.background)
      return loss_sums(logits, part['label']), overlap(logits, part['label'])

    found, counts = microbatches.total(sums, augment(augment_key, batch), parts=parts)
    return loss_of(found)[0], counts

  def weight_step(seed: jax.Array, state: SearchState, batch: Batch) -> tuple[SearchState, Metrics]:
    (value, _), gradient = jax.value_and_grad(loss, argnums=0, has_aux=True)(
      state.params, state.architecture, batch, half_key(seed, state, 0)
    )
    updates, optimizer = learners.for_weights.update(gradient, state.weight_optimizer, state.params)
    state = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      weight_optimizer=optimizer,
    )
    return state, {'weight_loss': value, 'weight_gradient': optax.tree.norm(gradient)}

  def ahead(
    architecture: Architecture, seed: jax.Array, state: SearchState, weight_batch: Batch
  ) -> build.Params:
    if learners.look_ahead is None:
      return state.params
    gradient, _ = jax.grad(loss, argnums=0, has_aux=True)(
      state.params, architecture, weight_batch, half_key(seed, state, 0)
    )
    updates, _ = learners.look_ahead.update(gradient, state.weight_optimizer, state.params)
    return optax.apply_updates(state.params, updates)

  def architecture_loss(
    architecture: Architecture,
    seed: jax.Array,
    state: SearchState,
    weight_batch: Batch,
    batch: Batch,
  ) -> tuple[jax.Array, jax.Array]:
    params = ahead(architecture, seed, state, weight_batch)
    return loss(params, architecture, batch, half_key(seed, state, 1))

  def architecture_step(
    seed: jax.Array, state: SearchState, weight_batch: Batch, architecture_batch: Batch
  ) -> tuple[SearchState, Metrics]:
    (value, counts), gradient = jax.value_and_grad(architecture_loss, has_aux=True)(
      state.architecture, seed, state, weight_batch, architecture_batch
    )
    if penalty is not None:  # it does not depend on the weights
      gradient = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(state.architecture))
    variables: Any = state.architecture  # optax's types do not know it as a pytree
    updates, optimizer = learners.for_architecture.update(
      gradient, state.architecture_optimizer, variables
    )
    state = state._replace(
      architecture=cast(Architecture, optax.apply_updates(variables, updates)),
      architecture_optimizer=optimizer,
    )
    return state, {'architecture_loss': value, 'overlap': counts}

  return weight_step, architecture_step
