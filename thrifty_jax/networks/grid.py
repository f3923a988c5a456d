"""The grid of cells, a triangle shaped like UNet++, as a supernet and as a derived network."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from thrifty_jax.networks import ops, space, spatial
from thrifty_jax.networks.architecture import (
  Architecture,
  ArchitectureWeights,
  CellVariables,
  CellWeights,
)
from thrifty_jax.networks.cell import DerivedCell, MixedCell
from thrifty_jax.networks.genotype import Genotype, require_depth
from thrifty_jax.networks.mixed_edges import MixedEdges
from thrifty_jax.networks.mixed_op import Mixer, random_sampling, shuffled_sampling
from thrifty_jax.networks.space import CELL_KINDS, CellKind, GridCell

# Builds and runs the cell of this kind and name: cell(kind, name, in0, in1) -> [B, H, W, C].
Cell = Callable[[CellKind, str, jax.Array, jax.Array], jax.Array]


class ResidualBlock(nn.Module):
  """Sum of conv3-norm-relu-conv3-norm and a conv1-norm skip, then relu."""

  norm: str = 'group'  # see ops.make_norm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv_norm = functools.partial(ops.ConvNorm, x.shape[-1], norm=self.norm)
    y = conv_norm(kernel_size=3, relu=True, name='first')(x)
    y = conv_norm(kernel_size=3, name='second')(y)
    return nn.relu(y + conv_norm(name='skip')(x))


def run_grid(
  net: Any,
  image: jax.Array,
  cell: Cell,
  *,
  norm: str = 'group',
  deep_supervision: bool = False,
  skipped: Collection[GridCell] = (),
  gates: Mapping[GridCell, jax.Array] | None = None,
) -> jax.Array:
  """Runs the grid of cells, connected by space.connect, inside a compact method.

  Args:
    net: Module with `classes`, `channels` and `depth`, such as a Supernet.
    image: Image, [B, H, W, C].
    cell: Function that builds and runs a cell.
    norm: Norm of the layers outside the cells, see ops.make_norm.
    deep_supervision: Whether the head runs on X[k, 0] for all k >= 1 that are not skipped, and all
      of its outputs are returned.
    skipped: Cells that are not built.
    gates: Weights, [2], of a cell's own output and of that of the cell to its left, in their sum.

  Returns:
    Logits [B, H, W, K], or stacked, [.., B, H, W, K], with the network's output last.

  Raises:
    ValueError: If a side of the image is not a multiple of 2^depth.
  """
  depth, gates = net.depth, gates or {}
  require_sides(image, depth=depth)
  stem = ops.ConvNorm(net.channels, kernel_size=7, relu=True, norm=norm, name='stem')(image)
  encoded = ResidualBlock(norm, name='encode')(spatial.max_pool_3x3(stem))

  def inner(place: GridCell, left: list[jax.Array], in1: jax.Array) -> jax.Array:
    kind = 'up' if place[0] else 'down'
    x = cell(kind, space.cell_name(place), jnp.concatenate(left, axis=-1), in1)
    if place in gates:
      keep, skip = gates[place].astype(x.dtype)
      x = keep * x + skip * left[-1]
    return x

  outputs = space.connect(inner, stem=stem, encoded=encoded, depth=depth, skipped=skipped)
  to_classes = ClassFilter(net.classes, name='classes')
  supervised = range(1, depth) if deep_supervision else (depth - 1,)
  logits = [
    to_classes(cell('up', 'head', stem, outputs[k, 0])) for k in supervised if (k, 0) not in skipped
  ]
  return jnp.stack(logits) if deep_supervision else logits[0]


def require_sides(image: jax.Array, *, depth: int) -> None:
  """Raises a ValueError unless the sides of an image [B, H, W, C] are multiples of 2^depth."""
  if any(side % 2**depth for side in image.shape[1:3]):
    raise ValueError(
      f'the image has the shape {image.shape}; expected sides that are multiples of {2**depth}, as '
      'build.apply makes them'
    )


class ClassFilter(nn.Module):
  """Last layer: a 3x3 convolution from the head's channels to logits, in float32 at least."""

  classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', ops.kernel_init, (3, 3, x.shape[-1], self.classes))
    return spatial.convolve_to_few(spatial.at_least_float32(x), kernel)


def architecture_weights(architecture: Architecture, *, nodes: int) -> ArchitectureWeights:
  """Returns the softmax over the candidates of an edge, the edges into a node, and each gate."""
  starts = [space.edge_count(node) for node in range(1, nodes)]

  def weights(part: CellVariables) -> CellWeights:
    by_node = jnp.split(jnp.asarray(part.betas), starts)
    return CellWeights(
      tuple(jax.nn.softmax(alpha) for alpha in part.alphas),
      jnp.concatenate([jax.nn.softmax(betas) for betas in by_node]),
    )

  gammas = architecture.gammas
  return ArchitectureWeights(
    weights(architecture.down),
    weights(architecture.up),
    None if gammas is None else jax.nn.softmax(jnp.asarray(gammas), axis=-1),
  )


def init_architecture(
  key: jax.Array,
  *,
  nodes: int,
  gated: Collection[GridCell] = (),
  operations: tuple[str, ...] = (),
) -> Architecture:
  """Returns architecture variables drawn as 1e-3 * normal: every choice starts almost even.

  The key and the name of a variable determine its value: a subset of operations, () stands for all,
  gets the same values as in all.
  """
  longest = max(
    space.edge_count(nodes), *(len(space.candidates(name)) for name in ('down', 'up', 'normal'))
  )

  def normal(name: str) -> np.ndarray:
    # The name determines the draw, so that it is the same when a kind or an edge is added. Each has
    # the largest length and is cut outside JAX, so that one program is compiled for all.
    index = sum(ord(letter) * 31**i for i, letter in enumerate(name)) % 2**31
    return np.asarray(_draw(key, index, longest))

  def part(kind: CellKind) -> CellVariables:
    alphas = []
    for index, (_, source) in enumerate(space.edges_of(nodes)):
      resample = space.resample_of(kind, source)
      chosen = np.isin(space.candidates(resample), space.candidates(resample, operations)).nonzero()
      alphas.append(jnp.asarray(normal(f'{kind}{index}')[chosen]))
    betas = normal(f'{kind}betas')[: space.edge_count(nodes)]
    return CellVariables(tuple(alphas), jnp.asarray(betas))

  gammas = jnp.stack([normal(f'path_{m}_{j}')[:2] for m, j in gated]) if gated else None
  return Architecture(part('down'), part('up'), gammas)


@functools.partial(jax.jit, static_argnames='size')
def _draw(key: jax.Array, index: int, size: int) -> jax.Array:
  return 1e-3 * jax.random.normal(jax.random.fold_in(key, index), (size,))


class Supernet(nn.Module):
  """Supernet: all networks of the space at once, mixed by the architecture variables.

  The sampling `shuffle` takes the first channels and shuffles all afterwards; `random` takes a
  subset drawn by the key, or the first ones without a key, and does not shuffle.
  """

  classes: int  # K, background included
  channels: int = 32  # channels of every cell; a multiple of `sample`
  depth: int = 5  # levels below the full size
  nodes: int = 2  # nodes of a cell
  sample: int = 4  # inverse of the share of channels that goes through the candidates
  sampling: Literal['shuffle', 'random'] = 'shuffle'
  cell_path: bool = False  # whether the skippable cells have gates
  operations: tuple[str, ...] = ()  # names of the candidates; () stands for all
  remat: bool = False  # whether the derivative recomputes cells from their inputs

  @nn.compact
  def __call__(
    self, image: jax.Array, architecture: Architecture, key: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits [B, H, W, K] of an image [B, H, W, C]; the key draws the random sample."""
    if self.channels % self.sample:
      raise ValueError(f'channels={self.channels} is not a multiple of sample={self.sample}')
    if self.cell_path != (architecture.gammas is not None):
      found = 'no' if self.cell_path else 'some'
      raise ValueError(
        f'cell_path={self.cell_path}, but there are {found} gammas; expected both or neither'
      )
    if self.sampling == 'shuffle':
      if key is not None:
        raise ValueError("a key needs sampling='random'; sampling='shuffle' draws nothing")
      sampling = shuffled_sampling(self.channels, self.sample)
    else:
      order = jnp.arange(self.channels)
      order = order if key is None else jax.random.permutation(key, order)
      sampling = random_sampling(order)
    weights = architecture_weights(architecture, nodes=self.nodes)
    mixers = {kind: self._mixers(kind, getattr(weights, kind)) for kind in CELL_KINDS}
    mixed_cell = nn.remat(MixedCell) if self.remat else MixedCell

    def cell(kind: CellKind, name: str, in0: jax.Array, in1: jax.Array) -> jax.Array:
      return mixed_cell(kind, self.nodes, name=name)(in0, in1, next(mixers[kind]), sampling)

    gates = {} if weights.gates is None else dict(zip(self.gated, weights.gates, strict=True))
    return run_grid(self, image, cell, gates=gates)

  @property
  def gated(self) -> tuple[GridCell, ...]:
    """Cells that have a gate."""
    return space.skippable_cells(self.depth) if self.cell_path else ()

  def _mixers(self, kind: CellKind, part: CellWeights) -> Iterator[tuple[Mixer, ...]]:
    """Returns the mixers of a kind's cells: for each cell a tuple with one mixer per state."""
    mixers = []
    for source in range(self.nodes + 1):
      targets = space.targets_of(source, nodes=self.nodes)
      edges = np.array([space.edge_count(node) + source for node in targets])
      module = MixedEdges(
        space.candidates(space.resample_of(kind, source), self.operations),
        self.channels // self.sample,
        edges=len(edges),
        cells=space.cell_count(kind, depth=self.depth),
        name=f'{kind}_from_{source}',
      )
      alphas = jnp.stack([part.alphas[edge] for edge in edges])
      mixers.append(module(alphas, part.betas[edges]))
    return zip(*mixers, strict=True)


class DerivedNetwork(nn.Module):
  """The network of a genotype."""

  genotype: Genotype
  classes: int  # K, background included
  channels: int = 32  # channels of every cell
  depth: int = 5  # levels below the full size
  norm: str = 'group'  # norm after every convolution, see ops.make_norm
  deep_supervision: bool = False  # whether the logits of every X[k, 0] are returned, stacked
  remat: bool = False  # whether the derivative recomputes cells from their inputs

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Returns logits [B, H, W, K] (deep supervision: [.., B, H, W, K]) of image [B, H, W, C]."""
    require_depth(self.genotype, self.depth)
    derived_cell = nn.remat(DerivedCell) if self.remat else DerivedCell
    cells = {}  # deep supervision runs the head on several levels: one shared module

    def cell(kind: CellKind, name: str, in0: jax.Array, in1: jax.Array) -> jax.Array:
      if name not in cells:
        cells[name] = derived_cell(kind, getattr(self.genotype, kind), self.norm, name=name)
      return cells[name](in0, in1)

    return run_grid(
      self,
      image,
      cell,
      norm=self.norm,
      skipped=self.genotype.skipped,
      deep_supervision=self.deep_supervision,
    )
