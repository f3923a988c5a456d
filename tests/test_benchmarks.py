"""The benchmarks: that they run and say what they promise, and that rivals compute the same."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks.plain_supernet import PlainSupernet
from thrifty_jax import model
from thrifty_jax.cell import targets_of
from thrifty_jax.losses import segmentation_loss
from thrifty_jax.network import Supernet, init_architecture


def as_plain(tree, net):
  """Parameters of a Supernet, or their gradients, by the names that PlainSupernet gives them."""
  names = {
    'down': [f'down_0_{j}' for j in range(1, net.depth)],
    'up': [f'up_{k}_{j}' for k in range(1, net.depth) for j in range(net.depth - k)] + ['head'],
  }
  found: dict[tuple[str, ...], jax.Array] = {}
  leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(tree)
  for path, leaf in leaves.items():
    if path[1] == 'operations':  # of all cells and edges: [cells, E, ...]
      kind, _, source = path[0].split('_')
      for index in np.ndindex(leaf.shape[:2]):
        node = targets_of(int(source), nodes=net.nodes)[index[1]]
        place = names[kind][index[0]], f'node{node + 1}_from_{source}'
        found[*place, *renamed(path[2:])] = leaf[index]
    else:
      found[renamed(path) if path[0] != 'classes' else path] = leaf
  for path, leaf in found.items():
    if path[-2] == 'pointwise':
      found[path] = leaf[None, None]
  return traverse_util.unflatten_dict(found)


def renamed(path):
  """flax's layers are modules of their own: conv/kernel where ours has kernel."""
  if path[-1] == 'kernel' and path[-2] not in ('squeeze', 'excite'):
    return *path[:-1], 'conv', 'kernel'
  return (*path, 'kernel') if path[-1] in ('depthwise', 'pointwise') else path


def both_nets(*, depth, nodes):
  """Both supernets and what they are applied to, away from the start."""
  # 32 channels: the norms of the cells have two groups, of the candidates one.
  kinds = (Supernet, PlainSupernet)
  ours, plain = (one(classes=3, channels=32, depth=depth, nodes=nodes) for one in kinds)
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(2, 16, 8, 2)))
  start = init_architecture(jax.random.key(0), nodes=nodes)
  architecture = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), start)
  params = model.initialise(ours, image, architecture, seed=0)
  params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), params)
  return ours, plain, image, params, architecture


def test_the_plain_supernet_gives_the_logits_of_the_fast_one(double_precision, quick_compilation):
  ours, plain, image, params, architecture = both_nets(depth=3, nodes=2)
  same = as_plain(params, ours)
  assert model.count(same) == model.count(params)
  got, expected = (
    jax.jit(functools.partial(model.apply, net))(values, image, architecture)
    for net, values in ((ours, params), (plain, same))
  )
  np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_the_plain_supernet_has_the_gradients_of_the_fast_one(double_precision, quick_compilation):
  ours, plain, image, params, architecture = both_nets(depth=2, nodes=1)
  label = jnp.asarray(np.random.default_rng(1).integers(0, 3, image.shape[:3]))

  def gradients(net, params):
    def loss(params, architecture):
      return segmentation_loss(model.apply(net, params, image, architecture), label)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, architecture)

  got, expected = gradients(ours, params), gradients(plain, as_plain(params, ours))
  got = as_plain(got[0], ours), got[1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10), got, expected)
