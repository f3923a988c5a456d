"""Progress of the training of a network, for the loop and for its checkpoints."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.training import autosave
from thrifty_jax.training.train_data import Figures
from thrifty_jax.training.train_step import Best, TrainState


@dataclasses.dataclass
class Progress(autosave.Progress):
  """Progress of a training: that of every loop, and the best epoch so far."""

  state: TrainState
  best: Best
  figures: Figures = dataclasses.field(default_factory=lambda: Figures('retrain', 0))

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
    dsc, loss = self.figures.mean('dice'), self.figures.mean('loss')
    return {'best': f'{max(self.best.dsc, 0):.3f}', 'dsc': f'{dsc:.3f}', 'loss': f'{loss:.3f}'}

  def arrays(self) -> dict[str, Any]:
    """Returns the arrays of the progress, a pytree."""
    return {'state': self.state._asdict(), 'best': self.best._asdict()}

  def set_arrays(self, arrays: Any) -> None:
    """Sets the state and the best epoch."""
    self.state, self.best = TrainState(**arrays['state']), Best(**arrays['best'])
