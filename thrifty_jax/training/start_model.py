"""The model that a training starts from: what is taken from it, what is kept, what is refused.

The genotype and the treatment of images are the model's, as in nnU-Net the plans of a pretrained
network are (documentation/pretraining_and_finetuning.md of MIC-DKFZ/nnUNet). The model is copied
into the run before the first step, so that a run that was stopped goes on from the same weights.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import logbook, model_folder, records, stages, words
from thrifty_jax.data import data_file, split_file, splits
from thrifty_jax.errors import InputError
from thrifty_jax.model_folder import DescribedModel
from thrifty_jax.networks import baselines, build, genotype, transfer
from thrifty_jax.networks.lean_space import LeanShape
from thrifty_jax.networks.model_spec import ModelSpec, NetworkSpec, make_spec
from thrifty_jax.predicting import segment
from thrifty_jax.reporting import origins
from thrifty_jax.run_files import Started
from thrifty_jax.scans.preprocessing import image_settings
from thrifty_jax.training.train_data import TrainData

COPY, RECORD = 'start', 'start.json'  # names in the folder retrain/ of a run
# Fields of the images that become the model's where the config leaves them to the data; of the
# others, which must be the same, the network would see intensities that mean something else.
_GEOMETRY = ('slice_axis', 'image_size', 'reduction')
_INTENSITIES = (
  *('intensity', 'percentiles', 'window', 'clahe_clip_limit', 'resize'),
  *('curvature_flow_iterations', 'curvature_flow_time_step'),
)


# --- before the training


def fill_in(config: ConfigDict, workdir: Path) -> tuple[tuple[str, str], ...]:
  """Fills in, in place, what the model to start from decides; returns titles and texts.

  That is the genotype, and how images are treated where the config leaves it to the data.

  Raises:
    InputError: If there is no model, it is damaged, another one than the training began from, or
      contradicts the config.
  """
  if not config.retrain.start_from:
    return ()
  folder = _find(config, workdir)
  found = model_folder.describe(folder)
  _require_same_network(config, found)
  if found.genotype is not None:
    if config.genotype and genotype.load_any(config.genotype) != found.genotype:
      raise InputError(
        f'config.genotype is {config.genotype!r}, but {config.retrain.start_from} is a network of '
        "another genotype; expected '', which takes that of the model"
      )
    config.genotype = config.genotype or str(folder / 'genotype.json')
  kept = {name: getattr(found.spec.image, name) for name in (*_GEOMETRY, 'intensity', 'window')}
  kept = {f'data.{name}': value for name, value in kept.items() if value is not None}
  kept['data.context'] = found.spec.context
  left = [name for name in configs.left_to_data(config) if name in kept]
  config.update_from_flattened_dict({name: kept[name] for name in left})
  _require_same_intensities(config, found.spec)
  lines = [('start', f'{config.retrain.start_from}, for {", ".join(found.spec.classes[1:])}')]
  if found.spec.image.window:
    low, high = found.spec.image.window
    lines.append(
      ('units', f'the model sees intensities from {low:g} to {high:g}, as Hounsfield units of CT: '
       'start from it with scans in the same unit alone')
    )  # fmt: skip
  lines.append(('channels', 'are known by their order, as a model does not keep their names'))
  if left:
    listed = ', '.join(f'{name}={kept[name]!r}' for name in left)
    lines.append(('as there', f'{listed}; set a field to have it otherwise'))
  return tuple(lines)


def require_strangers(config: ConfigDict, workdir: Path) -> None:
  """Refuses a split whose validation or test the model to start from spoils, in the same scans."""
  if not config.retrain.start_from or stages.RETRAIN.is_begun(workdir):
    return
  place = _find(config, workdir)
  if shared := find_shared_in_scans(config, workdir, place):
    raise InputError(
      f'{place} was trained on these scans, and with {words.list_some(shared)}, who would '
      'validate or test here; expected the same fold and lists of patients, or the splits.json of '
      f'{place.parent} in {workdir}'
    )


def _find(config: ConfigDict, workdir: Path) -> Path:
  """Returns the folder of the model: where it is, or if that is gone its copy in the run.

  Once the training has begun, a model with other weights than its copy is an InputError.
  """
  copy, given = workdir / 'retrain' / COPY, Path(os.path.expanduser(config.retrain.start_from))
  copied = copy.is_dir() and stages.RETRAIN.is_begun(workdir)
  if copied and (stages.RETRAIN.is_done(workdir) or not given.exists()):
    return copy
  found = segment.find_models(given)
  if len(found) > 1:
    raise InputError(
      f'config.retrain.start_from is {str(given)!r}, which has {len(found)} models; expected one, '
      f'as {found[0]}'
    )
  if copied and model_folder.describe(found[0]).sha256 != model_folder.describe(copy).sha256:
    raise InputError(
      f'{found[0]}: has other weights than those that the training in {workdir} began from; put '
      f'them back, use another --workdir, or remove {workdir / "retrain"}'
    )
  return found[0]


def _require_same_network(config: ConfigDict, found: DescribedModel) -> None:
  """Refuses a model of another kind or size, and more frozen levels than it has."""
  place, theirs = config.retrain.start_from, found.spec.network
  if theirs.name != config.model.name:
    raise InputError(
      f'config.model.name is {config.model.name!r}, but {place} is a network {theirs.name!r}; add '
      f'the variant {theirs.name} to --config'
    )
  ours = NetworkSpec(**{one.name: config.model[one.name] for one in dataclasses.fields(theirs)})
  specs = [dataclasses.replace(found.spec, network=sizes) for sizes in (ours, theirs)]
  mine, its = (build.build(spec, found.genotype) for spec in specs)
  if mine != its:
    names = [one.name for one in dataclasses.fields(theirs)]
    options = [
      f'--config.model.{name}={getattr(theirs, name)}'
      for name in names
      if getattr(ours, name) != getattr(theirs, name)
    ]
    raise InputError(f'{place} is a network of other sizes than config.model; {" ".join(options)}')
  shape, frozen = found.genotype, config.retrain.freeze_levels
  levels = len(shape.levels) if isinstance(shape, LeanShape) else baselines.LEVELS
  if frozen > levels:
    raise InputError(
      f'config.retrain.freeze_levels is {frozen}; expected at most {levels}, the levels of {place}'
    )


def _require_same_intensities(config: ConfigDict, spec: ModelSpec) -> None:
  """Refuses a config by which intensities become others than those that the model learned."""
  ours = image_settings(config.data)
  options = [
    f'--config.data.{name}={str(value).replace(" ", "")!r}'
    for name in _INTENSITIES
    if (value := getattr(spec.image, name)) != getattr(ours, name) and value is not None
  ]
  if options:
    raise InputError(
      f'{config.retrain.start_from} has learned from intensities that were treated otherwise; '
      f'expected the same: {" ".join(options)}'
    )


# --- at its beginning


def begin(config: ConfigDict, workdir: Path, train_data: TrainData) -> TrainData:
  """Copies the model to start from into the run and records what is taken from it.

  That is done anew until the training has a state from which it would go on.

  Returns:
    The data, normalised by the model's mean and deviation if it has as many channels.

  Raises:
    InputError: If a level that is to be frozen is not the model's.
  """
  folder = workdir / 'retrain'
  if not config.retrain.start_from:
    return train_data
  place = _find(config, workdir)
  spec = model_folder.describe(place).spec
  if spec.modalities == config.data.modalities and not config.data.mean:
    train_data = dataclasses.replace(train_data, statistics=spec.statistics)
  started = read(folder) if stages.RETRAIN.is_begun(workdir) else None
  if started is None:
    started = _describe(config, place, train_data)
    if place.resolve() != (folder / COPY).resolve():
      model_folder.copy(place, folder / COPY)
    records.write(folder / RECORD, started)
  for title, text in origins.tell_start(started):
    logbook.say(title, text)
  return train_data


def read(folder: Path) -> Started | None:
  """Reads what the training in a folder retrain/ started from; None if from drawn weights."""
  return records.read_optional(folder / RECORD, Started)


def take_over(
  config: ConfigDict, folder: Path, net: Any, spec: ModelSpec, params: build.Params
) -> build.Params:
  """Returns drawn parameters with those of the model, if any, in their place, as far as these fit.

  Args:
    config: Settings of the run.
    folder: Folder retrain/ of a run, which has a copy of the model.
    net: Network that is trained.
    spec: Its description.
    params: Drawn parameters.
  """
  if not config.retrain.start_from:
    return params
  model = model_folder.load(folder / COPY)
  theirs: dict[str, Any] = traverse_util.flatten_dict(model.params, sep='/')
  ours: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')
  for name, slot in transfer.plan(net, spec, model.module, model.spec).items():
    ours[name] = jax.device_put(transfer.fill(ours[name], theirs[name], slot))
  return traverse_util.unflatten_dict(ours, sep='/')


# --- what is told of it


def _describe(config: ConfigDict, place: Path, train_data: TrainData) -> Started:
  """Describes what a training will take from the model in a folder."""
  found, settings = model_folder.describe(place), config.retrain
  spec = make_spec(config, train_data.statistics)
  shared = find_shared(train_data.patients, place)
  net, its = build.build(spec, found.genotype), build.build(found.spec, found.genotype)
  taken, ours = (
    transfer.plan(net, spec, its, found.spec),
    build.find_shapes(net, spec.image_channels),
  )
  whole = {name for name, slot in taken.items() if slot is None}
  _, frozen = build.freeze(net, settings.freeze_levels)
  if loose := [name for name in ours if name.split('/')[0] in frozen and name not in whole]:
    raise InputError(
      f'config.retrain.freeze_levels is {settings.freeze_levels}, but {loose[0]} cannot be taken '
      f'from {settings.start_from}, whose scans have other channels; expected 0, or the same '
      'data.modalities and data.context'
    )
  return Started(
    model=settings.start_from,
    weights_sha256=found.sha256,
    classes=found.spec.classes,
    whole=len(whole),
    partly=tuple(name for name in taken if name not in whole),
    anew=tuple(name for name in ours if name not in taken),
    frozen=frozen,
    otherwise=tuple(_list_differences(found.spec, spec)),
    patients_known=find_patients(place) is not None,
    shared=tuple(name for name in shared if name in train_data.patients['test']),
  )


def _list_differences(theirs: ModelSpec, ours: ModelSpec) -> Iterator[str]:
  """Yields what is otherwise than the model learned it, such as `image_size 128 -> 64`."""
  pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in ('modalities', 'context')]
  pairs += [(n, getattr(theirs.image, n), getattr(ours.image, n)) for n in _GEOMETRY]
  yield from (f'{name} {old} -> {new}' for name, old, new in pairs if old != new)


def find_shared(split: Mapping[str, Sequence[str]], place: Path) -> list[str]:
  """Returns who validates or tests with the name of a patient from whom a model has learned.

  Who validates may have validated the model: that is so wherever both have the same split.
  """
  known = find_patients(place) or {}
  learned, chosen = ({*known.get(name, ())} for name in ('train', 'validation'))
  return sorted((learned & {*split['validation']}) | ((learned | chosen) & {*split['test']}))


def find_shared_in_scans(config: ConfigDict, workdir: Path, place: Path) -> list[str]:
  """Returns what `find_shared` does of a run, [] if the model has learned from other scans."""
  record, theirs = data_file.read(workdir), data_file.read(place.resolve().parent)
  if record is None or theirs is None:
    return []
  scans = record.settings.get('raw_files')
  if not scans or theirs.settings.get('raw_files') != scans:
    return []
  _, patients = data_file.find(workdir, record, config)
  return find_shared(splits.assign(config, patients), place)


def find_patients(place: Path) -> Mapping[str, Sequence[str]] | None:
  """Returns the patients of a model whose run still lies around it; None if they are not known."""
  path = place.resolve().parent / split_file.FILE
  if not path.is_file():
    return None
  named = split_file.read(path, hold_out_test=None)
  is_theirs = split_file.digest(named) == model_folder.describe(place).spec.splits_sha256
  return named if is_theirs else None
