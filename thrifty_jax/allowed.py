"""Allowed values: a test and its description for errors and the page of settings."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from thrifty_jax.errors import InputError


class Allowed(NamedTuple):
  """The values that a setting may have."""

  expected: str  # the values in words, printed after `expected` in an error
  holds: Callable[[Any], Any]  # test of a value; TypeError for another type or number of values


_PATTERN = r'[^{}]*({case}[^{}]+{channel}|{channel}[^{}]+{case})[^{}]*'


def one_of(*choices: str) -> Allowed:
  """Allows the given names."""
  return Allowed(' or '.join(choices), lambda value: value in choices)


def at_least(least: float) -> Allowed:
  """Allows numbers that are at least `least`."""
  return Allowed(f'{least} or more', lambda value: value >= least)


def within(low: float, high: float) -> Allowed:
  """Allows numbers between low and high, both included."""
  return Allowed(f'from {low} to {high}', lambda value: low <= value <= high)


def numbers(expected: str, holds: Callable[..., bool]) -> Allowed:
  """Allows tuples of numbers; the test receives them as arguments, which fixes their count."""
  return Allowed(expected, lambda value: all(map(_is_number, value)) and holds(*value))


def names(
  expected: str, *, least: int = 0, most: float = math.inf, known: tuple[str, ...] = ()
) -> Allowed:
  """Allows tuples of `least` to `most` different texts, all in `known` if that is not empty."""

  def holds(value: tuple[Any, ...]) -> bool:
    texts = all(isinstance(name, str) and name for name in value)
    fits = least <= len(value) <= most and (not known or {*value} <= {*known})
    return texts and fits and len({*value}) == len(value)

  return Allowed(expected, holds)


def require_spacing(spacing_mm: Sequence[float], axes: int) -> None:
  """Refuses a spacing, as Python gives it, that is not a distance above 0 for each axis."""
  try:
    fine = len(spacing_mm) == axes and all(0 < step < math.inf for step in spacing_mm)
  except (TypeError, ValueError):  # a number, texts, or lists in lists
    fine = False
  if not fine:
    raise InputError(
      f'spacing_mm is {spacing_mm!r}; expected {axes} distances above 0, one an axis'
    )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _is_address(value: str) -> bool:
  host, _, port = value.rpartition(':')
  return not value or (bool(host) and port.isdigit() and 0 < int(port) < 1 << 16)


TEXT = Allowed('a text', lambda value: isinstance(value, str))
PUBLIC_TEXT = Allowed('a text', lambda value: isinstance(value, str))  # no path, nobody's name
SWITCH = Allowed('True or False', lambda value: isinstance(value, bool))
COUNT = Allowed('a whole number from 1', lambda value: value >= 1)
FROM_0 = at_least(0)
ABOVE_0 = Allowed('above 0', lambda value: value > 0)
BELOW_1 = Allowed('from 0 to below 1', lambda value: 0 <= value < 1)
SHARE = within(0, 1)
REDUCTION = Allowed('0, or a factor from 1', lambda value: value == 0 or value >= 1)
FACTORS = numbers('two factors above 0, the smaller first', lambda a, b: 0 < a <= b)
TWO_BELOW_1 = numbers('two from 0 to below 1', lambda a, b: 0 <= a < 1 and 0 <= b < 1)
RISING = numbers('two numbers, the first below the second', lambda a, b: a < b)
RISING_LIST = numbers(
  'rising numbers above 0', lambda *n: min(n, default=0) > 0 and [*n] == sorted({*n})
)
PERCENTILES = numbers('two rising ones within 0 and 100', lambda a, b: 0 <= a < b <= 100)
RATES = numbers(
  'different ones above 0', lambda *rates: 0 < len({*rates}) == len(rates) and min(rates) > 0
)
COLOURS = Allowed(
  "(), or different colours, as in ('#000000','#ff0000')",
  lambda value: (
    isinstance(value, tuple)
    and all(re.fullmatch(r'#[0-9a-fA-F]{6}', colour) for colour in value)
    and len({colour.lower() for colour in value}) == len(value)
  ),
)
REGIONS = Allowed(
  "'', or labels by commas and classes by spaces, as in '1,2,3 2,3 3'",
  lambda value: re.fullmatch(r'(\d{1,3}(,\d{1,3})*( \d{1,3}(,\d{1,3})*)*)?', value) is not None,
)
PATTERN = Allowed(
  "'', or a name as '{case}_{channel}', with a text between the two",
  lambda value: not value or re.fullmatch(_PATTERN, value) is not None,
)
FILES = names("different files, as in ('a.json', 'b.json')")
PATIENTS = names("different names, as in ('a', 'b')")
ADDRESS = Allowed("HOST:PORT, or ''", _is_address)
