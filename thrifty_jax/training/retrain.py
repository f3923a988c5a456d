"""Trains a network: the searched one, one of a genotype file, a baseline, or a model further."""

import functools
import time
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import stages
from thrifty_jax.run_files import Retrained
from thrifty_jax.training import (
  compiling,
  not_finite,
  resources,
  results,
  start_model,
  teacher,
  train_step,
)
from thrifty_jax.training.autosave import Autosave
from thrifty_jax.training.compiling import Program
from thrifty_jax.training.results import Progress
from thrifty_jax.training.train_data import open_stage

# Epochs that a training for a time plans before its first one is over, when the rate still rises.
FIRST_PLAN = 100


def retrain(
  config: ConfigDict, workdir: Path | str, *, program: Program | None = None
) -> Retrained:
  """Trains the network and writes <workdir>/model and <workdir>/retrain/summary.json.

  The folder has search/genotype.json, unless the config names another or a baseline. The training
  continues from a checkpoint in it. Without a program, train_step.compile_step makes it.

  Raises:
    InputError: If the data are not prepared, a genotype is missing, or a value is non-finite.
    Stopped: If a signal asks to stop; the state is saved.
  """
  # Open.
  resources.forget_peak()
  workdir, settings = Path(workdir), config.retrain
  folder = workdir / 'retrain'
  genotype_file = stages.find_genotype(config, workdir) if configs.has_genotype(config) else None
  train_data = open_stage(config, workdir, 'retrain', genotype_file=genotype_file)
  train_data = start_model.begin(config, workdir, train_data)
  lessons = teacher.begin(config, workdir, train_data)
  train_data = lessons.train_data
  epochs = train_data.epochs(
    (*train_data.patients['train'], *lessons.unlabelled),
    batch_size=settings.batch_size,
    seed=config.seed,
    least_steps=settings.least_steps,
    most_steps=settings.most_steps,
  )

  # Start.
  net, spec = train_step.build_network(config, train_data, genotype_file, folder)
  take_over = functools.partial(start_model.take_over, config, folder, net, spec)
  state, best, facts = train_step.start(config, epochs, net, take_over=take_over)
  facts = facts._replace(teachers=lessons.weights)
  timed = settings.minutes > 0
  planned = FIRST_PLAN if timed else settings.epochs
  progress = Progress(state, best, planned=(planned,), timed=timed)
  predict = results.make_predict(config, train_data, net, spec, progress)
  autosave = Autosave(config, folder, 'retrain', progress)

  # Compile before the loop, so that a signal to stop need not wait for it.
  program = program or train_step.compile_step(
    config, epochs, net, state, facts, teacher=lessons.teacher
  )
  step = program
  if not progress.is_finished(settings):
    with progress.leaving_out():
      compiling.wait([program])
      if timed:
        epochs = results.pace(config, epochs, progress, program, facts)
  if config.debug:
    step = not_finite.watch(step, train_step.find_source(train_data, net, spec), stage='retrain')

  # Loop.
  with autosave.looping(steps=progress.epochs * epochs.steps, slices_of=epochs.slices_of) as bar:
    while not progress.is_finished(settings):
      bar.total = progress.epochs * epochs.steps
      facts = epochs.plan(facts, progress.epochs)
      done = progress.step
      batches = epochs.batches(progress.epoch, first=done - progress.epoch * epochs.steps)
      for number, batch in enumerate(batches, start=done + 1):
        progress.state, metrics = step(progress.state, facts, batch)
        progress.figures.add(number, metrics)
        bar.set_postfix(progress.shown(), refresh=False)  # drawn by update(), a few times a second
        bar.update(1)
        autosave.offer()
      dsc, trained = None, time.monotonic() - progress.began
      if progress.is_validated(settings):
        with autosave.interruptible():
          dsc = results.validate(config, train_data, predict(progress.state.average))
      results.end_epoch(config, progress, train_data, autosave.log, facts, dsc=dsc)
      results.foretell(config, progress, train_data, seconds=trained)
      autosave.offer(epoch_ended=True, finished=progress.is_finished(settings))

  # Leave.
  log = autosave.log
  return results.save(
    config, workdir, train_data, net, spec, progress, log, predict, genotype_file=genotype_file
  )
