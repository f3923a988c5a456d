"""The benchmarks: that they run and say what they promise, and that rivals compute the same."""

import functools
import importlib.util
import json
import os
import signal
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from benchmarks import (
  contenders,
  first_run,
  inference,
  input_pipeline,
  lean_space,
  measure,
  networks,
  retrain_step,
  search_step,
  table,
)
from benchmarks.plain_supernet import PlainSupernet
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.grid import Supernet, init_architecture
from thrifty_jax.networks.lean_space import unet
from thrifty_jax.networks.losses import segmentation_loss
from thrifty_jax.networks.space import targets_of
from thrifty_jax.running import command_line

ENVIRONMENT = {'python', 'jax', 'jaxlib', 'flax', 'thrifty_jax', 'commit', 'device', 'cores'}
TINY = ('--size=8', '--batch=1', '--channels=4', '--repeats=1')


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


BLACK = (0.0, 0.0)


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
  params = build.initialise(build.trace_shapes(ours, image, architecture), seed=0)
  params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), params)
  return ours, plain, image, params, architecture


def test_the_plain_supernet_gives_the_logits_of_the_fast_one(double_precision, quick_compilation):
  ours, plain, image, params, architecture = both_nets(depth=3, nodes=2)
  same = as_plain(params, ours)
  assert build.count(same) == build.count(params)
  got, expected = (
    jax.jit(functools.partial(build.apply, net, background=BLACK))(values, image, architecture)
    for net, values in ((ours, params), (plain, same))
  )
  np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_the_plain_supernet_has_the_gradients_of_the_fast_one(double_precision, quick_compilation):
  # Along a random direction in all variables: forwards, which compiles in half the time.
  ours, plain, image, params, architecture = both_nets(depth=2, nodes=1)
  rng = np.random.default_rng(1)
  label = jnp.asarray(rng.integers(0, 3, image.shape[:3]))
  way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), (params, architecture))

  def loss(net, params, architecture):
    return segmentation_loss(
      build.apply(net, params, image, architecture, background=BLACK), label
    )[0]

  gradient = jax.jit(jax.grad(functools.partial(loss, ours), argnums=(0, 1)))
  slopes = jax.tree.map(lambda a, b: (a * b).sum(), gradient(params, architecture), way)
  slope = jax.jit(lambda at, way: jax.jvp(functools.partial(loss, plain), at, way)[1])
  expected = slope((as_plain(params, ours), architecture), (as_plain(way[0], ours), way[1]))
  assert sum(jax.tree.leaves(slopes)) == pytest.approx(float(expected), rel=1e-9)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A folder in which the processes of these tests keep compiled programs."""
  return str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(autouse=True)
def quick_processes(monkeypatch):
  """Half the time to compile, in the processes that the benchmarks start."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')


def result_of(command, capsys, *arguments):
  """What a benchmark says in its last line; before, it has said a line for each measurement."""
  assert command(arguments) == 0
  *lines, last = capsys.readouterr().out.splitlines()
  result = json.loads(last)
  assert {*result} >= ENVIRONMENT | {'benchmark', 'load_before'}
  assert result['jax'] == jax.__version__
  for one in result['measurements']:
    assert 'error' not in one
    settings = list(one)[:2]
    said = [line for line in lines if all(f'{name} {one[name]}' in line for name in settings)]
    alike = [all(one[name] == other[name] for name in settings) for other in result['measurements']]
    assert len(said) == sum(alike)
  return result['measurements']


def require_figures(measurement, *names):
  """Figures are there, and are of something that took time or memory."""
  for name in names:
    assert measurement[name] > 0, name
  assert measurement['device']


STEP = ('median_step_s', 'median_worked_s', 'first_step_s', 'trace_s', 'compile_s', 'peak_rss_mb')


def test_search_step_says_what_the_supernet_takes(capsys, cache):
  arguments = (*TINY, '--depth=2', '--nodes=1', f'--cache={cache}')
  (found,) = result_of(search_step.main, capsys, *arguments)
  require_figures(found, *STEP, 'temp_mb', 'median_architecture_s', 'median_weights_s')
  assert found['first_step_s'] > found['trace_s'] + found['compile_s']
  halves = found['median_architecture_s'] + found['median_weights_s']
  assert found['median_step_s'] == pytest.approx(halves, rel=0.2, abs=0.01)


def test_search_step_sets_every_combination_against_the_plain_supernet(monkeypatch, capsys):
  def race(rivals, *, repeats):
    return {who: {'error': f'{made[2].contender} of {repeats}'} for who, made in rivals.items()}

  monkeypatch.setattr(contenders, 'race', race)
  assert search_step.main([*TINY, '--nodes', '1', '2', '--depth=2', '--against=plain']) == 1
  found = json.loads(capsys.readouterr().out.splitlines()[-1])['measurements']
  assert [(one['contender'], one['nodes'], one['error']) for one in found] == [
    (name, nodes, f'{name} of 1') for nodes in (1, 2) for name in ('supernet', 'plain')
  ]


@pytest.mark.parametrize(
  'who', [search_step.Contender('plain'), search_step.Contender('supernet')], ids=str
)
def test_a_contender_takes_the_steps_of_the_search(who, monkeypatch):
  def traced(programs, compiler):  # compiling takes half a minute
    as_jax_does = compiler is jax.stages.Lowered.compile
    assert as_jax_does == (who.contender == 'plain')
    for function, (seed, state, *batches) in programs:
      after, _ = jax.eval_shape(function, seed, state, *batches)
      assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    return [function for function, _ in programs], {}

  monkeypatch.setattr(measure, 'compile_all', traced)
  setting = search_step.Setting(channels=4, batch=1, size=8, nodes=1, depth=2, dtype='bfloat16')
  search_step.compiled_step(setting, who)


def test_retrain_step_says_what_a_network_takes(capsys):
  (found,) = result_of(retrain_step.main, capsys, *TINY, '--model=thrifty', '--depth=2')
  require_figures(found, *STEP, 'temp_mb', 'parameters', 'macs')


def test_retrain_step_takes_lean_networks_and_augments_their_slices(tmp_path, capsys):
  genotype.save(tmp_path / 'lean.json', unet(2, levels=3))
  model = f'--model={tmp_path / "lean.json"}'
  (found,) = result_of(retrain_step.main, capsys, *TINY, model, '--augment')
  require_figures(found, *STEP, 'temp_mb', 'parameters', 'macs')
  assert found['augment'] and found['norm'] is None and found['parameters'] < 10_000


def test_retrain_step_measures_every_network_with_every_norm_that_it_has(monkeypatch, capsys):
  def race(rivals, *, repeats):
    return {one: {'error': f'{one[0].norm} of {repeats}'} for one in rivals}

  monkeypatch.setattr(contenders, 'race', race)
  arguments = (*TINY, '--model', 'unet', 'thrifty', '--norm', 'none', 'group')
  assert retrain_step.main(arguments) == 1  # the errors
  found = json.loads(capsys.readouterr().out.splitlines()[-1])['measurements']
  assert [(one['name'], one['norm']) for one in found] == [
    ('unet', 'none'),
    ('unet', 'group'),
    ('thrifty', 'group'),
  ]


def test_retrain_step_takes_slices_of_the_type_that_it_is_told(monkeypatch):
  def traced(programs):
    ((_, (state, batch)),) = programs
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {'float32'}
    assert batch['image'].dtype == jnp.bfloat16
    return [lambda state, batch: (state, batch['image'].dtype)], {}

  monkeypatch.setattr(measure, 'compile_all', traced)
  retrain_step.start(networks.Network('unet', 16), 1, 'bfloat16', '')


def test_drawn_networks_are_timed_in_every_runtime_and_compared_with_their_macs(
  tmp_path, capsys, quick_compilation
):
  for package in ('onnx', 'onnxruntime', 'openvino'):
    pytest.importorskip(package)
  output = tmp_path / 'drawn.json'
  arguments = ['--networks=3', '--size=64', '--repeats=1', '--spread=100', f'--output={output}']
  assert lean_space.main(arguments) == 0
  drawn, lines = json.loads(output.read_text()), capsys.readouterr().out.splitlines()
  assert len(drawn) == 3
  assert all(cost['ms'] > 0 for one in drawn for cost in one['costs'].values())
  ways = {f'{cost["runtime"]} {cost["precision"]}' for cost in drawn[0]['costs'].values()}
  assert ways == {*drawn[0]['costs']} and len(ways) == 5
  assert sum('rank correlation with MACs' in line for line in lines) == len(ways)


def test_inference_says_what_each_runtime_takes(capsys):
  found = result_of(inference.main, capsys, *TINY, '--model=thrifty', '--depth=2')
  exports = all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime'))
  runtimes = ['JAX', 'ONNX', 'int8'] if exports else ['JAX']
  assert [one['runtime'] for one in found] == runtimes
  for one in found:
    require_figures(one, 'median_slice_ms', 'share_of_peak', 'first_batch_s', 'peak_rss_mb')
  require_figures(found[0], 'trace_s', 'compile_s', 'temp_mb', 'parameters', 'macs')


def test_input_pipeline_says_how_long_a_step_waits(capsys, cache):
  arguments = (*TINY, '--depth=2', '--nodes=1', '--steps=2', f'--cache={cache}')
  resident, streamed = result_of(input_pipeline.main, capsys, *arguments)
  for one in (resident, streamed):
    require_figures(one, 'slices_per_s', 'median_step_s', 'median_step_without_s', 'peak_rss_mb')
    share = 1 - one['median_step_without_s'] / one['median_step_s']
    assert one['wait_share'] == pytest.approx(share)
  assert resident['slices_per_s'] != streamed['slices_per_s']


# Stands in for the demo: says what a search says, by the program's own means.
DEMO = """
import sys, time
from thrifty_jax import logbook
from thrifty_jax.errors import InputError
from thrifty_jax import stages
from thrifty_jax.running import command_line

def work():
  logbook.say(f'\\n{stages.SEARCH.name}: {stages.SEARCH.does}')
  time.sleep(0.5)
  with logbook.progress(STEPS, 'search') as bar:
    for _ in range(STEPS):
      time.sleep(0.3)
      bar.update(1)
  time.sleep(1)
  if STEPS == 1:
    raise InputError('only one step')

sys.exit(command_line.exit_status(work))
"""


def demo(steps):
  return [sys.executable, '-c', DEMO.replace('STEPS', str(steps))]


@pytest.mark.parametrize('until', ['first_step', 'end'])
def test_first_run_says_when_the_first_step_ended(capsys, monkeypatch, until):
  monkeypatch.setattr(first_run, 'command', lambda config, place, cache: demo(5))
  found = result_of(first_run.main, capsys, f'--until={until}')
  assert [one['cache'] for one in found] == ['cold', 'warm']
  for one in found:
    require_figures(one, 'median_peak_rss_mb')
    began, stepped = one['median_search_began_s'], one['median_first_step_s']
    assert 0 < began < stepped - 0.5  # the second step is on the bar
    assert ('median_end_s' in one) == (until == 'end')
    if until == 'end':
      assert one['median_end_s'] > stepped + 1


def test_first_run_refuses_a_demo_that_fails(monkeypatch, capsys):
  monkeypatch.setattr(first_run, 'command', lambda config, place, cache: demo(1))
  assert first_run.main([]) == 2
  assert 'status 2: error: only one step' in capsys.readouterr().err


def test_the_demo_of_first_run_keeps_to_its_folders(tmp_path):
  place, cache = tmp_path / 'cold', tmp_path / 'cache'
  _, _, program, *arguments = first_run.command('configs/brain.py', place, cache)
  assert program == 'thrifty_jax.main'
  found = command_line.parse(arguments, stages=['all'])
  assert (found.workdir, found.config.data.data_dir) == (place / 'run', str(place / 'tfds'))
  assert found.config.compilation_cache == str(cache)


def dying(turns):
  """A contender whose process is killed at one of its turns."""

  def turn():
    nonlocal turns
    turns -= 1
    if turns < 0:
      os.kill(os.getpid(), signal.SIGKILL)
    return {'part_s': 1.0}

  return {'parameters': turns}, turn


def test_a_contender_that_is_killed_leaves_an_error_and_the_others_their_figures():
  found = contenders.race({'killed': (dying, 2), 'other': (dying, 9)}, repeats=2)
  assert found['killed']['parameters'] == 2
  assert 'status -9: killed, as where memory runs out' in found['killed']['error']
  assert (found['other']['median_part_s'], found['other']['repeats']) == (1, 2)
  assert found['other']['peak_rss_mb'] >= found['other']['before_mb'] > 0


@pytest.mark.parametrize(
  'main,arguments,said',
  [
    (search_step.main, ['--size=40'], '--size 40 is not a multiple of 32'),
    (search_step.main, ['--channels=6'], '--channels 6 is not a multiple of 4'),
    (search_step.main, ['--batch=3', '--devices=2'], '--batch 3 is not a multiple of --devices 2'),
    (search_step.main, ['--batch=0'], 'argument --batch: invalid positive value'),
    (first_run.main, ['--cache=warm'], 'needs what a cold run left'),
    (first_run.main, ['--workdir=x'], '--workdir=x: not known'),
  ],
)
def test_options_that_cannot_work_are_refused(main, arguments, said, capsys):
  with pytest.raises(SystemExit) as stopped:
    main(arguments)
  assert stopped.value.code == 2
  assert said in capsys.readouterr().err


def test_a_genotype_that_is_not_there_is_refused_before_any_work(capsys):
  for main in (retrain_step.main, inference.main):
    assert main(['--model', 'unet', 'absent.json']) == 2
    assert 'cannot read absent.json' in capsys.readouterr().err


def test_results_become_a_table(tmp_path, capsys):
  report = measure.Report('search_step')
  report.add({'channels': 8}, {'median_step_s': 0.12345, 'peak_rss_mb': 1234.5}, 'fast')
  report.add({'channels': 16}, {'error': 'it died'}, '')
  assert report.end() == 1
  (tmp_path / 'said.txt').write_text(capsys.readouterr().out)
  assert table.main([str(tmp_path / 'said.txt')]) == 0
  where, _, *lines = capsys.readouterr().out.strip().splitlines()
  assert f'jax {jax.__version__}' in where
  assert lines == [
    '| channels | median_step_s | peak_rss_mb | error |',
    '| --- | --- | --- | --- |',
    '| 8 | 0.123 | 1,234 |  |',
    '| 16 |  |  | it died |',
  ]


@pytest.mark.parametrize('text', ['', 'no JSON', '[1]', '{"benchmark": "search_step"}'])
def test_a_table_is_made_of_what_benchmarks_printed_alone(tmp_path, capsys, text):
  (tmp_path / 'said.txt').write_text(text)
  assert table.main([str(tmp_path / 'said.txt')]) == 2
  assert 'said.txt: ' in capsys.readouterr().err
