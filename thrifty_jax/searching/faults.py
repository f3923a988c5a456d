"""Where searches meet what is no finite number: the slices of a step, the layer, whose search."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from thrifty_jax.data.batching import Batch, Examples
from thrifty_jax.networks import build
from thrifty_jax.networks.losses import segmentation_loss
from thrifty_jax.searching import bilevel, seeds
from thrifty_jax.searching.bilevel import Learners, Metrics, SearchState
from thrifty_jax.searching.seeds import Searches
from thrifty_jax.training import not_finite, packing
from thrifty_jax.training.train_data import Facts, TrainData


def source(
  config: ConfigDict, train_data: TrainData, learners: Learners, *, half: int
) -> Callable[..., str | None]:
  """(metrics, state, searches, *batches) -> where a half step meets what is no finite number."""
  numbers = seeds.of(config)

  def of_one(facts: Facts, state: SearchState, batch: Batch) -> str | None:
    augment_key, sample_key = jax.random.split(bilevel.half_key(facts.seed, state, half))
    net = learners.net.copy(remat=False)  # layer by layer
    return not_finite.first_source(
      functools.partial(build.apply, net, background=learners.background),
      packing.unpacked(state.params),
      jax.jit(train_data.augment)(augment_key, batch),
      loss=segmentation_loss,
      architecture=state.architecture,
      key=sample_key if config.search.sampling == 'random' else None,
    )

  def of_any(
    metrics: Metrics, state: SearchState, searches: Searches, *batches: Batch
  ) -> str | None:
    rows = seeds.batches_of_each(batches[-1], len(numbers))
    of_each = (seeds.each(tree, len(numbers)) for tree in (metrics, searches.facts, state, rows))
    for seed, (told, *own) in zip(numbers, zip(*of_each, strict=True), strict=True):
      if not_finite.in_tree(told, '') and (found := of_one(*own)):
        return found if len(numbers) == 1 else f'of seed {seed}, {found}'
    return None

  return of_any


def slices(
  config: ConfigDict,
  train_data: TrainData,
  examples: Sequence[Examples],
  step: int,
  *,
  steps: int,
) -> dict[str, Any]:
  """The slices of the two batches of a step, by seed where there are several.

  Args:
    config: Of the run.
    train_data: Its slices.
    examples: Of the two halves.
    step: Counted from 1.
    steps: Of an epoch.
  """
  epoch, index = divmod(step - 1, steps)
  which = {'batch_size': config.search.batch_size, 'steps': steps}
  of_each = {
    f'seed_{seed}': {
      name: train_data.slices_of(half, epoch=epoch, index=index, seed=seed, **which)
      for name, half in zip(('weights', 'architecture'), examples, strict=True)
    }
    for seed in seeds.of(config)
  }
  return of_each if len(of_each) > 1 else next(iter(of_each.values()))
