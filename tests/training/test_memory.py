"""A step that does not fit is refused with what would fit; memory that ran out is bad input."""

import functools
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines
from thrifty_jax.settings import SETTINGS, TRAINING
from thrifty_jax.training import memory, train_step
from thrifty_jax.training.memory import Room

GIB = 2**30


def planned(*, fixed=1.0, temporary=8.0, platform='gpu'):
  """A compiled step as far as its memory goes, in GiB: state in and out shares its memory."""
  plan = types.SimpleNamespace(
    argument_size_in_bytes=int(fixed * GIB),
    output_size_in_bytes=GIB,
    alias_size_in_bytes=GIB,
    temp_size_in_bytes=int(temporary * GIB),
  )
  device = types.SimpleNamespace(platform=platform, device_kind='Fake', memory_stats=lambda: None)
  return types.SimpleNamespace(memory_analysis=lambda: plan), [device]


@pytest.fixture
def told(monkeypatch, capsys):
  """The function from a step, the room and settings to what is said, 'refused' or not."""

  def tell(
    most, *, now=None, resident=0.0, stage='retrain', platform='gpu', quiet=False, norm='none',
    **settings,
  ):  # fmt: skip
    config = configs.default()
    config.model.norm = norm
    config[stage].update(settings)
    step, devices = planned(platform=platform)
    monkeypatch.setattr(memory, '_devices_of', lambda step: devices)
    examples: list[Any] = [types.SimpleNamespace(bytes=int(resident * GIB), budget_bytes=2 * GIB)]
    room = Room(int(most * GIB), int((now or most) * GIB), 'the Fake')
    try:
      memory.require_fit(step, config, stage, examples=examples, room=room, quiet=quiet)
    except InputError as error:
      return f'refused: {error}'
    return capsys.readouterr().out

  return tell


def test_what_fits_is_told_with_what_there_is(told):
  assert 'a step needs 9.00 GiB of the Fake, which has 9.50 GiB' in told(9.5)
  assert told(9.5, quiet=True) == ''
  assert told(8.9, quiet=True).startswith('refused')
  assert told(8.9).startswith('refused: retrain: a step needs 9.00 GiB of the Fake, which has 8.90')


@pytest.mark.parametrize(
  'room,settings,expected',
  [
    (8.9, {}, 'set --config.retrain.microbatches=2, which needs about 5.00 GiB'),
    (3.1, {}, 'set --config.retrain.microbatches=4, which needs about 3.00 GiB'),
    (3.1, {'batch_size': 10}, 'set --config.retrain.microbatches=5, which needs about 2.60 GiB'),
    # What is planned is that of a third already.
    (3.1, {'microbatches': 3}, 'set --config.retrain.microbatches=12, which needs about 3.00 GiB'),
    (3.1, {'stage': 'search'}, 'set --config.search.microbatches=4, which needs about 3.00 GiB'),
    (9.5, {'resident': 1.0}, 'set --config.data.device_budget_bytes=0, which needs about 9.00 GiB'),
    (3.1, {'resident': 1.0}, 'set --config.retrain.microbatches=12, which needs about 2.67 GiB'),
    (
      2.5,
      {'resident': 1.0},
      'microbatches=6 --config.data.device_budget_bytes=0, which needs abou',
    ),
    (
      1.2,
      {},
      'one slice are too large; set --config.retrain.remat=True, or a smaller config.data.im',
    ),
    (
      1.2,
      {'remat': True},
      'one slice are too large; set a smaller config.data.image_size or network',
    ),
    # Batch norms take statistics of a whole batch.
    (1.2, {'norm': 'batch', 'platform': 'cpu'}, 'set --config.retrain.batch_size=6, or a smaller'),
    (1.2, {'platform': 'cpu'}, 'one slice are too large; set a smaller config.data.image_size'),
    # Also refused where a training goes on, which keeps these settings.
    (1.2, {'remat': True}, 'network, in another --workdir if retrain is half done'),
    (
      1.2,
      {'remat': True, 'stage': 'search'},
      'config.search.channels, in another --workdir if search is half done',
    ),
  ],
)
def test_the_least_change_that_fits_is_named(told, room, settings, expected):
  message = told(room, **settings)
  assert message.startswith('refused: ') and expected in message and '\n' not in message


def test_memory_that_others_hold_now_is_no_reason_to_stop(told):
  said = told(20.0, now=8.0, platform='cpu')
  assert not said.startswith('refused') and 'which has 8.00 GiB left now' in said
  assert 'set --config.retrain.microbatches=2, which needs about 5.00 GiB' in said


@functools.cache
def compiled(parts):
  """A training step of a tiny network on 4 slices of 128 pixels."""
  net = baselines.UNetPlusPlus(2, nested=False, widths=(4, 8), norm='group')
  image = jax.ShapeDtypeStruct((4, 128, 128, 1), np.float32)
  batch = {'image': image, 'label': jax.ShapeDtypeStruct(image.shape[:3], np.int32)}
  state, _ = train_step.init_state(net, optax.sgd(0.1), image, seed=0)
  step = train_step.make_train_step(
    net,
    optax.sgd(0.1),
    augment=lambda key, batch: batch,
    average_decay=0,
    seed=0,
    background=(0.0,),
    parts=parts,
  )
  return jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def test_the_number_of_microbatches_that_is_proposed_fits_in_truth():
  config = configs.default()
  config.retrain.batch_size = 4
  whole, half = (memory._need(compiled(parts), (), copies=1) for parts in (1, 2))
  assert whole is not None and half is not None
  room = Room(sum(whole) * 6 // 10, sum(whole), 'this test')
  with pytest.raises(InputError, match='microbatches=2, which needs about') as refused:
    memory.require_fit(compiled(1), config, 'retrain', room=room)
  about = float(re.findall(r'about ([\d.]+) MiB', str(refused.value))[0]) * 2**20
  config.retrain.microbatches = 2
  memory.require_fit(compiled(2), config, 'retrain', room=room)
  assert sum(half) == pytest.approx(about, rel=0.15)


def test_the_smallest_of_several_devices_counts_and_one_that_does_not_tell_is_not_judged():
  def fake(limit):
    stats = None if limit is None else {'bytes_limit': limit}
    return types.SimpleNamespace(device_kind='NVIDIA H100', memory_stats=lambda: stats)

  room = memory.accelerator_room([fake(7), fake(5)])
  assert room == Room(5, 5, "JAX's share of NVIDIA H100")
  assert memory.accelerator_room([fake(7), fake(None)]) is None


def test_the_cpu_has_what_the_machine_and_every_group_of_the_process_allow(tmp_path, monkeypatch):
  meminfo, status, own = (tmp_path / name for name in ('meminfo', 'status', 'cgroup'))
  meminfo.write_text('MemTotal: 9 kB\nMemAvailable:    3145728 kB\n')
  status.write_text('VmRSS:\t 1048576 kB\n')
  groups = tmp_path / 'groups'
  (groups / 'job' / 'step').mkdir(parents=True)
  own.write_text('4:memory:/other\n0::/job/step\n')
  for name, value in (
    ('_MEMINFO', meminfo), ('_STATUS', status), ('_OWN_CGROUP', own), ('_CGROUPS', groups)
  ):  # fmt: skip
    monkeypatch.setattr(memory, name, value)
  machine = memory.cpu_room()
  assert machine is not None and machine.now == min(machine.most, 4 * GIB)  # 3 and its own

  def limit(folder, most, used, cache):
    (folder / 'memory.max').write_text(f'{most}\n')
    (folder / 'memory.current').write_text(f'{used}\n')
    (folder / 'memory.stat').write_text(f'anon 5\ninactive_file {cache}\n')

  limit(groups / 'job' / 'step', 'max', 5, 0)
  assert memory.cpu_room() == machine
  limit(groups / 'job', 2 * GIB, GIB + GIB // 2, GIB // 4)  # the group above counts too
  assert memory.cpu_room() == Room(2 * GIB, GIB * 7 // 4, 'the memory here')


def test_the_devices_of_a_step_are_those_that_it_was_compiled_for():
  step = jax.jit(lambda x: x + 1).lower(jnp.zeros(3)).compile()
  assert memory._devices_of(step) == [jax.devices()[0]]


ON = ': the same command then goes on; or in another --workdir'
OF_CELLS = f'set --config.search.microbatches=2{ON} take a smaller config.data.image_size or config'
FINER = 'set --config.retrain.microbatches=2, or set --config.evaluate.batch_size=8 if it was valid'
OF_LEAN = f'set --config.evaluate.batch_size=8 if it was validating{ON} set --config.retrain.batch_'
SMALLER = 'set --config.retrain.batch_size=6, or take a smaller config.data.image_size or network'


@pytest.mark.parametrize(
  'stage,model,advice',
  [
    ('search', 'thrifty', OF_CELLS),
    ('search', 'lean', OF_LEAN),
    ('compare', 'thrifty', FINER),
    ('retrain', 'unet', FINER),
    ('front', 'lean', OF_LEAN),
    ('front', 'thrifty', OF_LEAN),  # its networks have batch norms whatever the model
    ('planes', 'lean', SMALLER),
    ('sizes', 'lean', SMALLER),
    ('evaluate', 'lean', 'set --config.evaluate.batch_size=8'),
  ],
)
def test_memory_that_runs_out_is_bad_input_with_advice(stage, model, advice):
  config = configs.default()
  config.model.name = model
  with (
    pytest.raises(InputError, match='out of memory') as told,
    memory.explain_exhaustion(config, stage),
  ):
    jnp.zeros((1 << 46,)).block_until_ready()  # 256 TiB: JAX's own error
  assert str(told.value).startswith(f'{stage}: ') and advice in str(told.value)
  assert '\n' not in str(told.value)


def test_a_training_that_has_begun_takes_what_the_same_command_is_to_set():
  for name in ('search.microbatches', 'search.remat', 'retrain.microbatches', 'retrain.remat'):
    assert not SETTINGS[name].stages
  assert not {*TRAINING} & {*SETTINGS['evaluate.batch_size'].stages}


def test_other_faults_of_the_runtime_stay_faults():
  with (
    pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'),
    memory.explain_exhaustion(configs.default(), 'search'),
  ):
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')
