"""Progress of the training of a network, for the loop and for its checkpoints."""

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
  """Progress of a training: all that another process needs to continue with identical results.

  Attributes:
    state: State after the last step.
    best: Best epoch so far.
    epoch: Number of completed epochs.
    figures: Figures of the present epoch.
    began: Start of the present epoch by time.monotonic, earlier by its time before an interruption.
    planned: Number of epochs planned by each call; more epochs stretch the schedules.
  """

  state: TrainState
  best: Best
  epoch: int = 0
  figures: Figures = dataclasses.field(default_factory=lambda: Figures('retrain', 0))
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  @property
  def step(self) -> int:
    """Number of completed steps."""
    return int(self.state.step)

  def is_finished(self, settings: ConfigDict) -> bool:
    """Returns whether all epochs are done, or the best one was `patience` epochs ago."""
    if self.epoch >= settings.epochs:
      return True
    if self.epoch % settings.validate_every:  # this epoch may be the best: not yet known
      return False
    return 0 < settings.patience <= self.epoch - self.best.epoch

  def is_validated(self, settings: ConfigDict) -> bool:
    """Returns whether the present epoch ends with a validation; the last one always does."""
    return not (self.epoch + 1) % settings.validate_every or self.epoch + 1 == settings.epochs

  def shown(self) -> dict[str, str]:
    """Returns the figures of the present epoch for the progress bar; {} before the second step."""
    if not self.figures.steps:
      return {}
    figures = self.figures
    shown = {'best': max(self.best.dsc, 0), 'dsc': figures.mean('dice')}
    return {
      name: f'{value:.3f}' for name, value in (shown | {'loss': figures.mean('loss')}).items()
    }

  def arrays(self) -> dict[str, Any]:
    """Returns the arrays of the progress, a pytree."""
    return {'state': self.state._asdict(), 'best': self.best._asdict()}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays and notes of a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'figures': self.figures.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Continues from a checkpoint."""
    self.state, self.best = TrainState(**arrays['state']), Best(**arrays['best'])
    self.epoch = notes['epoch']
    self.figures = Figures('retrain', self.epoch, notes['figures'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and resets the figures."""
    self.epoch += 1
    self.figures = Figures('retrain', self.epoch)
    self.began = time.monotonic()
