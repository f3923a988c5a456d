"""The search stage: trains the supernet and derives a genotype from it."""

import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from thrifty_jax import files, logbook
from thrifty_jax.networks.genotype import Genotype
from thrifty_jax.searching import results, steps
from thrifty_jax.searching.results import Progress
from thrifty_jax.searching.steps import Halves
from thrifty_jax.training import compiling, resources
from thrifty_jax.training.autosave import Autosave
from thrifty_jax.training.compiling import Program
from thrifty_jax.training.train_data import Facts, open_stage

# Batches at the end of a warm-up epoch that measure the DSC of the architecture half. The warm-up
# trains only the weights; by then the architecture's step is compiled.
PROBED_BATCHES = 4


def search(
  config: ConfigDict, workdir: Path | str, *, programs: Sequence[Program] = ()
) -> Genotype:
  """Searches an architecture and writes <workdir>/search/genotype.json.

  Several searches (config.search.seeds) run one after the other in search/seed_<seed>, each equal
  to a run with that seed alone; the files of the best one become those of the stage. A search
  continues from a checkpoint in its folder. Without programs, steps.compile_steps makes both.

  Raises:
    InputError: If the data are not prepared, there are too few patients, or a value is non-finite.
    Stopped: If a signal asks to stop; the state is saved.
  """
  resources.forget_peak()
  train_data = open_stage(config, Path(workdir), 'search')
  halves = steps.divide(config, train_data, seed=config.seed)
  folder, found = Path(workdir) / 'search', []
  # A file of its own: a genotype is passed on to others, names of patients are not.
  files.write_json(folder / 'halves.json', halves.named(halves.patients))
  for seed in range(config.seed, config.seed + config.search.seeds):
    halves = halves.with_seed(seed)
    state, facts = steps.start(config, halves)
    results.describe(config, halves, state)
    programs = programs or steps.compile_steps(config, halves, state, facts)
    progress = Progress(state, state.architecture, planned=(config.search.epochs,))
    place = folder / f'seed_{seed}' if config.search.seeds > 1 else folder
    log = _train(config, halves, facts, programs, progress, folder=place)
    found.append(results.save(place, progress, config, log, seed=seed))
  resources.write(folder, seconds=sum(one.seconds for one in found))
  return results.keep_best(folder, found)


def _train(
  config: ConfigDict,
  halves: Halves,
  facts: Facts,
  programs: Sequence[Program],
  progress: Progress,
  *,
  folder: Path,
) -> logbook.Logbook:
  """Trains one supernet and its architecture to the end; returns the logbook."""
  settings = config.search
  autosave = Autosave(config, folder, 'search', progress)
  if not progress.is_finished(settings):
    compiling.wait(programs)  # before the loop, so that a signal to stop need not wait for it
  watched = steps.watch(config, halves, programs) if config.debug else programs
  weight_step, architecture_step = watched

  with autosave.looping(steps=settings.epochs * halves.steps, slices_of=halves.slices_of) as bar:
    while not progress.is_finished(settings):
      warm_up, began, waited = progress.epoch < settings.warmup_epochs, time.monotonic(), 0.0
      probed = max(0, halves.steps - PROBED_BATCHES) if warm_up else 0
      done = progress.epoch * halves.steps  # not from the state, which is still being computed
      first = progress.step - done
      batches = halves.batches(progress.epoch, first=first)
      for index, (weight_batch, architecture_batch) in enumerate(batches, start=first):
        if index >= probed:
          with autosave.interruptible():
            waited += compiling.wait_within(programs[1], 'the step of the architecture')
          moved, metrics = architecture_step(
            progress.state, facts, weight_batch, architecture_batch
          )
          progress.for_architecture.add(done + index + 1, metrics)
          progress.state = progress.state if warm_up else moved
        progress.state, metrics = weight_step(progress.state, facts, weight_batch)
        progress.for_weights.add(done + index + 1, metrics)
        programs[1].begin()
        bar.set_postfix(progress.shown(), refresh=False)  # drawn by update(), a few times a second
        bar.update(1)
        autosave.offer()
      trained = time.monotonic() - began - waited
      results.end_epoch(config, progress, autosave.log, warm_up=warm_up)
      if not first:
        results.foretell(config, progress, halves, seconds=trained, warm_up=warm_up)
      autosave.offer(epoch_ended=True, finished=progress.is_finished(settings))
  return autosave.log
