"""Exceptions for input that cannot be used."""


class InputError(Exception):
  """Bad input or usage: one line with the problem, its place, what was expected and the remedy.

  The command line prints the line and exits with status 2; nothing is half-written.
  """


class NotFinite(InputError):
  """A loss or a gradient is non-finite, most often because the learning rate is too high.

  `step` is the number of the step in its stage, counted from 1.
  """

  def __init__(self, text: str, *, step: int = 0):
    super().__init__(text)
    self.step = step
