"""The training step, the choice of the best epoch, and a resumed run against an unbroken one."""

import json
import math
import signal
import time
import types
from typing import Any

import interrupted
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recorded import open_data, prepare_for
from tracker_files import read_tensorboard

from data_prep import phantom
from thrifty_jax import config as configs
from thrifty_jax import logbook, model_folder, stages, stopping
from thrifty_jax.data import split_file
from thrifty_jax.errors import InputError
from thrifty_jax.networks import build, genotype
from thrifty_jax.networks.model_spec import make_spec
from thrifty_jax.scores import cases, evaluate
from thrifty_jax.training import results, retrain, train_step
from thrifty_jax.training.train_data import Epochs, Facts, make_schedule

pytestmark = pytest.mark.usefixtures('quick_compilation_of_module')

BLACK = (0.0,)
FOUND = genotype.Genotype(
  down=(((0, 'down_max_pool'), (1, 'down_avg_pool')),),
  up=(((0, 'identity'), (1, 'up_conv_3x3')),),
)


@pytest.fixture(scope='module')
def config(tmp_path_factory, phantom_config):
  """A tiny network on phantoms; augmentation draws random numbers, but its warp costs too much."""
  folder = tmp_path_factory.mktemp('retrain')
  config = phantom_config(folder)
  config.data.image_size = 18  # filled up with the background to 20
  config.model.channels = 4
  config.model.depth = 2
  config.genotype = str(folder / 'genotype.json')
  genotype.save(folder / 'genotype.json', FOUND)
  settings = config.retrain
  settings.epochs = 4
  settings.batch_size = 4
  settings.warmup_epochs = 1
  settings.validate_every = 1
  settings.learning_rate = 0.01
  phantom.write_promise12(folder / 'raw', patients=6, seed=0)
  return config


@pytest.fixture(autouse=True)
def slices(config, tmp_path):
  """The run of each test has the prepared slices."""
  prepare_for(config, tmp_path)


@pytest.fixture(scope='module')
def opened(config):
  return open_data(config)


@pytest.fixture(scope='module')
def epochs(opened):
  return opened.epochs(opened.patients['train'], batch_size=4, seed=0)


@pytest.fixture(scope='module')
def net(config, opened):
  return build.build(make_spec(config, opened.statistics), FOUND)


@pytest.fixture(scope='module')
def program(config, epochs, net):
  """The step, compiled once for the runs of this file."""
  state, _, facts = train_step.start(config, epochs, net)
  program = train_step.compile_step(config, epochs, net, state, facts)
  program.wait()
  return program


@pytest.fixture(scope='module')
def unbroken(config, program, tmp_path_factory):
  """The workdir of a run that nothing stopped."""
  workdir = tmp_path_factory.mktemp('unbroken')
  prepare_for(config, workdir)
  retrain.retrain(config, workdir, program=program)
  return workdir


def entries_of(workdir):
  """The lines of metrics.jsonl less the seconds, which differ from run to run."""
  entries = logbook.Logbook(workdir / 'retrain').entries()
  return [{name: value for name, value in e.items() if name != 'seconds'} for e in entries]


def summary_of(workdir):
  summary = json.loads((workdir / 'retrain' / 'summary.json').read_text())
  return {name: value for name, value in summary.items() if name != 'seconds'}


def weights_of(workdir):
  return (workdir / 'model' / 'weights.safetensors').read_bytes()


# --- the step


@pytest.fixture(scope='module')
def trail(config, epochs, net):
  """The states and metrics of steps of the loop's own function on one batch, no augmentation."""
  transformation, _ = train_step.optimizer(config.retrain, facts_of(config.retrain, 10))
  image = epochs.train_data.image_shape(4)
  state, _ = train_step.init_state(net, transformation, image, seed=0)
  step = train_step.make_train_step(
    net,
    transformation,
    augment=lambda key, batch: batch,
    average_decay=0.8,
    seed=0,
    background=BLACK,
  )
  step = jax.jit(step)
  batch = next(epochs.batches(0))
  states, losses = [state], []
  for _ in range(20):
    state, metrics = step(state, batch)
    states.append(state)
    losses.append({name: float(value) for name, value in metrics.items()})
  return states, losses


def test_steps_of_the_loop_lower_the_loss_of_a_batch(trail):
  _, metrics = trail
  losses = [entry['loss'] for entry in metrics]
  assert losses[-1] < 0.8 * losses[0]
  assert metrics[-1]['dice'] > metrics[0]['dice']
  assert all(math.isfinite(value) for entry in metrics for value in entry.values())


def test_the_average_of_the_weights_is_that_of_a_loop_and_weighs_the_first_steps_less(trail):
  states, _ = trail
  expected = [np.asarray(leaf, float) for leaf in jax.tree.leaves(states[0].params)]
  for count, state in enumerate(states[1:]):
    decay = min(0.8, (1 + count) / (10 + count))
    leaves = jax.tree.leaves(state.params)
    expected = [
      decay * old + (1 - decay) * np.asarray(new, float)
      for old, new in zip(expected, leaves, strict=True)
    ]
    for found, value in zip(jax.tree.leaves(state.average), expected, strict=True):
      np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6)
  assert int(states[-1].step) == 20


def test_without_averaging_the_weights_themselves_are_kept(epochs, net):
  transformation = optax.sgd(0.1)
  image = epochs.train_data.image_shape(4)
  state, _ = train_step.init_state(net, transformation, image, seed=0)
  step = train_step.make_train_step(
    net,
    transformation,
    augment=lambda key, batch: batch,
    average_decay=0.0,
    seed=0,
    background=BLACK,
  )
  state, _ = jax.jit(step)(state, next(epochs.batches(0)))
  jax.tree.map(np.testing.assert_array_equal, state.average, state.params)


def test_one_program_serves_every_seed_fold_and_learning_rate(config, program, tmp_path):
  config = config.copy_and_resolve_references()
  config.seed, config.data.fold, config.retrain.learning_rate = 3, 1, 0.02
  prepare_for(config, tmp_path / 'own', tmp_path / 'served')
  retrain.retrain(config, tmp_path / 'own')
  retrain.retrain(config, tmp_path / 'served', program=program)
  assert_same_run(tmp_path / 'served', tmp_path / 'own')


# --- the optimiser


def tree_of(value):
  """A network's parameters, all alike."""
  shapes = {
    'kernel': (3, 3, 2, 4),
    'depthwise': (3, 3, 1, 4),
    'pointwise': (4, 4),
    'scale': (4,),
    'bias': (4,),
  }
  return {name: jnp.full(shape, value, jnp.float32) for name, shape in shapes.items()}


def settings_of(**changes):
  settings = configs.default().retrain
  settings.update(changes)
  return settings


def facts_of(settings, epoch_steps):
  return Facts(0, {}, epoch_steps, make_schedule(settings, settings.epochs))


def test_adamw_decays_kernels_only():
  settings = settings_of(learning_rate=0.1, weight_decay=0.5, warmup_epochs=0)
  transformation, _ = train_step.optimizer(settings, facts_of(settings, 10))
  params = tree_of(2.0)
  updates: Any = transformation.update(tree_of(0.0), transformation.init(params), params)[0]
  for name, update in updates.items():
    expected = 0.0 if name in ('scale', 'bias') else -0.1 * 0.5 * 2.0
    np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)


def test_sgd_adds_decay_to_the_clipped_gradient_of_all_as_pytorch_does():
  settings = settings_of(
    **{'optimizer': 'sgd', 'learning_rate': 0.1, 'weight_decay': 0.5, 'momentum': 0.9},
    **{'clip_norm': 3.0, 'warmup_epochs': 0, 'epochs': 10},
  )
  transformation, rate = train_step.optimizer(settings, facts_of(settings, 2))
  params: Any = tree_of(2.0)
  state = transformation.init(params)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  expected, velocity = 2.0, 0.0
  for step, gradient in enumerate([5.0, 0.01, -4.0]):
    updates, state = transformation.update(tree_of(gradient), state, params)
    params = optax.apply_updates(params, updates)
    clipped = gradient * min(1, 3.0 / (abs(gradient) * math.sqrt(count)))
    velocity = 0.9 * velocity + clipped + 0.5 * expected
    expected -= 0.1 * (1 + math.cos(math.pi * step / 20)) / 2 * velocity
    for leaf in jax.tree.leaves(params):
      np.testing.assert_allclose(leaf, expected, rtol=1e-5)
  assert np.asarray(rate(20)) == pytest.approx(0, abs=1e-9)


def test_the_learning_rate_rises_in_the_warm_up_and_falls_to_nothing():
  settings = settings_of(learning_rate=0.2, warmup_epochs=2, epochs=10)
  _, rate = train_step.optimizer(settings, facts_of(settings, 5))
  found = [np.asarray(rate(step)).item() for step in range(51)]
  for step in range(10):
    assert found[step] == pytest.approx(0.2 * step / 10, abs=1e-7)
  for step in range(10, 51):
    assert found[step] == pytest.approx(0.1 * (1 + math.cos(math.pi * (step - 10) / 40)), abs=1e-6)


# --- the loop


def test_a_line_per_epoch_and_a_summary_say_what_the_report_needs(unbroken, config, opened, epochs):
  entries, summary, steps = entries_of(unbroken), summary_of(unbroken), epochs.steps
  assert steps == len(opened.examples(opened.patients['train'])) // 4
  assert [entry['epoch'] for entry in entries] == [1, 2, 3, 4]
  assert [entry['step'] for entry in entries] == [steps * epoch for epoch in (1, 2, 3, 4)]
  _, rate = train_step.optimizer(config.retrain, epochs.facts)
  for entry in entries:
    assert entry['learning_rate'] == pytest.approx(np.asarray(rate(entry['step'] - 1)).item())
  loaded = model_folder.load(unbroken / 'model')
  assert summary['parameters'] == build.count(loaded.params)
  assert summary['model'] == 'thrifty' and summary['epochs'] == 4
  assert summary['genotype'] == config.genotype
  assert loaded.genotype == FOUND
  card = (unbroken / 'model' / 'card.md').read_text()
  digest = split_file.digest(opened.patients)
  assert loaded.spec.splits_sha256 == digest
  for text in (
    'Research use only',
    'Apache License',
    'Cite the method',
    'thrifty_jax.predict',
    digest,
  ):
    assert text in card


def test_the_model_has_the_ranges_of_its_training_scans_alone(unbroken, opened):
  found, prepared = model_folder.load(unbroken / 'model').spec.training_scans, opened.prepared
  chosen = [case for case in prepared.cases if case.patient in opened.patients['train']]
  assert found and len(chosen) < len(prepared.cases)
  slices = [case.slices for case in chosen]
  assert found['slices'] == (min(slices), max(slices))
  spacings = [side for case in chosen for side in case.spacing_mm[1:]]
  assert found['pixel_spacing_mm'] == pytest.approx([min(spacings), max(spacings)])
  medians = [np.median(prepared.read(case)['image'].astype(np.float32)) for case in chosen]
  assert found['intensity_0_p50'] == pytest.approx([min(medians), max(medians)])


def test_the_model_that_is_kept_scores_what_the_summary_says(unbroken, config, opened):
  loaded, summary = model_folder.load(unbroken / 'model'), summary_of(unbroken)
  predict = loaded.predict_with(batch_size=16)
  found = cases.validation_dsc(opened.prepared, opened.patients['validation'], predict)
  assert found == pytest.approx(summary['validation_dsc'], abs=1e-6)
  assert found == max(entry['validation_dsc'] for entry in entries_of(unbroken))


@pytest.fixture
def scripted(monkeypatch):
  """Lets a list say what each validation finds; gives the weights that were validated."""
  seen = []

  def script(*scores):
    remaining = iter(scores)

    def validation_dsc(prepared, patients, params, **more):
      seen.append(jax.tree.map(np.array, params))
      return next(remaining)

    # What predicts is the weights themselves.
    monkeypatch.setattr(results, 'make_predict', lambda *arguments: lambda params: params)
    monkeypatch.setattr(cases, 'validation_dsc', validation_dsc)
    monkeypatch.setattr(cases, 'judge', lambda *arguments, **more: ({}, ()))
    return seen

  return script


def same_weights(workdir, params):
  loaded = model_folder.load(workdir / 'model')
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


def test_the_best_epoch_is_chosen_by_validation_and_the_first_of_equals(
  config, program, scripted, tmp_path
):
  seen = scripted(0.2, 0.7, 0.7, 0.1)
  summary = retrain.retrain(config, tmp_path, program=program)
  assert (summary.best_epoch, summary.validation_dsc) == (2, 0.7)
  same_weights(tmp_path, seen[1])
  assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (seen[1], seen[3])), strict=True))


def test_an_epoch_between_validations_is_not_chosen_but_the_last_one_is_validated(
  config, program, scripted, tmp_path
):
  config = config.copy_and_resolve_references()
  config.retrain.validate_every = 3
  seen = scripted(0.2, 0.5)
  summary = retrain.retrain(config, tmp_path, program=program)
  assert len(seen) == 2
  assert ['validation_dsc' in entry for entry in entries_of(tmp_path)] == [False, False, True, True]
  assert summary.best_epoch == 4


def test_retraining_ends_when_nothing_gets_better_for_as_long_as_patience(
  config, program, scripted, tmp_path
):
  config = config.copy_and_resolve_references()
  config.retrain.patience = 2
  seen = scripted(0.5, 0.4, 0.3, 0.9)
  summary = retrain.retrain(config, tmp_path, program=program)
  assert (summary.epochs, summary.best_epoch, len(seen)) == (3, 1, 3)
  same_weights(tmp_path, seen[0])


def test_patience_shorter_than_the_time_between_validations_waits_for_one(
  config, program, scripted, tmp_path
):
  config = config.copy_and_resolve_references()
  config.retrain.patience = 1
  config.retrain.validate_every = 2
  seen = scripted(0.5, 0.6)
  summary = retrain.retrain(config, tmp_path, program=program)
  assert (summary.epochs, summary.best_epoch, len(seen)) == (4, 4, 2)


def assert_same_run(workdir, unbroken):
  assert entries_of(workdir) == entries_of(unbroken)
  assert summary_of(workdir) == summary_of(unbroken)
  assert weights_of(workdir) == weights_of(unbroken)
  # Parameters, their average, the optimiser's state, the best so far.
  folders = (run / 'retrain' / 'checkpoints' for run in (workdir, unbroken))
  found, expected = map(interrupted.last_state, folders)
  assert found.keys() == expected.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize('part', ['first', 'amid', 'end', 'last'])
def test_a_run_asked_to_stop_after_any_step_goes_on_with_the_same_bits(
  part, config, epochs, program, unbroken, tmp_path, stop_at, capsys
):
  steps = epochs.steps
  step = {'first': 1, 'amid': steps + steps // 2, 'end': 2 * steps, 'last': 4 * steps}[part]
  with stop_at(step), pytest.raises(stopping.Stopped, match='retrain is saved'):
    retrain.retrain(config, tmp_path, program=program)
  assert not (tmp_path / 'model').exists()
  retrain.retrain(config, tmp_path, program=program)
  assert f'after step {step}, in epoch {-(-step // steps)}' in capsys.readouterr().out
  assert_same_run(tmp_path, unbroken)


def test_a_line_that_was_written_after_the_last_save_is_written_again(
  config, program, unbroken, tmp_path, monkeypatch
):
  append = logbook.Logbook.append

  def stop(log, entry):
    append(log, entry)
    if entry['epoch'] == 2:
      raise RuntimeError('killed')

  config = config.copy_and_resolve_references()
  config.save_seconds = 0.0  # after every step: the last one's state is saved
  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='killed'):
    patch.setattr(logbook.Logbook, 'append', stop)
    retrain.retrain(config, tmp_path, program=program)
  assert len(entries_of(tmp_path)) == 2
  retrain.retrain(config, tmp_path, program=program)
  assert_same_run(tmp_path, unbroken)


def test_a_run_goes_on_neither_without_its_lines_nor_with_fewer_epochs(
  config, epochs, program, tmp_path, stop_at
):
  with stop_at(2 * epochs.steps + 1), pytest.raises(stopping.Stopped):
    retrain.retrain(config, tmp_path, program=program)
  shorter = config.copy_and_resolve_references()
  shorter.retrain.epochs = 3
  with pytest.raises(InputError, match=r'is half done with 4 epochs; .*retrain.epochs, not 3'):
    retrain.retrain(shorter, tmp_path, program=program)
  path = tmp_path / 'retrain' / 'metrics.jsonl'
  path.write_text(path.read_text().splitlines(keepends=True)[0])
  with pytest.raises(InputError, match=r'jsonl: has 1 of the 2 epochs that are done; put it back'):
    retrain.retrain(config, tmp_path, program=program)


def test_a_signal_during_validation_ends_it_and_validation_is_done_again(
  config, program, unbroken, tmp_path, monkeypatch
):
  validation_dsc = cases.validation_dsc

  def stopped(*arguments, **more):
    if len(entries_of(tmp_path)) == 1:
      raise stopping.Stopped(signal.SIGTERM)
    return validation_dsc(*arguments, **more)

  with monkeypatch.context() as patch, pytest.raises(stopping.Stopped, match='retrain is saved'):
    patch.setattr(cases, 'validation_dsc', stopped)
    retrain.retrain(config, tmp_path, program=program)
  retrain.retrain(config, tmp_path, program=program)
  assert_same_run(tmp_path, unbroken)


def test_a_best_epoch_before_the_stop_is_still_known_after_it(
  config, epochs, program, scripted, tmp_path, stop_at
):
  steps = epochs.steps
  first = scripted(0.3, 0.8)
  with stop_at(2 * steps + 1), pytest.raises(stopping.Stopped):
    retrain.retrain(config, tmp_path, program=program)
  scripted(0.1, 0.1)
  summary = retrain.retrain(config, tmp_path, program=program)
  assert (summary.best_epoch, summary.validation_dsc) == (2, 0.8)
  same_weights(tmp_path, first[1])


@pytest.mark.parametrize('stopped_in', [None, 0, 1, 3])
@pytest.mark.parametrize('parts', [1, 2])
def test_minutes_plan_the_epochs_that_fit_and_a_stop_changes_nothing(
  parts, stopped_in, config, epochs, program, tmp_path, monkeypatch, stop_at
):
  monkeypatch.setattr(results, 'count_parts', lambda *_: parts)
  steps = -(-epochs.steps // parts)
  assert steps > 1
  monkeypatch.setattr(results, 'SHARE_OF_PREDICTION', 0)
  # Every epoch takes a hundred minutes, with or without a validation.
  clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 6000)
  monkeypatch.setattr(results, 'time', clock)
  config = config.copy_and_resolve_references()
  config.retrain.update({'minutes': 520, 'epochs': 1, 'validate_every': 3 // parts})
  if stopped_in is not None:
    with stop_at(stopped_in * steps + 1), pytest.raises(stopping.Stopped):
      retrain.retrain(config, tmp_path, program=program)
    assert not stages.RETRAIN.is_done(tmp_path, config)
    monkeypatch.setattr(results, 'count_parts', None)  # what was planned is known
  summary = retrain.retrain(config, tmp_path, program=program)
  assert (summary.epochs, summary.planned_epochs, summary.steps) == (5, (5,), 5 * steps)
  found = entries_of(tmp_path)
  validated = [entry['epoch'] for entry in found if 'validation_dsc' in entry]
  assert validated == ([3, 5] if parts == 1 else [2, 4, 5])
  rates = [entry['learning_rate'] for entry in found]
  over = [number - 1 / steps for number in (1, 2, 3, 4)]  # of the 4 epochs of the fall
  expected = [0.005 * (1 + math.cos(math.pi * value / 4)) for value in over]
  assert rates[1:] == pytest.approx(expected, rel=1e-4)
  assert rates[0] == pytest.approx(0.01 * (1 - 1 / steps))
  assert stages.RETRAIN.is_done(tmp_path, config)


@pytest.mark.parametrize(
  ('steps', 'seconds', 'minutes', 'parts'),
  [
    (414, 0.05, 12, 1),  # a pass of 21 s
    (414, 0.74, 12, 5),  # of 5 min, and an epoch is a tenth of 12
    (414, 0.74, 0.01, 414),  # no epoch is less than a step
    (11, 1, 0.2, 6),  # one of two steps, as ten make no pass of whole steps
  ],
)
def test_an_epoch_of_a_training_for_a_time_is_at_most_a_tenth_of_it(steps, seconds, minutes, parts):
  assert results.count_parts(steps, seconds, minutes) == parts


@pytest.mark.parametrize(
  ('minutes', 'seconds', 'validation', 'planned'),
  [
    (10, [120], 0, 5),  # four more of two minutes
    (10, [180, 60], 0, 5),  # three more of two minutes
    (30, [90] + [30] * 20, 0, 58),  # the last twenty tell: 37 more
    (10, [60, 60, 60, 600], 0, 5),  # none fits, one goes on
    (10, [60], 300, 5),  # four more minutes, and five for the only validation
  ],
)
def test_epochs_are_planned_by_what_the_last_ones_took(
  minutes, seconds, validation, planned, config, epochs, net
):
  state, best, _ = train_step.start(config, epochs, net)
  progress = results.Progress(state, best, planned=(100,), timed=True, epoch=len(seconds))
  progress.replan(minutes, seconds, validation=validation)
  assert progress.epochs == planned


@pytest.mark.parametrize('stopped_in', [None, 1])
def test_the_only_validation_of_a_training_for_a_time_is_planned(
  stopped_in, config, opened, epochs, program, tmp_path, monkeypatch, stop_at
):
  monkeypatch.setattr(results, 'count_parts', lambda *_: 2)
  steps = -(-epochs.steps // 2)
  # Every epoch takes a hundred minutes, and a validation twice as long.
  clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 6000)
  monkeypatch.setattr(results, 'time', clock)
  slices = sum(case.slices for case in opened.prepared.cases_of(opened.patients['validation']))
  monkeypatch.setattr(results, 'SHARE_OF_PREDICTION', 2 * steps * 4 / slices)
  config = config.copy_and_resolve_references()
  config.retrain.update({'minutes': 520, 'epochs': 1, 'validate_every': 50})
  if stopped_in is not None:
    with stop_at(stopped_in * steps + 1), pytest.raises(stopping.Stopped):
      retrain.retrain(config, tmp_path, program=program)
  assert retrain.retrain(config, tmp_path, program=program).epochs == 3
  assert ['validation_dsc' in entry for entry in entries_of(tmp_path)] == [False, False, True]


def test_the_compilation_of_the_prediction_is_left_out_of_the_epoch(
  config, opened, net, monkeypatch
):
  apply = build.apply

  def slow(*arguments, **more):  # it is called to be compiled, and then no more
    time.sleep(0.5)
    return apply(*arguments, **more)

  monkeypatch.setattr(build, 'apply', slow)
  nothing: Any = None
  progress = results.Progress(nothing, nothing)
  spec, began = make_spec(config, opened.statistics), progress.began
  params = build.initialise(build.find_shapes(net, spec.image_channels), seed=0)
  predict = results.make_predict(config, opened, net, spec, progress)(params)
  image = opened.prepared.read(opened.prepared.cases[0])['image']
  predict(image)
  waited = progress.began - began
  predict(image)
  assert waited >= 0.5 and progress.began == began + waited


@pytest.mark.parametrize('debug', [False, True])
def test_a_loss_that_is_not_finite_stops_with_its_place_and_the_checkpoint_stays(
  debug, config, opened, epochs, program, unbroken, tmp_path, monkeypatch
):
  batches = Epochs.batches

  def poisoned(epochs, number, **which):
    for index, batch in enumerate(batches(epochs, number, **which)):
      bad = (number, index) == (1, 1)
      yield {**batch, 'image': batch['image'] * math.nan} if bad else batch

  step = epochs.steps + 2
  place = f'retrain, epoch 2, step {step}: [a-z_]+ is non-finite; .*debug=True'
  if debug:
    place = f'retrain, step {step}: [a-z_]+ is non-finite; .* is the image batch: 1,296 of'
  config = config.copy_and_resolve_references()
  config.save_seconds, config.debug = 0.0, debug
  with monkeypatch.context() as patch, pytest.raises(InputError, match=place):
    patch.setattr(Epochs, 'batches', poisoned)
    # This program uses up the state from before a step, which debugging looks at.
    retrain.retrain(config, tmp_path, program=None if debug else program)
  assert len(entries_of(tmp_path)) == 1
  assert not (tmp_path / 'model').exists()
  told = json.loads((tmp_path / 'retrain' / 'not_finite.json').read_text())
  assert told['step'] == step and len(told['slices']) == 4
  assert {name.split()[0] for name in told['slices']} <= set(opened.patients['train'])
  config.debug = False
  retrain.retrain(config, tmp_path, program=program)  # the sound data again
  assert not (tmp_path / 'retrain' / 'not_finite.json').exists()
  assert weights_of(tmp_path) == weights_of(unbroken)
  assert entries_of(tmp_path) == entries_of(unbroken)


def test_training_sees_training_patients_and_validation_the_validation_patients(
  config, opened, program, tmp_path, monkeypatch
):
  trained, validated = [], []
  batches, score = Epochs.batches, cases.validation_dsc

  def watched(epochs, number, **which):
    trained.append(tuple(sorted({case.patient for case in epochs.examples.cases})))
    return batches(epochs, number, **which)

  def scored(prepared, patients, predict, **more):
    validated.append(patients)
    return score(prepared, patients, predict, **more)

  monkeypatch.setattr(Epochs, 'batches', watched)
  monkeypatch.setattr(cases, 'validation_dsc', scored)
  retrain.retrain(config, tmp_path, program=program)
  assert set(trained) == {opened.patients['train']}
  assert set(validated) == {opened.patients['validation']}


def test_a_missing_genotype_is_bad_input_and_leaves_no_model(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.genotype = ''  # that of the search, which has not run
  with pytest.raises(InputError, match='genotype.json'):
    retrain.retrain(config, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['data.json']


def test_a_bar_has_percent_and_the_best_only_once_there_is_one(config, epochs, net):
  state, best, _ = train_step.start(config, epochs, net)
  progress = results.Progress(state, best)
  assert progress.shown() == {}
  figures: Any = types.SimpleNamespace(steps=2, mean={'dice': 0.7034, 'loss': 0.25}.get)
  progress.figures = figures
  assert progress.shown() == {'dsc': '70.3 %', 'loss': '0.250'}
  progress.best = best._replace(epoch=4, dsc=0.655)
  assert progress.shown()['best'] == '65.5 %'


def test_the_end_is_foretold_once_with_validations_and_scores(config, opened, capsys):
  config = config.copy_and_resolve_references()
  config.retrain.update({'epochs': 9, 'validate_every': 4})
  nothing: Any = None
  state: Any = types.SimpleNamespace(step=10)  # 10 steps an epoch of 4 slices
  progress = results.Progress(state, nothing, epoch=1, planned=(9,))
  for _ in range(2):
    results.foretell(config, progress, opened, seconds=60)
  counts = {
    name: sum(case.slices for case in opened.prepared.cases_of(names))
    for name, names in opened.patients.items()
  }
  share = 30 / 40
  whole = logbook.format_duration(8 * 60 + 2 * counts['validation'] * share)
  scores = logbook.format_duration(sum(counts.values()) * share)
  told = capsys.readouterr().out.strip().splitlines()
  assert len(told) == 1 and f'the training is done in about {whole}, at ' in told[0]
  assert told[0].endswith(f'its scores take about {scores} more')


@pytest.mark.parametrize(('best', 'validations'), [(0, 1), (1, 2)])
def test_the_end_of_a_training_for_a_time_is_foretold_with_its_validations(
  best, validations, config, opened, capsys
):
  """With the only one that was planned, or with all that the pace of the epochs already has."""
  config = config.copy_and_resolve_references()
  config.retrain.validate_every = 2
  nothing: Any = None
  state: Any = types.SimpleNamespace(step=10)
  progress = results.Progress(
    state, train_step.Best(nothing, best, 0.5), epoch=1, planned=(9,), parts=2, timed=True
  )
  results.foretell(config, progress, opened, seconds=60)
  names = opened.patients['validation']
  slices = sum(case.slices for case in opened.prepared.cases_of(names))
  whole = logbook.format_duration(8 * 60 + validations * slices * 30 / 40)
  assert f'the training is done in about {whole}, at ' in capsys.readouterr().out


def test_a_training_that_is_stopped_and_its_scores_are_one_run_of_a_tracker(
  config, epochs, program, tmp_path, stop_at
):
  config = config.copy_and_resolve_references()
  config.trackers = ('tensorboard',)
  with stop_at(epochs.steps + 1), pytest.raises(stopping.Stopped):
    retrain.retrain(config, tmp_path, program=program)
  retrain.retrain(config, tmp_path, program=program)
  summary = evaluate.evaluate(config, tmp_path)
  found, entries = read_tensorboard(tmp_path), logbook.Logbook(tmp_path / 'retrain').entries()
  for name in ('epoch', 'loss', 'dsc', 'validation_dsc', 'learning_rate', 'seconds'):
    expected = [(entry['step'], pytest.approx(entry[name])) for entry in entries]
    assert found[f'retrain/{name}'] == expected
  of_class, scores = config.data.classes[1], summary.classes[config.data.classes[1]]
  assert found['evaluate/dsc'] == [(0, pytest.approx(summary.mean.dsc_mean))]
  assert found[f'evaluate/{of_class}/missed'] == [(0, scores.missed)]
  shown = read_tensorboard(tmp_path, 'patients')
  patients = {case.patient for case in summary.cases}
  assert {title.split('/')[0] for title in shown} == {'best', 'worst'}
  assert all(any(name in title for name in patients) for title in shown)
  ((_, picture),) = shown[min(shown)]
  assert picture.width == 3 * picture.height
