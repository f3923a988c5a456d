"""The one exception that means: what the user gave cannot be used."""


class InputError(Exception):
  """Bad input or usage: one line with what, where, what was expected and the remedy.

  The command line prints the line and exits with status 2; nothing is half-written.
  """
