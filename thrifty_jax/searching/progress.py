"""Progress of a search, for the loop and for its checkpoints."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.networks.architecture import Architecture
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.training.autosave import planned_epochs
from thrifty_jax.training.train_data import Figures


@dataclasses.dataclass
class Progress:
  """Progress of a search: all that another process needs to continue with identical results.

  Attributes:
    state: State after the last step.
    derived_from: Architecture variables at the end of the last epoch; the next genotype is compared
      with theirs.
    epoch: Number of completed epochs.
    unchanged: Number of epochs since the genotype changed.
    for_weights, for_architecture: Figures of the present epoch.
    began: Start of the present epoch by time.monotonic, earlier by its time before an interruption.
    planned: Number of epochs planned by each call; more epochs stretch the schedules.
  """

  state: SearchState
  derived_from: Architecture
  epoch: int = 0
  unchanged: int = 0
  for_weights: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  for_architecture: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  @property
  def step(self) -> int:
    """Number of completed steps."""
    return int(self.state.step)

  def is_finished(self, settings: ConfigDict) -> bool:
    """Returns whether all epochs are done or the genotype was unchanged for `patience` epochs."""
    return self.epoch >= settings.epochs or 0 < settings.patience <= self.unchanged

  def shown(self) -> dict[str, str]:
    """Returns the figures of the present epoch for the progress bar; {} while one half has none."""
    if not self.for_architecture.steps:
      return {}
    loss, dsc = self.for_weights.mean('weight_loss'), self.for_architecture.dsc()
    return {'loss': f'{loss:.3f}', 'dsc': f'{dsc:.3f}'}

  def arrays(self) -> dict[str, Any]:
    """Returns the arrays of the progress, a pytree."""
    return {'state': self.state._asdict(), 'derived_from': self.derived_from}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays and notes of a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'unchanged': self.unchanged,
      'for_weights': self.for_weights.notes(),
      'for_architecture': self.for_architecture.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Continues from a checkpoint."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']
    self.epoch, self.unchanged = notes['epoch'], notes['unchanged']
    self.for_weights = Figures('search', self.epoch, notes['for_weights'])
    self.for_architecture = Figures('search', self.epoch, notes['for_architecture'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and resets the figures."""
    self.epoch += 1
    self.for_weights = Figures('search', self.epoch)
    self.for_architecture = Figures('search', self.epoch)
    self.began = time.monotonic()
