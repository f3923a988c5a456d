"""Sources of NaN or infinity: finds the name of the first non-finite value.

This is for a run that has stopped on one. It is slow, as the network runs layer by layer,
uncompiled. After a step with a non-finite gradient every weight is NaN, so the state before that
step must be examined.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from thrifty_jax.errors import NotFinite
from thrifty_jax.networks.build import Params

Path = tuple[str, ...]  # path of a module or a parameter: ('stem', 'norm', 'scale')
Network = Callable[..., jax.Array]  # (params, image, *inputs) -> logits, see build.apply


def watch(
  step: Callable[..., tuple[Any, Any]], source: Callable[..., str | None], *, stage: str
) -> Callable[..., tuple[Any, Any]]:
  """Returns a step that waits for its metrics and stops the run if one is not finite.

  Args:
    step: Function (state, *batches) -> (state, metrics), which must not donate its state.
    source: Function of the same arguments that returns the result of `first_source`.
    stage: Name of the stage, for the error.

  Returns:
    The step, which raises NotFinite.
  """

  def watched(state: Any, *batches: Any) -> tuple[Any, Any]:
    moved, metrics = step(state, *batches)
    bad = [name for name, value in metrics.items() if not np.all(np.isfinite(value))]
    if bad:
      number = int(state.step) + 1
      found = source(state, *batches) or in_tree(moved._asdict(), 'after the step,')
      raise NotFinite(
        f'{stage}, step {number}: {bad[0]} is not finite, first of all '
        f'{found or "none of the layers as far as can be told"}',
        step=number,
      )
    return moved, metrics

  return watched


class _Found(Exception):
  """Ends the run of the network at the first non-finite value, which its message describes."""


def first_source(
  network: Network,
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]],
  architecture: Any = None,
  key: jax.Array | None = None,
) -> str | None:
  """Returns the first non-finite value on the way from the batch to the gradient.

  Args:
    network: Supernet if architecture is given, else a network whose only input is images.
    params: Parameters of the network.
    batch: Batch after augmentation: image [B, H, W, C], label [B, H, W].
    loss: Function (logits, label) -> (loss, more), such as losses.segmentation_loss.
    architecture: Architecture variables of a supernet.
    key: Random key of the sampled channels, if they are drawn.

  Returns:
    The result of `in_forward`, or else of `in_gradient`, or None if all values are finite.
  """
  inputs = () if architecture is None else (architecture, key)
  return in_forward(network, params, batch['image'], *inputs) or in_gradient(
    network, params, batch, loss=loss, architecture=architecture, key=key
  )


def in_forward(
  network: Network,
  params: Params,
  image: jax.Array,
  architecture: Any = None,
  key: jax.Array | None = None,
) -> str | None:
  """Returns the first non-finite value of the image, the variables, and the modules' values.

  Modules are checked in the order of computation, which ends at the first non-finite value. Only
  the values that the network still needs at each point are in memory.

  Args:
    network: Network, see first_source.
    params: Parameters of the network.
    image: Image, [B, H, W, C].
    architecture: Architecture variables of a supernet.
    key: Random key of the sampled channels, if they are drawn.

  Returns:
    A description such as 'the image batch: ...', 'parameter stem/kernel: 1 of 1,568 values is NaN,
    ...', 'the output of down_0_1/node1_from_1 (Convolution): ...', 'a value in stem (ConvNorm), on
    its way into norm: ...'; or None if all values are finite.
  """
  inputs = (image,) if architecture is None else (image, architecture, key)
  if text := in_tree(image, 'the image batch') or in_tree(architecture, 'architecture variable'):
    return text
  if text := in_tree(params, 'parameter', order=_order(network, params, *inputs)):
    return text
  try:
    with nn.intercept_methods(_look):
      network(params, *inputs)
  except _Found as found:
    return str(found)
  return None


def in_gradient(
  network: Network,
  params: Params,
  batch: Mapping[str, jax.Array],
  *,
  loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]],
  architecture: Any = None,
  key: jax.Array | None = None,
) -> str | None:
  """Returns the first non-finite value of the loss and its gradients, from the loss backwards.

  The gradient is compiled and takes the memory of a training step. The order is the reverse of that
  in which modules finish, one of several possible orders in a grid; a supernet's edges, whose
  parameters are arranged before the first cell, come last. first_source describes the arguments.

  Returns:
    A description such as 'the loss: it is NaN' or 'the gradient of head/out/kernel: ...'; or None.
  """

  def objective(params: Params, architecture: Any) -> jax.Array:
    inputs = () if architecture is None else (architecture, key)
    return loss(network(params, batch['image'], *inputs), batch['label'])[0]

  value, (of_params, of_architecture) = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(
    params, architecture
  )
  inputs = () if architecture is None else (architecture, key)
  order = _order(network, params, batch['image'], *inputs)
  return (
    in_tree(value, 'the loss')
    or in_tree(of_params, 'the gradient of', order=order[::-1])
    or in_tree(of_architecture, 'the gradient of architecture variable')
  )


def in_tree(tree: Any, title: str, *, order: list[Path] | None = None) -> str | None:
  """Returns the first array with a non-finite value in a tree, such as the state of an optimiser.

  Args:
    tree: Pytree of arrays; integers are always finite.
    title: Title of its contents, put before the name.
    order: Modules whose arrays are checked first, in this order.

  Returns:
    A description such as 'parameter stem/kernel: 1 of 1,568 values is NaN; 2 more arrays', or None.
  """
  leaves = [(_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
  if order is not None:
    ranks = {module: rank for rank, module in enumerate(order)}
    leaves.sort(key=lambda each: _rank(each[0], ranks))  # stable
  offenders = [(name, text) for name, leaf in leaves if (text := _described(leaf))]
  if not offenders:
    return None
  name, text = offenders[0]
  more = len(offenders) - 1
  others = f'; {more} more array{"s" * (more > 1)}' if more else ''
  return f'{" ".join(filter(None, (title, "/".join(name))))}: {text}{others}'


def _look(
  call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
  """Runs a module and checks its inputs and its output."""
  module = context.module
  if context.method_name != '__call__':
    return call(*args, **kwargs)
  if text := _first((args, kwargs)):
    place = f'a value in {_title(module.parent)}, on its way into {module.name}'
    raise _Found(f'{place}: {text}')
  output = call(*args, **kwargs)
  if text := _first(output):
    raise _Found(f'the output of {_title(module)}: {text}')
  return output


def _first(tree: Any) -> str:
  """Describes the first array with a non-finite value; '' if there is none."""
  return next(filter(None, map(_described, jax.tree.leaves(tree))), '')


def _described(leaf: Any) -> str:
  """Describes the non-finite values of a leaf; '' if there are none."""
  kind_of_number = getattr(leaf, 'dtype', type(leaf))
  if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array | np.ndarray | float):
    return ''
  if not jax.dtypes.issubdtype(kind_of_number, np.inexact):  # integers, keys
    return ''
  array = np.asarray(leaf)
  bad = ~np.isfinite(array)
  count = int(bad.sum())
  if not count:
    return ''
  nan = int(np.isnan(array).sum())
  kind = 'NaN' if nan == count else 'infinite' if not nan else f'infinite or NaN ({nan:,})'
  place = '' if not array.ndim else f', the first at {np.argwhere(bad)[0].tolist()}'
  if array.size == 1:
    return f'it is {kind}'
  return f'{count:,} of {array.size:,} values {"are" if count > 1 else "is"} {kind}{place}'


def _title(module: Any) -> str:
  """Returns path and class of a module; the whole network has no path."""
  if not isinstance(module, nn.Module):
    return 'the network'
  kind = type(module).__name__
  return f'{"/".join(module.path)} ({kind})' if module.path else f'the network ({kind})'


def _order(network: Network, params: Params, *inputs: Any) -> list[Path]:
  """Returns the modules in the order in which they finish; nothing is computed."""
  found: dict[Path, None] = {}

  def note(
    call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    output = call(*args, **kwargs)
    if context.method_name == '__call__':
      found.setdefault(context.module.path)
    return output

  with nn.intercept_methods(note):
    jax.eval_shape(network, params, *inputs)
  return list(found)


def _rank(name: Path, ranks: Mapping[Path, int]) -> int:
  """Returns the rank of an array's module, which has the longest path that begins its name."""
  for length in range(len(name), 0, -1):
    if name[:length] in ranks:
      return ranks[name[:length]]
  return len(ranks)


def _names(path: Any) -> Path:
  """Returns keys, indices and fields as text."""
  return tuple(
    str(next(getattr(part, field) for field in ('key', 'idx', 'name') if hasattr(part, field)))
    for part in path
  )
