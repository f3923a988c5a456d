"""Files of a data set in BIDS: where they lie, and what their names say."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from thrifty_jax.errors import InputError

ENDINGS = ('.nii.gz', '.nii')
TABLE = '.tsv'
_FOLDERS = ('sub-*/anat', 'sub-*/ses-*/anat')
_ENTITY = re.compile(r'([a-z]+)-([^\W_]+)')
# Entities that only derivatives have; the others of a mask are those of its image.
_OF_MASKS = ('space', 'atlas', 'seg', 'scale', 'res', 'den', 'label', 'desc', 'hemi')


class File(NamedTuple):
  """A file, and what its name says."""

  path: Path
  entities: Mapping[str, str]  # such as sub: 01, in the order of the name
  suffix: str  # T1w, dseg

  @property
  def source(self) -> dict[str, str]:
    """The entities that a mask has of its image."""
    return {key: value for key, value in self.entities.items() if key not in _OF_MASKS}

  @property
  def session(self) -> tuple[str, str]:
    """The subject and its session, '' without sessions."""
    return self.entities['sub'], self.entities.get('ses', '')

  @property
  def scan(self) -> str:
    """The name of the scan, such as sub-01_ses-1."""
    return _join(self.source)

  @property
  def kind(self) -> str:
    """What is alike in the names of masks of one kind, such as desc-X_dseg or label-*_mask."""
    own = {key: value for key, value in self.entities.items() if key in _OF_MASKS}
    own |= {'label': '*'} if 'label' in own else {}
    return '_'.join(filter(None, (_join(own), self.suffix)))


def has_subjects(root: Path) -> bool:
  """Returns whether a folder has places of subjects for anatomical images."""
  return any(path.is_dir() for pattern in _FOLDERS for path in root.glob(pattern))


def list_paths(root: Path) -> Iterator[Path]:
  """Yields the NIfTI files of all subjects, not hidden ones, sorted; links may lead nowhere."""
  for pattern in _FOLDERS:
    for path in sorted(root.glob(f'{pattern}/[!.]*')):
      if path.name.endswith(ENDINGS) and (path.is_file() or path.is_symlink()):
        yield path


def list_files(root: Path) -> list[File]:
  """Returns those files whose names are as BIDS has them, in the folder of their subject."""
  found = []
  for path in list_paths(root):
    entities, suffix = parse(path.name)
    if not suffix or 'sub' not in entities:
      continue
    for key, folder in zip(('sub', 'ses'), path.relative_to(root).parts[:-2], strict=False):
      if folder != f'{key}-{entities.get(key)}':
        raise InputError(
          f'{path}: lies in {folder}, but its name says {key}-{entities.get(key, "nothing")}; '
          'expected one of both. Rename or move it.'
        )
    found.append(File(path, entities, suffix))
  return found


def list_pipelines(folder: Path) -> list[Path]:
  """Returns the folders in derivatives, each of a program or a person."""
  return [path for path in sorted((folder / 'derivatives').glob('[!.]*')) if path.is_dir()]


def parse(name: str) -> tuple[dict[str, str], str]:
  """Returns entities and suffix of a file's name; no suffix if it is not as BIDS has them."""
  stem, dot, ending = name.partition('.')
  *pairs, suffix = stem.split('_')
  parts = [_ENTITY.fullmatch(pair) for pair in pairs]
  entities = {part[1]: part[2] for part in parts if part}
  # Surfaces have other endings, as dseg.dlabel.nii.
  is_known = dot + ending in (*ENDINGS, TABLE) and suffix.isalnum()
  return (entities, suffix) if is_known and len(entities) == len(pairs) else ({}, '')


def _join(entities: Mapping[str, str]) -> str:
  return '_'.join(f'{key}-{value}' for key, value in entities.items())
