"""The time of a network that its genotype tells: the words for it, and what is no time."""

from thrifty_jax import settings
from thrifty_jax.networks import genotype, lean_space
from thrifty_jax.reporting import raced_time

TOLD = {
  'ms': 3.684, 'runtime': 'jax', 'precision': 'float32', 'size': 128, 'threads': 2,
  'machine': 'a 4 x 4 processor',
}  # fmt: skip


def test_every_runtime_that_can_be_timed_has_a_title():
  assert {*raced_time.TITLES} == {*settings.COST_RUNTIMES} - {'installed', 'all'}
  found = [raced_time.describe_way(*way) for way in (('jax', 'float32'), ('openvino', 'int8'))]
  assert found == ['JAX in float32', 'OpenVINO in 8 bits']
  assert raced_time.describe_way('another', 'float16') == 'another in float16'  # of a later version


def test_the_sign_between_the_sides_is_not_looked_for_in_the_name_of_the_processor():
  found = raced_time.find(TOLD | {'search': 'race'})
  assert found is not None
  assert raced_time.describe(found, 'window', cross='×') == (
    '3.68 ms for a window of 128 × 128 pixels in JAX in float32 on 2 threads of a 4 x 4 processor, '
    'by a race that timed it'
  )


def test_a_time_is_read_from_a_genotype_and_a_baseline_has_none(tmp_path):
  path, shape = tmp_path / 'genotype.json', lean_space.unet(8, levels=3)
  assert raced_time.read(path) is None
  for provenance in (TOLD, {'search': 'race'}):
    genotype.save(path, shape, provenance=provenance)
    assert raced_time.read(path) == raced_time.find(provenance)
  assert raced_time.find(TOLD) and not raced_time.find({'search': 'race'})
