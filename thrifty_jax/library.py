"""What `import thrifty_jax as tj` offers in Python: train, load, segment, score.

`python -m thrifty_jax.library > docs/api.md` writes the page of it.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import thrifty_jax
from thrifty_jax import allowed, labels
from thrifty_jax import config as configs
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line, sequence
from thrifty_jax.scores.metrics import VolumeScores, overlap_counts, score_volume
from thrifty_jax.settings import SETTINGS


def load_config(name: str) -> ConfigDict:
  """Returns the settings of a run, to be changed: `config.search.epochs = 30`.

  Args:
    name: What the command line takes as --config: 'brain', 'folder:small', 'configs/own.py:unet'.

  Returns:
    The settings; docs/settings.md has them all. A name that is none of them cannot be set.

  Raises:
    InputError: If there is no such config or variant.
  """
  return command_line.parse([f'--config={name}']).config


def run(
  config: ConfigDict | str, workdir: Path | str, *, stage: str = 'all', folds: str = ''
) -> Path:
  """Runs what `thrifty-jax run` runs: from scans to a trained network and its report.

  The same call goes on where an earlier one was interrupted. It prints its progress. In a script it
  stands below `if __name__ == '__main__':`, as a race starts processes that import the script.

  Args:
    config: Settings by load_config, which are not changed; or the name of a config.
    workdir: Folder of the run.
    stage: Stage to run; 'all' are those that are not done yet.
    folds: Folds to run, 'all' or as '0,2'; '' is the one in the config.

  Returns:
    The folder of the run, which has report.html, and which load_model takes.

  Raises:
    InputError: If a setting, the scans or the folder cannot be used.
  """
  named = config if isinstance(config, str) else 'made in Python'
  config = load_config(config) if isinstance(config, str) else config
  if not isinstance(config, ConfigDict) or {*configs.flatten(config)} != {*SETTINGS}:
    raise InputError('config: expected settings by load_config, or the name of a config')
  config = config.copy_and_resolve_references()
  if not isinstance(folds, str):
    raise InputError(f"folds is {folds!r}; expected 'all', or a text as '0,2'")
  if workdir == '':
    raise InputError("workdir is ''; expected the folder of the run")
  folder = Path(workdir).expanduser()
  command = command_line.check(
    config, named, folder, stage=stage, stages=sequence.NAMES, folds=folds
  )
  if config.distributed:
    raise InputError('config.distributed is True; several processes take the command thrifty-jax')
  options = f', stage={stage!r}' * (stage != 'all') + f', folds={folds!r}' * bool(folds)
  sequence.run(command, f'thrifty_jax.run({named!r}, {str(workdir)!r}{options})')
  return folder


def score(
  mask: np.ndarray,
  truth: np.ndarray,
  spacing_mm: Sequence[float],
  *,
  classes: Sequence[str],
  regions: Sequence[Sequence[int]] = (),
  ignore: int = 0,
  nsd_tolerance_mm: float = 2.0,
) -> dict[str, VolumeScores]:
  """Scores a mask against the truth, as a run's evaluation does: each class by itself.

  Args:
    mask: Predicted label of each voxel, integers, [D, H, W]; of a picture [H, W].
    truth: True label of each voxel, on the same grid.
    spacing_mm: Distances of neighbouring voxels along each axis, in millimetres; (1, 1) for a
      picture, whose distances are in pixels.
    classes: Names of the classes in the order of their numbers, background first.
    regions: Labels of each class but the background, outer regions first, as in ((1, 2), (2,)); ()
      where each class is one label.
    ignore: Label of the truth, above the others, of voxels that count nowhere; 0 is none.
    nsd_tolerance_mm: Largest distance of surfaces that NSD counts as agreement.

  Returns:
    Scores of each class but the background, by its name: DSC, HD95 and the others of
    docs/scores.md. A score that does not exist is NaN.

  Raises:
    InputError: If the arrays are not masks of these classes on one grid.
  """
  arrays = [np.asarray(mask), np.asarray(truth)]
  arrays = [array.astype(np.uint8) if array.dtype == bool else array for array in arrays]
  for name, array in zip(('mask', 'truth'), arrays, strict=True):
    if array.ndim not in (2, 3) or array.dtype.kind not in 'bui':
      raise InputError(
        f'{name} is an array {array.shape} of {array.dtype}; expected integers, [D, H, W] or [H, W]'
      )
  allowed.require_spacing(spacing_mm, arrays[0].ndim)
  if isinstance(classes, str) or len(classes) < 2 or len({*classes}) < len(classes):
    raise InputError(f'classes is {classes!r}; expected different names, background first')
  spacing = (*[1.0] * (3 - len(spacing_mm)), *spacing_mm)
  meaning = tuple(map(tuple, regions))
  if meaning and (fault := labels.find_fault(classes, meaning)):
    raise InputError(f'regions is {regions!r:.100}: {fault}')
  if ignore and not labels.count(len(classes), meaning) <= ignore <= labels.IGNORED:
    raise InputError(f'ignore is {ignore!r}; expected a label above those of the classes, or 0')
  try:
    if arrays[0].shape == arrays[1].shape and ignore:
      ignored = arrays[1] == ignore
      arrays = [np.where(ignored, 0, array) for array in arrays]
    if arrays[1].size and arrays[1].max() >= labels.IGNORED:
      raise ValueError(f'class {arrays[1].max()} is not one of {len(classes)}')
    # Refuses other shapes and labels.
    overlap_counts(*arrays, classes=len(classes), regions=meaning)
    shape = (-1, *arrays[0].shape[-2:])
    predicted, true = (array.reshape(shape) for array in arrays)
    return {
      name: score_volume(
        labels.belongs(predicted, k, meaning),
        labels.belongs(true, k, meaning),
        spacing_mm=spacing,
        nsd_tolerance_mm=nsd_tolerance_mm,
      )
      for k, name in enumerate(classes[1:], start=1)
    }
  except ValueError as error:
    raise InputError(str(error)) from error


_INTRODUCTION = """\
# In Python

What `import thrifty_jax as tj` offers, as `python -m thrifty_jax.library` prints it from the
docstrings. A value that cannot be used is a `tj.InputError`, whose text is one line: what is wrong,
where, and what to do. An argument of another type than is written here may be a `TypeError`.

    import thrifty_jax as tj

    config = tj.load_config('folder:small')
    config.data.raw_dir = 'scans'
    run = tj.run(config, 'runs/mine')

    model = tj.load_model(run)
    found = model.segment_file('new.nii.gz')
    found.save('new_mask.nii.gz')
    tj.score(found.mask, truth, spacing_mm=(3, 1, 1), classes=found.classes)
"""


def write_page() -> str:
  """Returns the text of docs/api.md."""
  from thrifty_jax.predicting.file_mask import FileMask
  from thrifty_jax.predicting.segment import Segmenter

  made: list[tuple[str, Callable[..., Any]]] = [
    *((f'tj.{name}', getattr(thrifty_jax, name)) for name in thrifty_jax.API),
    ('Segmenter.segment', Segmenter.segment),
    ('Segmenter.segment_picture', Segmenter.segment_picture),
    ('Segmenter.segment_file', Segmenter.segment_file),
    ('FileMask', FileMask),
    ('FileMask.save', FileMask.save),
    ('FileMask.draw', FileMask.draw),
    ('VolumeScores', VolumeScores),
  ]
  return '\n'.join([_INTRODUCTION, *(_describe(name, each) for name, each in made)])


def _describe(name: str, each: Callable[..., Any]) -> str:
  """Returns the section of a function, or of a class, whose fields its docstring has."""
  lines = [f'## {name}\n']
  if not inspect.isclass(each):
    given = list(inspect.signature(each).parameters.values())
    given = [one.replace(annotation=one.empty) for one in given if one.name != 'self']
    lines.append(f'    {name}{inspect.Signature(given)}\n')
  for line in inspect.cleandoc(each.__doc__ or '').splitlines():
    if re.fullmatch(r'[A-Z]\w+:', line):
      lines.append(f'**{line[:-1]}**\n')
    elif entry := re.fullmatch(r'  (\w+): (.*)', line):
      lines.append(f'- `{entry[1]}`: {entry[2]}')
    else:
      lines.append(line if line.startswith('    ') else line.strip())
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  print(write_page(), end='')
