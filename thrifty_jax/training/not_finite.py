"""Names the first non-finite value, NaN or infinite, of a run that has stopped on one.

The search is slow: the network runs uncompiled, layer by layer. It needs the state before the step,
as after a step with a non-finite gradient every weight is NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from thrifty_jax.errors import NotFinite
from thrifty_jax.networks.build import Params


def watch(
  step: Callable[..., tuple[Any, Any]], source: Callable[..., str], *, stage: str
) -> Callable[..., tuple[Any, Any]]:
  """Returns a step that waits for its metrics and raises NotFinite if one is non-finite.

  The step must not donate its state; source, a function of the same arguments, returns the result
  of `first_source`.
  """

  def watched(state: Any, *batches: Any) -> tuple[Any, Any]:
    moved, metrics = step(state, *batches)
    bad = [name for name, value in metrics.items() if not np.all(np.isfinite(value))]
    if bad:
      number = int(state.step) + 1
      found = source(state, *batches) or in_tree(moved._asdict(), 'after the step, the state')
      raise NotFinite(
        f'{stage}, step {number}: {bad[0]} is non-finite; the first non-finite value is '
        f'{found or "in no layer, gradient or state that could be examined"}',
        step=number,
      )
    return moved, metrics

  return watched


def first_source(
  network: Callable[..., jax.Array],
  params: Params,
  batch: Mapping[str, jax.Array],
  *inputs: Any,
  loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]],
) -> str:
  """Returns the first non-finite value on the way from the batch to the gradient.

  The order is: the images, the architecture variables, the parameters, the values of the modules as
  they run, the loss, and the gradients in the reverse of the order in which modules finish, one of
  several possible orders in a grid. The gradient takes the memory of a training step.

  Args:
    network: Function (params, image, *inputs) -> logits, see build.apply.
    params: Parameters of the network.
    batch: Batch after augmentation: image [B, H, W, C], label [B, H, W].
    *inputs: Architecture variables of a supernet, and the random key of its sampled channels or
      None; nothing for a network whose only input is images.
    loss: Function (logits, label) -> (loss, more), such as losses.segmentation_loss.

  Returns:
    A description such as 'the output of down_0_1/node1_from_1 (Convolution): 3 of 128 values are
    non-finite, the first is nan at [0, 2, 3, 0]'; '' if all values are finite.
  """
  architecture = inputs[0] if inputs else None
  if text := (
    in_tree(batch['image'], 'the image batch')
    or in_tree(architecture, 'the architecture variable')
    or in_tree(params, 'the parameter')
  ):
    return text
  finished: list[str] = []  # paths of the modules
  found: list[str] = []

  def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    if context.method_name != '__call__':
      return call(*args, **kwargs)
    path = '/'.join(context.module.path)
    title = f'{path or "the network"} ({type(context.module).__name__})'
    found.extend(f'an input of {title}: {text}' for text in _describe_all((args, kwargs)))
    output = call(*args, **kwargs)
    found.extend(f'the output of {title}: {text}' for text in _describe_all(output))
    finished.append(path)
    return output

  with nn.intercept_methods(look):
    network(params, batch['image'], *inputs)
  if found:
    return found[0]

  def objective(params: Params, architecture: Any) -> jax.Array:
    others = (architecture, *inputs[1:]) if inputs else ()
    return loss(network(params, batch['image'], *others), batch['label'])[0]

  value, (of_params, of_architecture) = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(
    params, architecture
  )
  return (
    in_tree(value, 'the loss')
    or in_tree(of_params, 'the gradient of the parameter', order=finished[::-1])
    or in_tree(of_architecture, 'the gradient of the architecture variable')
  )


def in_tree(tree: Any, title: str, *, order: Sequence[str] = ()) -> str:
  """Describes the first array with a non-finite value in a pytree; '' if there is none.

  The title is put before its name. The arrays of the modules in `order` come first.
  """
  found = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if text := _describe(leaf):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      # A module finishes before those that contain it, so that its own rank is the highest.
      ranks = [rank for rank, module in enumerate(order) if f'{name}/'.startswith(f'{module}/')]
      found.append((max(ranks, default=0), f'{title} {name}'.rstrip() + f': {text}'))
  if not found:
    return ''
  more = f' ({len(found)} arrays have such values)' if len(found) > 1 else ''
  return min(found, key=lambda ranked: ranked[0])[1] + more


def _describe_all(tree: Any) -> list[str]:
  return list(filter(None, map(_describe, jax.tree.leaves(tree))))


def _describe(leaf: Any) -> str:
  """Describes the non-finite values of an array; '' if there are none or it has no values yet."""
  if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array | np.ndarray):
    return ''
  if not jax.dtypes.issubdtype(leaf.dtype, np.inexact):  # integers, random keys
    return ''
  array = np.asarray(leaf)
  places = np.argwhere(~np.isfinite(array))
  if not len(places):
    return ''
  if not array.ndim:
    return f'it is {array}'
  first = f'{array[tuple(places[0])]} at {places[0].tolist()}'
  return f'{len(places):,} of {array.size:,} values are non-finite, the first is {first}'
