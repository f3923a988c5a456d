"""Where searches stand, for the loop and for the checkpoints that it goes on from."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from thrifty_jax.networks.architecture import Architecture
from thrifty_jax.searching.bilevel import SearchState
from thrifty_jax.training.autosave import planned_epochs
from thrifty_jax.training.train_data import Figures


@dataclasses.dataclass
class Progress:
  """Where the searches stand: all that another process needs to go on with the same bits.

  What is of each search has a leading axis where there are several, see seeds.py.

  Attributes:
    state: After the last step.
    derived_from: The architecture at the end of the last epoch: the next genotype is compared with
      the one of these variables.
    seeds: Of the searches.
    patience: Epochs with the same genotype after which a search is finished; 0 is never.
    epoch: Epochs that are done.
    unchanged: Epochs since the genotype changed, int [] or [S].
    for_weights, for_architecture: Figures of the present epoch.
    began: When it began, by time.monotonic; earlier by what it took before it was stopped.
    planned: Epochs it was to take, from call to call: more of them stretch the schedules.
  """

  state: SearchState
  derived_from: Architecture
  seeds: tuple[int, ...] = (0,)
  patience: int = 0
  epoch: int = 0
  unchanged: np.ndarray = dataclasses.field(init=False)
  for_weights: Figures = dataclasses.field(init=False)
  for_architecture: Figures = dataclasses.field(init=False)
  began: float = dataclasses.field(default_factory=time.monotonic)
  planned: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    self.unchanged = np.zeros(np.shape(self.state.step), int)
    self.for_weights, self.for_architecture = self._figures(), self._figures()

  def _figures(self, notes: Mapping[str, Any] | None = None) -> Figures:
    several = self.seeds if len(self.seeds) > 1 else ()
    return Figures('search', self.epoch, notes, seeds=several)

  @property
  def step(self) -> int:
    """Steps that are done, of a search that is not finished."""
    return int(np.asarray(self.state.step).max())

  @property
  def going(self) -> np.ndarray:
    """Whether a search goes on for as many epochs as there are, bool [] or [S]."""
    return np.asarray((self.patience == 0) | (self.unchanged < self.patience))

  def arrays(self) -> dict[str, Any]:
    """The part that is arrays, a pytree."""
    return {'state': self.state._asdict(), 'derived_from': self.derived_from}

  def keep(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and notes for a checkpoint."""
    return self.arrays(), {
      'epoch': self.epoch,
      'unchanged': self.unchanged.tolist(),
      'for_weights': self.for_weights.notes(),
      'for_architecture': self.for_architecture.notes(),
      'seconds': time.monotonic() - self.began,
      'planned': list(self.planned),
    }

  def take_up(self, arrays: Any, notes: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint."""
    self.state, self.derived_from = SearchState(**arrays['state']), arrays['derived_from']
    self.epoch, self.unchanged = notes['epoch'], np.asarray(notes['unchanged'])
    self.for_weights = self._figures(notes['for_weights'])
    self.for_architecture = self._figures(notes['for_architecture'])
    self.began = time.monotonic() - notes['seconds']
    self.planned = planned_epochs(notes['planned'], self.planned[-1])

  def end_epoch(self) -> None:
    """Counts the epoch and clears its figures."""
    self.epoch += 1
    self.for_weights, self.for_architecture = self._figures(), self._figures()
    self.began = time.monotonic()
