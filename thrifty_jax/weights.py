"""The weights of a run, by their SHA-256: those that its models have, and those that were scored.

File times do not tell whether scores are of these weights: a copy may have others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thrifty_jax import records

WEIGHTS = 'weights.safetensors'  # file of a model


@dataclass(frozen=True)
class Checksums:
  """What is read of a model's checksums.json."""

  sha256: Mapping[str, str]  # of each file


@dataclass(frozen=True)
class _Scores:
  """The part of a summary.json that tells whose scores it has."""

  weights_sha256: tuple[str, ...] = ()


def read(workdir: Path) -> tuple[str, ...]:
  """Reads the weights of a run's model, or of those of its folds; () where there is none."""
  folders = [workdir / 'model', *sorted(workdir.glob('fold_*/model'))]
  found = [records.read_optional(folder / 'checksums.json', Checksums) for folder in folders]
  return tuple(filter(None, (one.sha256.get(WEIGHTS) for one in found if one)))


def read_scored(summary: Path) -> tuple[str, ...]:
  """Reads the weights that a summary.json has the scores of; () if it is missing or of old."""
  found = records.read_optional(summary, _Scores)
  return found.weights_sha256 if found else ()


def has_old_scores(workdir: Path, summary: str = 'evaluate/summary.json') -> bool:
  """Whether scores are of weights that a run no longer has; False where that is not known.

  Of the folds some may not be there, and some not be scored yet.
  """
  now, scored = {*read(workdir)}, {*read_scored(workdir / summary)}
  return not (now <= scored or scored <= now)
