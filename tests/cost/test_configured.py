"""Networks of configs are timed in turns; each has the time of the way that is fastest for it."""

import dataclasses

import pytest

from thrifty_jax import config as configs
from thrifty_jax.cost import configured, runtimes
from thrifty_jax.cost.costs import Cost
from thrifty_jax.networks.lean_space import LeanShape, Level
from thrifty_jax.run_files import Timed

SHAPE = LeanShape((Level(8, 1, 1, 'plain'),) * 2, 1, 'nearest', 'add', 'batch')


@pytest.fixture
def networks():
  """A U-Net and a lean network of three classes, for slices of 16 x 16."""
  found = {}
  for name, genotype in (('unet', None), ('lean', SHAPE)):
    config = configs.default()
    config.data.update({'image_size': 16, 'classes': ('background', 'grey', 'white')})
    config.model.update({'name': name, 'width': 4, 'norm': 'batch'})
    found[name] = (config, genotype)
  return found


def test_each_has_the_time_of_its_fastest_way(networks, monkeypatch):
  way = {'space': 'lean', 'parameters': 1, 'macs': 1, 'activation_bytes': None, 'size': 16,
         'runtime': 'onnxruntime', 'threads': 1, 'title': '', 'ms_spread': 0.1, 'file_bytes': 1,
         'machine': 'a processor'}  # fmt: skip
  asked = []

  def measure(candidates, ways, **options):
    asked.append(([one.name for one in candidates], ways, options))
    times = {('unet', 'int8'): 2.0, ('unet', 'float32'): 3.0, ('lean', 'int8'): 5.0}
    times['lean', 'float32'] = 4.0
    rows = [Cost(name=name, precision=p, ms=ms, **way) for (name, p), ms in times.items()]
    return sorted(rows, key=lambda cost: cost.ms)

  monkeypatch.setattr(configured.costs, 'measure', measure)
  monkeypatch.setattr(runtimes.importlib.util, 'find_spec', lambda name: name != 'openvino' or None)
  found = configured.time_in_turns(networks)
  assert {name: (one.ms, one.precision) for name, one in found.items()} == {
    'unet': (2.0, 'int8'),
    'lean': (4.0, 'float32'),
  }
  ((names, ways, options),) = asked
  assert names == ['unet', 'lean'] and [one.precision for one in ways] == ['float32', 'int8']
  assert options['threads'] == 1


def test_real_networks_are_timed(networks):
  pytest.importorskip('onnxruntime')
  for config, _ in networks.values():
    config.cost.precision = 'float32'
    config.cost.runtime = 'onnxruntime'
  found = configured.time_in_turns(networks)
  assert {*found} == {'unet', 'lean'}
  config, _ = networks['unet']
  for one in found.values():
    assert 0 < one.ms < 1000 and (one.size, one.runtime) == (16, 'onnxruntime')
    assert configured.is_asked(one, config)


def test_without_a_runtime_a_line_says_so(networks, monkeypatch, capsys):
  monkeypatch.setattr(runtimes.importlib.util, 'find_spec', lambda name: None)
  assert configured.time_in_turns(networks) == {}
  assert 'not measured in onnxruntime: not installed: onnx, onnxruntime' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('changes', 'asked'),
  [
    ({}, True),
    ({'precision': 'float32'}, False),
    ({'threads': 2}, False),
    ({'size': 16}, True),
    ({'size': 32}, False),
    ({'runtime': 'jax'}, False),
  ],
)
def test_a_time_is_one_that_the_config_asks_for_or_not(networks, changes, asked):
  config, _ = networks['unet']
  timed = Timed(5.0, 0.1, 'onnxruntime', 'int8', threads=1, size=16, machine='a processor')
  config.cost.update(changes)
  assert configured.is_asked(timed, config) == asked
  other = dataclasses.replace(timed, precision='float32')
  config.cost.update({'precision': 'int8', 'runtime': 'installed'})
  assert not configured.is_asked(other, config)
