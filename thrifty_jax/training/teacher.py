"""The teacher: models from whose probabilities a network learns beside the masks.

A step computes the mean of their probabilities on the images that it trains on, augmented as these
are. In place of a mask the network then learns a mixture of mask and probabilities; where a pixel
has no label, the probabilities alone.

Source: Hinton et al. (2015), Distilling the knowledge in a neural network, arXiv:1503.02531. Masks
and probabilities are mixed before the loss, without a temperature.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from thrifty_jax import logbook, model_folder, records, stages, words
from thrifty_jax.data import mesh
from thrifty_jax.data.batching import Statistics
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import DescribedModel
from thrifty_jax.networks import build, losses
from thrifty_jax.networks.losses import Lesson
from thrifty_jax.networks.model_spec import background, make_spec
from thrifty_jax.predicting import segment
from thrifty_jax.reporting import origins
from thrifty_jax.run_files import Taught
from thrifty_jax.settings import FOLDS, TEACHERS
from thrifty_jax.training import start_model, unlabelled
from thrifty_jax.training.train_data import TrainData

FOLDER, RECORD = 'teacher', 'teacher.json'  # in the folder of a run, and in its folder retrain/
# What a teacher must have in common with the network, whose images and classes it sees.
_ALIKE = ('classes', 'regions', 'modalities', 'context', 'unit')


class Weights(NamedTuple):
  """What a step receives of a model: a program serves every teacher of one form."""

  params: build.Params
  statistics: Statistics  # mean and deviation by which its images are normalised, [M] each


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
  """Networks that teach, without their weights."""

  modules: tuple[nn.Module, ...]
  context: int  # neighbouring slices on each side, as further channels
  share: float  # of their probabilities in what is learned

  def teach(
    self, weights: tuple[Weights, ...], image: jax.Array, statistics: Statistics, *, regions: bool
  ) -> Lesson:
    """Returns the mean of the networks' probabilities; to be traced by jit.

    Args:
      weights: Those of each network.
      image: Images as the learning network sees them, [B, S, S, C].
      statistics: Mean and deviation by which these were normalised, [M] each.
      regions: Whether classes overlap, see losses.
    """
    found = [
      losses.probabilities(self._logits(net, one, image, statistics), regions=regions)
      for net, one in zip(self.modules, weights, strict=True)
    ]
    return Lesson(sum(found[1:], found[0]) / len(found), self.share)

  def _logits(
    self, net: nn.Module, weights: Weights, image: jax.Array, statistics: Statistics
  ) -> jax.Array:
    """Returns the logits of a network, [B, S, S, K], which sees images as it has learned them."""
    (mean, std), (its_mean, its_std) = (
      [jnp.tile(known[name], 2 * self.context + 1) for name in ('mean', 'std')]
      for known in (statistics, weights.statistics)
    )
    seen = (image * (std / its_std) + (mean - its_mean) / its_std).astype(image.dtype)
    shade = background(weights.statistics, context=self.context)
    return build.take_last(build.apply(net, weights.params, seen, background=shade))


class Lessons(NamedTuple):
  """What a training learns of beside the masks."""

  teacher: Teacher | None
  weights: tuple[Weights, ...]  # of its networks
  train_data: TrainData  # with the scans without masks
  unlabelled: tuple[str, ...]  # what stands for the patients of these


# --- before the training


def require_sound(config: ConfigDict, workdir: Path) -> None:
  """Refuses models that see other images or classes, or that know who validates or tests.

  Raises:
    InputError: Likewise if there is no model.
  """
  if not config.retrain.teacher or config.retrain.teacher in TEACHERS:
    return
  for place in _find(config, workdir):
    _require_alike(config, place, model_folder.describe(place))
    _require_strangers(config, workdir, place)


def list_places(config: ConfigDict, workdir: Path) -> list[Path]:
  """Returns the folders of the trainings of a teacher that the config names by its kind."""
  if config.retrain.teacher == FOLDS:
    return [workdir / FOLDER / f'fold_{fold}' for fold in range(config.data.folds)]
  return [workdir / FOLDER]


def _find(config: ConfigDict, workdir: Path) -> list[Path]:
  """Returns the folders of the models that teach."""
  if config.retrain.teacher in TEACHERS:
    return [place / 'model' for place in list_places(config, workdir)]
  named = [Path(os.path.expanduser(one.strip())) for one in config.retrain.teacher.split(',')]
  found = [place for one in named for place in segment.find_models(one)]
  if twice := [place for place in found if found.count(place) > 1]:
    raise InputError(f'config.retrain.teacher names {twice[0]} twice; expected different models')
  return found


def _require_alike(config: ConfigDict, place: Path, found: DescribedModel) -> None:
  """Refuses a model that has learned other classes, or from images that are prepared otherwise."""
  ours, theirs = make_spec(config, found.spec.statistics), found.spec
  pairs = {name: (getattr(theirs, name), getattr(ours, name)) for name in _ALIKE}
  own_image = dataclasses.asdict(ours.image)
  pairs |= {name: (its, own_image[name]) for name, its in dataclasses.asdict(theirs.image).items()}
  for name, (its, own) in pairs.items():
    if its != own:
      raise InputError(
        f'{place}: its "{name}" is {its!r}, that of this run is {own!r}; a teacher must agree on '
        f'it: set --config.data.{name}, or train the teacher on these slices'
      )


def _require_strangers(config: ConfigDict, workdir: Path, place: Path) -> None:
  """Refuses a model that has learned, in the same scans, from patients who validate or test."""
  if shared := start_model.find_shared_in_scans(config, workdir, place):
    raise InputError(
      f'{place} has learned from {words.list_some(shared)}, who validate or test here; expected '
      'a teacher with the same fold and lists of patients'
    )


# --- at its beginning


def begin(config: ConfigDict, workdir: Path, train_data: TrainData) -> Lessons:
  """Loads the teacher, if there is one, and the scans without masks, and records them.

  Raises:
    InputError: If the training in the folder began with other models, or see `unlabelled.add`.
  """
  if not config.retrain.teacher:
    return Lessons(None, (), train_data, ())
  train_data, more = unlabelled.add(config, workdir, train_data)
  places = _find(config, workdir)
  models = [model_folder.load(place) for place in places]
  known = [start_model.find_patients(place) is not None for place in places]
  shared = {
    name for place in places for name in start_model.find_shared(train_data.patients, place)
  }
  taught = Taught(
    models=tuple(map(str, places)),
    weights_sha256=tuple(model.sha256 for model in models),
    share=config.retrain.teacher_share,
    patients_known=all(known),
    unlabelled=len(more),
    shared=tuple(sorted(shared)),
  )
  _record(workdir, taught)
  for model, place in zip(models, places, strict=True):
    logbook.say('teacher', f'{model}, {place}')
  if warning := origins.warn_of_teacher(taught):
    logbook.say('patients', warning)
  whole = mesh.whole(train_data.mesh)
  weights = tuple(
    mesh.place(Weights(jax.tree.map(np.asarray, model.params), model.spec.statistics), whole)
    for model in models
  )
  modules = tuple(model.module for model in models)
  teacher = Teacher(modules, config.data.context, config.retrain.teacher_share)
  return Lessons(teacher, weights, train_data, more)


def _record(workdir: Path, taught: Taught) -> None:
  """Writes what teaches, or refuses another teacher than that of a training that has begun."""
  path = workdir / 'retrain' / RECORD
  if path.exists() and stages.RETRAIN.is_begun(workdir):
    before = records.read(path, Taught)
    if before.weights_sha256 != taught.weights_sha256:
      raise InputError(
        f'{path.parent}: its training began with another teacher, {", ".join(before.models)}; put '
        f'those models back, use another --workdir, or remove {path.parent}'
      )
    return
  records.write(path, taught)


def read(folder: Path) -> Taught | None:
  """Reads what taught the training in a folder retrain/; None if nothing did."""
  return records.read_optional(folder / RECORD, Taught)
