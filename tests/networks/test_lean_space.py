"""The space of lean shapes: draws, mutations, and what a genotype file may hold."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

from thrifty_jax import records
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype, lean_space
from thrifty_jax.networks.lean import LeanNetwork
from thrifty_jax.networks.lean_space import LEVELS, MULTIPLE, LeanShape

SHIPPED = Path(genotype.__file__).parents[1] / 'genotypes'
SHAPES = [lean_space.draw(np.random.default_rng(seed)) for seed in range(200)]


def test_draws_reach_every_choice():
  assert {shape.stem for shape in SHAPES} == {1, 2, 4}
  assert {shape.up for shape in SHAPES} == {*lean_space.UPSAMPLINGS}
  assert {shape.skip for shape in SHAPES} == {*lean_space.SKIPS}
  assert {len(shape.levels) for shape in SHAPES} == {*range(LEVELS[0], LEVELS[1] + 1)}
  assert {level.block for shape in SHAPES for level in shape.levels} == {*lean_space.DRAWN}
  assert {level.encoder for shape in SHAPES for level in shape.levels} == {1, 2}
  assert all(level.width % MULTIPLE == 0 for shape in SHAPES for level in shape.levels)


def test_the_shapes_that_come_with_the_project_are_read():
  titles = {
    'lean_0.48m': 'half 16 32 64 128 concat',
    'lean_0.42m': 'half 24 32 48 72 96 add',
  }
  for path in SHIPPED.glob('lean_*.json'):
    shape, told = genotype.load_any(path), json.loads(path.read_text())['provenance']
    assert isinstance(shape, LeanShape) and shape.norm == 'batch'
    assert shape.title.startswith(titles.pop(path.stem))
    network: nn.Module = LeanNetwork(shape, classes=2)
    assert build.count_shapes(build.find_shapes(network, 1)) == told['parameters']
  assert not titles


def test_a_seed_draws_one_shape():
  assert lean_space.draw(np.random.default_rng(3)) == SHAPES[3]


def test_a_genotype_file_gives_a_shape_back(tmp_path):
  for shape in SHAPES[:20]:
    genotype.save(tmp_path / 'genotype.json', shape, provenance={'seed': 1})
    assert genotype.load_any(tmp_path / 'genotype.json') == shape


def test_a_mutation_changes_one_choice_and_stays_in_the_space(tmp_path):
  generator = np.random.default_rng(0)
  for shape in SHAPES:
    changed = lean_space.mutate(shape, generator)
    lean_space.read(records.to_json(changed), tmp_path)  # raises if it is outside
    differing = [
      field.name
      for field in dataclasses.fields(LeanShape)
      if getattr(shape, field.name) != getattr(changed, field.name)
    ]
    assert len(differing) == 1


def test_a_mutation_is_another_network():
  # A convolution on the way up means nothing at the lowest level.
  shape, generator = lean_space.unet(8, levels=3), np.random.default_rng(0)
  *upper, lowest = shape.levels
  twin = dataclasses.replace(
    shape, levels=(*upper, dataclasses.replace(lowest, decoder=lowest.decoder - 1))
  )
  assert shape.effective == twin.effective and shape != twin
  mutants = [lean_space.mutate(shape, generator) for _ in range(500)]
  assert twin not in mutants and shape not in mutants


def test_mutations_reach_another_shape():
  # From a U-Net to a shape with another stem, upsampling, skip, block and number of levels.
  generator, shape = np.random.default_rng(0), lean_space.unet(8)
  seen = [shape := lean_space.mutate(shape, generator) for _ in range(300)]
  assert {one.stem for one in seen} == {1, 2, 4}
  assert {len(one.levels) for one in seen} == {*range(LEVELS[0], LEVELS[1] + 1)}
  assert {one.skip for one in seen} == {*lean_space.SKIPS}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'stem': 3}, 'stem is 3, expected a whole number 1, 2 or 4'),
    ({'norm': 'layer'}, "norm is 'layer', expected batch or group or none"),
    ({'levels': []}, 'shape has 0 levels, expected 3 to 6'),
    ({'levels': [{'width': 8}] * 3}, 'levels[0].encoder is missing'),
    (
      {'levels': [{'width': 0, 'encoder': 1, 'decoder': 1, 'block': 'plain'}] * 3},
      'levels[0].width is 0, expected a whole number from 1 to 1024',
    ),
  ],
)
def test_an_impossible_shape_is_refused_by_name(tmp_path, change, message):
  path = tmp_path / 'genotype.json'
  genotype.save(path, lean_space.unet(8))
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {'shape': content['shape'] | change}))
  with pytest.raises(InputError) as error:
    genotype.load_any(path)
  assert message in str(error.value)


def test_a_file_of_a_later_version_is_refused(tmp_path):
  path = tmp_path / 'genotype.json'
  genotype.save(path, lean_space.unet(8))
  path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
  with pytest.raises(InputError, match='version 3'):
    genotype.load_any(path)
