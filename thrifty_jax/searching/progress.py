"""Where a search stands, for the loop and for the checkpoints that it goes on from."""

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
  """Where a search stands: all that another process needs to go on with the same bits.

  Attributes:
    state: State after the last step.
    derived_from: Architecture at the end of the last epoch: the next genotype is compared with the
      one of these variables.
    epoch: Epochs that are done.
    unchanged: Epochs since the genotype changed.
    for_weights, for_architecture: Figures of the present epoch.
    began: Time when it began, by time.monotonic; earlier by what it took before it was stopped.
    planned: Epochs it was to take, from call to call: more of them stretch the schedules.
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
    """Steps that are done."""
    return int(self.state.step)

  def is_finished(self, settings: ConfigDict) -> bool:
    """Whether all epochs are done, or the genotype has rested for as long as patience says."""
    return self.epoch >= settings.epochs or 0 < settings.patience <= self.unchanged

  def shown(self) -> dict[str, str]:
    """What the bar shows of the present epoch, from the first step of both halves on."""
    if not self.for_architecture.steps:
      return {}
    loss, dsc = self.for_weights.mean('weight_loss'), self.for_architecture.dsc()
    return {'loss': f'{loss:.3f}', 'dsc': f'{dsc:.3f}'}

  def arrays(self) -> dict[str, Any]:
    """The part that is arrays, a pytree."""
    return {'state': self.state._asdict(), 'derived_from': self.derived_from}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and notes for a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'unchanged': self.unchanged,
      'for_weights': self.for_weights.notes(),
      'for_architecture': self.for_architecture.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']
    self.epoch, self.unchanged = notes['epoch'], notes['unchanged']
    self.for_weights = Figures('search', self.epoch, notes['for_weights'])
    self.for_architecture = Figures('search', self.epoch, notes['for_architecture'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and clears its figures."""
    self.epoch += 1
    self.for_weights = Figures('search', self.epoch)
    self.for_architecture = Figures('search', self.epoch)
    self.began = time.monotonic()
