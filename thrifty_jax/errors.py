"""Exceptions for input that cannot be used."""


def first_line(error: Exception) -> str:
  """Returns the first line of an error that says something, or the name of its type."""
  return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
