"""The bilevel step: weights and architecture, each with its optimiser and its half of the data.

All functions are pure functions of (seed, state, batch); the loop around them is in search.py.
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
from thrifty_jax.networks.losses import LABELS, Sums, Target, loss_of, loss_sums, overlap
from thrifty_jax.training import microbatches


class SearchState(NamedTuple):
  """State of a search, which a step changes."""

  step: jax.Array
  params: build.Params
  architecture: Architecture
  weight_optimizer: optax.OptState
  architecture_optimizer: optax.OptState


Metrics = dict[str, jax.Array]
HalfStep = Callable[..., tuple[SearchState, Metrics]]  # of a seed, a state and batches


def weight_optimizer(
  settings: ConfigDict, *, steps: int | jax.Array, clipped: bool = True
) -> optax.GradientTransformation:
  """Returns SGD with momentum and a cosine schedule over `steps`, which may be traced.

  The gradient is clipped, then L2 decay is added, then momentum, in the order of PyTorch's SGD. The
  state has the same structure without the clip, so that both optimisers can use the same state.
  """
  rate, end = settings.weight_learning_rate, settings.weight_learning_rate_end
  over_share = optax.cosine_decay_schedule(rate, 1, alpha=end / rate)  # of steps, maybe traced
  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm) if clipped else optax.identity(),
    optax.add_decayed_weights(settings.weight_decay),
    optax.sgd(lambda step: over_share(step / steps), momentum=settings.weight_momentum),
  )


def architecture_optimizer(settings: ConfigDict) -> optax.GradientTransformation:
  """Returns Adam with L2 decay of the variables added to their gradient."""
  first, second = settings.architecture_betas
  return optax.chain(
    optax.add_decayed_weights(settings.architecture_decay),
    optax.adam(settings.architecture_learning_rate, b1=first, b2=second),
  )


class Learners(NamedTuple):
  """The supernet and the optimisers of both levels."""

  net: Supernet
  background: Any  # normalised value of the padding, [C]
  for_weights: optax.GradientTransformation
  for_architecture: optax.GradientTransformation
  # Of the weight step through which the architecture's gradient is unrolled (second order), with
  # the state of for_weights; None is first order.
  look_ahead: optax.GradientTransformation | None = None


def init_state(
  learners: Learners,
  image: jax.ShapeDtypeStruct,
  *,
  seed: int,
  find_shapes: Callable[..., build.Shapes] = build.trace_shapes,
) -> SearchState:
  """Returns the state before the first step, for batches of the shape and type of `image`."""
  net = learners.net
  architecture = init_architecture(
    jax.random.key(seed), nodes=net.nodes, gated=net.gated, operations=net.operations
  )
  params = build.initialise(find_shapes(net, image, architecture), seed=seed)
  # The initial states of SGD and Adam are all zeros; so nothing is compiled.
  shapes = (
    jax.eval_shape(learners.for_weights.init, params),
    jax.eval_shape(learners.for_architecture.init, cast(Any, architecture)),
  )
  states = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
  return SearchState(jnp.zeros((), jnp.int32), params, architecture, *states)


def half_key(seed: jax.Array, state: SearchState, half: int) -> jax.Array:
  """Returns the random key of a half step: half 0 is that of the weights, 1 of the architecture.

  The key is split in two: one for the augmentation, and one for the sampled channels.
  """
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), half)


def make_half_steps(
  learners: Learners,
  *,
  augment: Callable[[jax.Array, Batch], Batch],
  parts: int = 1,
  random_sampling: bool = False,
  penalty: Callable[[Architecture], jax.Array] | None = None,
  target: Target = LABELS,
) -> tuple[HalfStep, HalfStep]:
  """Returns the two halves of the bilevel step, pure functions of a seed, the state and batches.

  Each half differentiates only its own variables. In first order the architecture's gradient is
  taken at the present weights. In second order it is taken at the weights one step ahead, and
  exactly through that step. That is the step that weight_step takes next on the same weight batch,
  with the same random numbers, rate and momentum, but without the clip.

  Args:
    learners: The supernet and both optimisers.
    augment: Function (key, batch) -> batch.
    parts: Number of microbatches in a batch, see microbatches.py.
    random_sampling: Whether each step draws the sampled channels at random.
    penalty: Term added to the architecture's loss; the metric `architecture_loss` omits it.
    target: Meaning of the labels.

  Returns:
    The step of the weights, (seed, state, weight_batch) -> (state, metrics), which counts it, and
    of the architecture, (seed, state, weight_batch, architecture_batch) -> (state, metrics), whose
    loss and overlap are one step ahead in second order; in first order it ignores its weight batch.
    The seed, uint32 [], and the state's step determine the random numbers of a step.

  Source: DARTS (Liu et al., 2019), equations 6 and 7, with momentum and decay in the step, and with
  exact derivatives instead of the finite differences of DARTS.
  """

  def loss(
    params: build.Params, architecture: Architecture, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    augment_key, sample_key = jax.random.split(key)
    sample_key = sample_key if random_sampling else None

    def sums(part: Batch) -> tuple[Sums, jax.Array]:
      inputs = part['image'], architecture, sample_key
      logits = build.apply(learners.net, params, *inputs, background=learners.background)
      label = part['label']
      return loss_sums(logits, label, target), overlap(logits, label, target)

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

  def architecture_step(
    seed: jax.Array, state: SearchState, weight_batch: Batch, architecture_batch: Batch
  ) -> tuple[SearchState, Metrics]:
    def architecture_loss(architecture: Architecture) -> tuple[jax.Array, jax.Array]:
      params = state.params
      if learners.look_ahead is not None:
        gradient, _ = jax.grad(loss, argnums=0, has_aux=True)(
          params, architecture, weight_batch, half_key(seed, state, 0)
        )
        updates, _ = learners.look_ahead.update(gradient, state.weight_optimizer, params)
        params = optax.apply_updates(params, updates)
      return loss(params, architecture, architecture_batch, half_key(seed, state, 1))

    (value, counts), gradient = jax.value_and_grad(architecture_loss, has_aux=True)(
      state.architecture
    )
    if penalty is not None:  # it does not depend on the weights
      gradient = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(state.architecture))
    variables: Any = state.architecture  # optax's types do not accept it as a pytree
    updates, optimizer = learners.for_architecture.update(
      gradient, state.architecture_optimizer, variables
    )
    state = state._replace(
      architecture=cast(Architecture, optax.apply_updates(variables, updates)),
      architecture_optimizer=optimizer,
    )
    return state, {'architecture_loss': value, 'overlap': counts}

  return weight_step, architecture_step
