"""Progress of a search, for the loop and for its checkpoints."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax.networks.architecture import Architecture
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.training import autosave
from thrifty_jax.training.train_data import Figures


@dataclasses.dataclass
class Progress(autosave.Progress):
  """Progress of a search: that of every loop, and what its end depends on."""

  NOTED = ('epoch', 'unchanged')

  state: SearchState
  derived_from: Architecture  # at the end of the last epoch, to compare the next genotype with
  unchanged: int = 0  # epochs since the genotype changed
  for_weights: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))
  for_architecture: Figures = dataclasses.field(default_factory=lambda: Figures('search', 0))

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

  def set_arrays(self, arrays: Any) -> None:
    """Sets the state and the variables that the last genotype was derived from."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']
