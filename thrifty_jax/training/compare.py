"""Comparison of baselines, the searched network and random architectures, trained alike.

Every contender is trained on the same patients, with the same recipe and number of steps, once at
each of a few learning rates. The validation patients choose the rate, at which it is trained by
further seeds if they are asked for, and only these networks are scored on the test patients. Each
training is a run of its own in its own folder.
"""

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, records, stages, weights
from thrifty_jax.cost import configured
from thrifty_jax.errors import InputError
from thrifty_jax.networks import baselines, build, genotype, parameters
from thrifty_jax.networks.space import space_of
from thrifty_jax.run_files import Result, Retrained, Timed, Trial
from thrifty_jax.scores import evaluate, standings, tables
from thrifty_jax.training import trainings

MATCHED = 0  # stands for the largest width with no more parameters than the searched network
_UNET = {'name': 'unet', 'deep_supervision': False, 'width': baselines.WIDTH}
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {  # label, and changes of _UNET
  'unet': ('U-Net', {'norm': 'none'}),
  'unet_group': ('U-Net, GroupNorm', {'norm': 'group'}),
  'unet_plus_plus': ('UNet++', {'name': 'unet_plus_plus', 'norm': 'none'}),
  'unet_plus_plus_group': ('UNet++, GroupNorm', {'name': 'unet_plus_plus', 'norm': 'group'}),
  'unet_matched': ('U-Net, narrow', {'norm': 'none', 'width': MATCHED}),
  'unet_matched_group': ('U-Net, narrow, GroupNorm', {'norm': 'group', 'width': MATCHED}),
  'unet_plus_plus_deep': (
    'UNet++, deep supervision',
    {'name': 'unet_plus_plus', 'norm': 'none', 'deep_supervision': True},
  ),
}
DRAWS = 2000  # random genotypes, of which the nearest in parameters is taken


class Contender(NamedTuple):
  """One network of the comparison."""

  name: str  # of its folder
  label: str  # in tables
  kind: str  # baseline, searched, random or given (a genotype file that the config names)
  model: Mapping[str, Any]  # fields of config.model that it changes
  genotype_file: Path | None = None  # of a thrifty network


def compare(config: ConfigDict, workdir: Path | str) -> list[Result]:
  """Trains and scores every contender that is not yet, and returns a result for each training.

  The networks are timed first, in turns, unless that is done. Writes <workdir>/compare/<contender>/
  and, after each contender, updates results.json and the standings (see standings.py). The config's
  model is the searched one.
  """
  workdir = Path(workdir)
  found, results, summary = find_contenders(config, workdir), [], None
  times = _time(found, config, workdir)
  for place, contender in enumerate(found, start=1):
    logbook.say(f'\n{contender.label}, {place} of {len(found)}')
    results += _train_and_score(contender, config, workdir, times.get(contender.name))
    records.write(workdir / 'compare' / 'results.json', results)
    summary = standings.write(workdir, [workdir])
  if summary:
    print(tables.format_comparison(summary), flush=True)
  return results


def find_contenders(config: ConfigDict, workdir: Path) -> list[Contender]:
  """Returns the contenders; the first is the searched one, whose size determines others."""
  thrifty, searched_file = {'name': 'thrifty'}, stages.find_genotype(config, workdir)
  searched = genotype.load(searched_file)
  first = ('Given', 'given') if config.genotype else ('Searched', 'searched')
  found = [Contender('thrifty', *first, thrifty, searched_file)]
  for path in map(Path, config.compare.genotypes):
    genotype.load(path)  # a mistake is reported before hours of training
    found.append(Contender(path.stem, path.stem, 'given', thrifty, path))
  for number in range(1, config.compare.random_genotypes + 1):
    path = workdir / 'compare' / f'random_{number}' / 'genotype.json'
    if not path.exists():
      drawn = match_genotype(config, searched, number=number)
      told = {'drawn': 'at random', 'seed': config.seed, 'depth': config.model.depth}
      genotype.save(path, drawn, provenance=told)
    found.append(Contender(path.parent.name, f'Random {number}', 'random', thrifty, path))
  for name in config.compare.baselines:
    label, changes = BASELINES[name]
    settings: dict[str, Any] = {**_UNET, **changes}
    if settings['width'] == MATCHED:
      settings['width'] = match_width(config, searched, norm=settings['norm'])
    found.append(Contender(name, label, 'baseline', settings))
  names = [contender.name for contender in found]
  labels = [contender.label for contender in found]  # by which the report groups scores
  if twice := [name for each in (names, labels) for name in each if each.count(name) > 1]:
    raise InputError(
      f'config.compare.genotypes: two networks of the comparison are named {twice[0]!r}; rename a '
      'genotype file'
    )
  return found


def match_genotype(
  config: ConfigDict, like: genotype.Genotype, *, number: int
) -> genotype.Genotype:
  """Returns the nearest in parameters to a genotype of many random ones, uniform over the space.

  The number, from 1, and config.seed determine it.
  """
  generator = np.random.default_rng((config.seed, number))
  space = space_of(config)._replace(nodes=len(like.down))
  target = parameters.count(like, space)
  drawn = [genotype.draw(generator, space) for _ in range(DRAWS)]
  return min(drawn, key=lambda one: abs(parameters.count(one, space) - target))


def match_width(config: ConfigDict, like: genotype.Genotype, *, norm: str) -> int:
  """Returns the width, 1 to WIDTH, of the largest U-Net no larger than a genotype's network."""
  space = space_of(config)

  def count(width: int) -> int:
    widths = baselines.widths_of(width)
    net: nn.Module = baselines.UNetPlusPlus(space.classes, nested=False, norm=norm, widths=widths)
    return build.count_shapes(build.find_shapes(net, space.image_channels))

  candidates = range(1, baselines.WIDTH + 1)
  return max(1, bisect.bisect(candidates, parameters.count(like, space), key=count))


def _time(contenders: Sequence[Contender], config: ConfigDict, workdir: Path) -> dict[str, Timed]:
  """Times contenders in turns, so that a busy machine slows all alike, unless all have a time."""
  path, kept = workdir / 'compare' / 'results.json', {}
  if path.exists():
    results = records.read(path, tuple[Result, ...])
    kept = {one.name: one.timed for one in results if one.timed}
  names = [contender.name for contender in contenders]
  if all(name in kept and configured.is_asked(kept[name], config) for name in names):
    return kept
  networks = {}
  for contender in contenders:
    found = genotype.load(contender.genotype_file) if contender.genotype_file else None
    networks[contender.name] = (_settings(contender, config), found)
  return configured.time_in_turns(networks)


def _train_and_score(
  contender: Contender, config: ConfigDict, workdir: Path, timed: Timed | None
) -> list[Result]:
  """Chooses the learning rate, trains and scores a contender; finished parts are not repeated."""
  trials = _try_rates(contender, config, workdir)
  fine = [(trial.validation_dsc, trial) for trial in trials if trial.validation_dsc is not None]
  for _, best in sorted(fine, key=lambda scored: -scored[0]):
    if trained := _train_seeds(contender, best, config, workdir):
      break  # else one diverged, perhaps after the few epochs of the trial
  else:
    raise InputError(
      f'{contender.label}: the loss is non-finite at all of config.compare.learning_rates='
      f'{tuple(config.compare.learning_rates)}{", with one seed or another" * (len(fine) > 0)}; '
      'add a lower one'
    )
  results = []
  for settings, place, summary in trained:
    if not stages.is_scored(place):
      evaluate.evaluate(settings, place)
    shared = ('parameters', 'macs', 'image', 'epochs', 'steps', 'best_epoch', 'seconds')
    results.append(
      Result(
        name=contender.name,
        label=contender.label,
        kind=contender.kind,
        learning_rate=best.learning_rate,
        trials=tuple(trials),
        folder=place.relative_to(workdir).as_posix(),
        validation_dsc=summary.validation_dsc,
        seed=settings.seed,
        timed=timed,
        weights_sha256=weights.read_scored(place / stages.EVALUATE.leaves[0]),
        **{name: getattr(summary, name) for name in shared},
      )
    )
  return results


def _try_rates(contender: Contender, config: ConfigDict, workdir: Path) -> list[Trial]:
  """Trains a contender with the first seed at each learning rate."""
  folder, trials = workdir / 'compare' / contender.name / 'trials', []
  epochs = config.compare.trial_epochs or config.retrain.epochs
  for rate in config.compare.learning_rates:
    settings = _settings(contender, config, learning_rate=rate, epochs=epochs)
    place = _train(contender, settings, workdir, folder / f'{rate:g}')
    tried = trainings.read(place)
    score = tried.validation_dsc if tried else None
    trials.append(Trial(float(rate), score, place.relative_to(workdir).as_posix()))
  return trials


def _train_seeds(
  contender: Contender, trial: Trial, config: ConfigDict, workdir: Path
) -> list[tuple[ConfigDict, Path, Retrained]]:
  """Trains a contender in full with every seed at the learning rate of a trial.

  Returns:
    The settings, the folder and the summary of each training; [] if one diverged.
  """
  folder, found = workdir / 'compare' / contender.name, []
  for number in range(config.compare.seeds):
    settings = _settings(contender, config, learning_rate=trial.learning_rate)
    settings.seed += number
    place = workdir / trial.folder
    if number or config.compare.trial_epochs:
      name = f'run_{trial.learning_rate:g}' + f'_seed_{settings.seed}' * (number > 0)
      place = _train(contender, settings, workdir, folder / name)
    if (summary := trainings.read(place)) is None:
      return []
    found.append((settings, place, summary))
  return found


def _settings(
  contender: Contender, config: ConfigDict, *, learning_rate: float = 0.0, epochs: int = 0
) -> ConfigDict:
  """Returns the config of one training; a rate or number of epochs of 0 is that of the run."""
  settings = config.copy_and_resolve_references()
  settings.model.update(dict(contender.model))
  settings.genotype = str(contender.genotype_file) if contender.genotype_file else ''
  settings.retrain.learning_rate = float(learning_rate or config.retrain.learning_rate)
  settings.retrain.epochs = epochs or config.retrain.epochs
  settings.evaluate.list_suspects = False  # the run itself lists them
  settings.trackers = ()  # they follow the run itself
  return settings


def _train(contender: Contender, settings: ConfigDict, workdir: Path, place: Path) -> Path:
  """Trains in a folder and returns it, or the run's folder if that has the same training."""
  if contender.name == 'thrifty' and _is_trained(settings, workdir):
    return workdir
  trainings.train(settings, workdir, place)
  return place


def _is_trained(settings: ConfigDict, workdir: Path) -> bool:
  """Returns whether the run itself has trained this network with these settings."""
  if not stages.RETRAIN.is_done(workdir) or stages.find_changes(stages.RETRAIN, settings, workdir):
    return False
  trained = genotype.load(workdir / 'retrain' / 'genotype.json')
  planned = records.read(workdir / 'retrain' / 'summary.json', Retrained).planned_epochs
  return trained == genotype.load(settings.genotype) and planned == (settings.retrain.epochs,)
