"""What a network takes of another with the same genotype: the same function where both agree."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from thrifty_jax import config as configs
from thrifty_jax.networks import build, genotype, transfer
from thrifty_jax.networks.lean_space import BLOCKS, LeanShape, Level
from thrifty_jax.networks.model_spec import make_spec

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

CELLS = genotype.Genotype(
  down=(((0, 'down_sep_conv_3x3'), (1, 'down_max_pool')),),
  up=(((0, 'conv_3x3'), (1, 'up_conv_3x3')),),
)
# Another block, stem and norm in each; the first level is as wide as the input of one of them.
LEAN = {
  block: LeanShape(
    (Level(4, 1, 1, block), Level(6, 1, 1, 'plain'), Level(8, 1, 0, 'plain')),
    stem=stem,
    up='nearest',
    skip='concat',
    norm=norm,
  )
  for block, stem, norm in zip(
    BLOCKS, (4, 2, 1, 2), ('batch', 'none', 'batch', 'group'), strict=True
  )
}
NETWORKS = {**LEAN, 'thrifty': CELLS, 'unet': None, 'unet_plus_plus': None}
OLD = ('background', 'liver', 'spleen')


def make(name, *, classes=OLD, modalities=1, context=0, seed=0):
  """A network of the table, its description, and weights of which none is zero."""
  config = configs.default()
  found = NETWORKS[name]
  config.model.update({'name': 'lean' if name in LEAN else name, 'depth': 3, 'channels': 4})
  config.model.update({'width': 2, 'deep_supervision': name == 'unet_plus_plus'})
  config.data.update({'classes': classes, 'modalities': modalities, 'context': context})
  spec = make_spec(config, {'mean': np.zeros(modalities), 'std': np.ones(modalities)})
  net = build.build(spec, found)
  params = build.initialise(build.find_shapes(net, spec.image_channels), seed=seed)
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')
  generator = np.random.default_rng(seed)
  moved = {key: leaf + generator.uniform(0.1, 0.2, leaf.shape) for key, leaf in flat.items()}
  return net, spec, {key: jnp.asarray(leaf, jnp.float32) for key, leaf in moved.items()}


def taken(new, old, *, rest=None):
  """The new network's weights after the transfer; `rest` is put where nothing is taken."""
  (net, spec, ours), (other_net, other, theirs) = new, old
  planned = transfer.plan(net, spec, other_net, other)
  filled = {}
  for name, leaf in ours.items():
    drawn = np.asarray(leaf) if rest is None else np.full(leaf.shape, rest, np.float32)
    filled[name] = transfer.fill(drawn, theirs[name], planned[name]) if name in planned else drawn
  return planned, {name: jnp.asarray(leaf) for name, leaf in filled.items()}


def logits(net, params, image):
  nested = traverse_util.unflatten_dict(params, sep='/')
  background = np.zeros(image.shape[-1])
  return np.asarray(build.take_last(build.apply(net, nested, image, background=background)))


@pytest.mark.parametrize('name', NETWORKS)
def test_the_same_channels_and_classes_take_every_tensor_bit_for_bit(name):
  new, old = make(name, seed=1), make(name)
  planned, filled = taken(new, old)
  assert planned.keys() == new[2].keys() and {*planned.values()} == {None}
  for key, leaf in old[2].items():
    np.testing.assert_array_equal(filled[key], leaf)


@pytest.mark.parametrize('name', NETWORKS)
def test_the_middle_slices_keep_their_filters_and_named_classes_their_logits(name):
  """With nothing at what is new, the network computes what the other did, whatever its order."""
  classes = ('background', 'spleen', 'lesion', 'liver')
  old = make(name, modalities=2)
  new = make(name, modalities=2, context=1, classes=classes, seed=1)
  planned, filled = taken(new, old, rest=0.0)
  partly = {key for key, slot in planned.items() if slot is not None}
  assert (
    partly and all('classes' in key or key.split('/')[0] in new[0].encoder for key in partly)
    if name != 'thrifty'
    else partly == {'stem/kernel', 'classes/kernel'}
  )
  image = np.random.default_rng(0).normal(size=(2, 16, 16, 6)).astype(np.float32)
  found = logits(new[0], filled, image)
  expected = logits(old[0], old[2], image[..., 2:4])
  shared = [classes.index(one) for one in OLD]
  np.testing.assert_allclose(found[..., shared], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['plain', 'unet'])
def test_other_channels_and_other_organs_are_drawn_anew(name):
  old = make(name, context=1)
  # Three channels as before, but not the same ones.
  planned, _ = taken(make(name, modalities=3, classes=('background', 'a', 'b')), old)
  lost = old[2].keys() - planned.keys()
  assert any(key.split('/')[0] in old[0].encoder for key in lost)
  assert all(key.startswith('classes') or key.split('/')[0] == old[0].encoder[0] for key in lost)
  assert {key for key in old[2] if key.startswith('classes')} <= lost
  assert {*planned.values()} == {None}


def test_levels_beyond_the_encoder_cannot_be_frozen():
  net, spec, _ = make('plain')
  frozen, names = build.freeze(net, 2)
  assert names == ('encoder_0', 'encoder_1')
  assert frozen == net.copy(frozen=2) and build.freeze(net, 0) == (net, ())
  assert build.find_shapes(frozen, spec.image_channels) == build.find_shapes(net, 1)
  with pytest.raises(ValueError, match='4 levels of 3'):
    build.freeze(net, 4)


def test_regions_take_no_scores_of_classes_with_their_names():
  old, new = make('plain'), make('plain', seed=1)
  regions = dataclasses.replace(new[1], regions=((1, 2), (2,)))
  planned, _ = taken((new[0], regions, new[2]), old)
  both, _ = taken((new[0], regions, new[2]), (old[0], regions, old[2]))
  head = {*both} - {*planned}
  assert {*both} == {*new[2]}
  assert head and all(name.startswith('classes') for name in head)
