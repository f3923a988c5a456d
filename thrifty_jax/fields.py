"""Frozen dataclasses as JSON objects: beside each field stands what it may be."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from thrifty_jax.errors import InputError

T = TypeVar('T')
# Whether a value can be the field's, given the whole object; fields above it are checked by then.
Fits = Callable[[Any, Mapping[str, Any]], bool]
_MISSING = object()  # fits no field


def field(fits: Fits, *, left_out: bool = False, **settings: Any) -> Any:
  """A field of a dataclass that is read from JSON.

  Args:
    fits: Rule that a value from a file has to pass.
    left_out: Whether the object has no such name where the value is None.
    **settings: Arguments of dataclasses.field. A default stands for a name that is missing.
  """
  return dataclasses.field(metadata={'fits': fits, 'left_out': left_out}, **settings)


def read(kind: type[T], found: Mapping[str, Any], *, place: Any) -> T:
  """An object of JSON as a dataclass, lists as tuples.

  Args:
    kind: Dataclass with a `field` for each name; a field that is such a dataclass itself has its
      names in the same object.
    found: Object as it was read, whose other names are ignored.
    place: Path of the file, for the error.

  Raises:
    InputError: If a field does not pass its rule.
  """
  values = {}
  for one in dataclasses.fields(kind):  # pyrefly: ignore
    if dataclasses.is_dataclass(one.type):
      values[one.name] = read(one.type, found, place=place)  # pyrefly: ignore
      continue
    otherwise = _MISSING if one.default is dataclasses.MISSING else one.default
    value = found.get(one.name, otherwise)
    if not one.metadata['fits'](value, found):
      raise InputError(
        f'{place}: "{one.name}" is {found.get(one.name)!r:.80}, which no network has; the folder '
        'is damaged'
      )
    values[one.name] = tuple(value) if isinstance(value, list) else value
  return kind(**values)


def to_json(record: Any) -> dict[str, Any]:
  """A dataclass as the object that `read` takes, its names in the order of the fields."""
  found: dict[str, Any] = {}
  for one in dataclasses.fields(record):
    value = getattr(record, one.name)
    if dataclasses.is_dataclass(value):
      found |= to_json(value)
    elif value is not None or not one.metadata['left_out']:
      found[one.name] = list(value) if isinstance(value, tuple) else value
  return found


# The rules.


def whole(least: int, most: int) -> Fits:
  """A whole number between two limits, both included."""
  return lambda value, _: type(value) is int and least <= value <= most  # True is none


def one_of(*values: Any) -> Fits:
  """One of these values, which are text."""
  return lambda value, _: value in values


def truth(value: Any, _: Mapping[str, Any]) -> bool:
  """True or False."""
  return isinstance(value, bool)


def number(least: float, most: float) -> Fits:
  """A number between two limits, both included."""
  return lambda value, _: type(value) in (int, float) and least <= value <= most


def numbers(count: int | Callable[[Mapping[str, Any]], int], least: float, most: float) -> Fits:
  """A list of so many numbers between two limits; the count may follow from the object."""
  one = number(least, most)

  def fits(value: Any, found: Mapping[str, Any]) -> bool:
    wanted = count(found) if callable(count) else count
    return isinstance(value, list) and len(value) == wanted and all(one(v, found) for v in value)

  return fits


def some_of(names: Callable[[Mapping[str, Any]], Any]) -> Fits:
  """A list of any of the names, which follow from the object."""
  return lambda value, found: isinstance(value, list) and all(one in names(found) for one in value)


def none_or(fits: Fits) -> Fits:
  """None, or what another rule lets pass."""
  return lambda value, found: value is None or fits(value, found)
