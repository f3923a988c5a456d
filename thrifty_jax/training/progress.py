"""Where the training of a network stands, for the loop and for its checkpoints."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.training.autosave import planned_epochs
from thrifty_jax.training.train_data import Figures
from thrifty_jax.training.train_step import Best, TrainState


@dataclasses.dataclass
class Progress:
  """Where a training stands: all that another process needs to go on with the same bits.

  Attributes:
    state: State after the last step.
    best: Best epoch so far.
    epoch: Epochs that are done.
    figures: Figures of the present epoch.
    began: Time when it began, by time.monotonic; earlier by what it took before it was stopped.
    planned: Epochs it was to take, from call to call: more of them stretch the schedules.
  """

  state: TrainState
  best: Best
  epoch: int = 0
  figures: Figures = dataclasses.field(default_factory=lambda: Figures('retrain', 0))
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  @property
  def step(self) -> int:
    """Steps that are done."""
    return int(self.state.step)

  def is_finished(self, settings: ConfigDict) -> bool:
    """Whether all epochs are done, or none was better for as long as patience says."""
    if self.epoch >= settings.epochs:
      return True
    if self.epoch % settings.validate_every:  # the best epoch may be this one: not yet known
      return False
    return 0 < settings.patience <= self.epoch - self.best.epoch

  def is_validated(self, settings: ConfigDict) -> bool:
    """Whether the present epoch ends with a validation; the last one always does."""
    return not (self.epoch + 1) % settings.validate_every or self.epoch + 1 == settings.epochs

  def shown(self) -> dict[str, str]:
    """What the bar shows of the present epoch, from its second step on."""
    if not self.figures.steps:
      return {}
    figures = self.figures
    shown = {'best': max(self.best.dsc, 0), 'dsc': figures.mean('dice')}
    return {
      name: f'{value:.3f}' for name, value in (shown | {'loss': figures.mean('loss')}).items()
    }

  def arrays(self) -> dict[str, Any]:
    """The part that is arrays, a pytree."""
    return {'state': self.state._asdict(), 'best': self.best._asdict()}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and notes for a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'figures': self.figures.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    self.state, self.best = TrainState(**arrays['state']), Best(**arrays['best'])
    self.epoch = notes['epoch']
    self.figures = Figures('retrain', self.epoch, notes['figures'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and clears its figures."""
    self.epoch += 1
    self.figures = Figures('retrain', self.epoch)
    self.began = time.monotonic()
