"""Frozen dataclasses as JSON: the class alone says which form a file has, to writer and readers.

The annotation of a field says what the file holds there:

    int, float, str, bool, None       a whole number, a number up to 1e15, text, true or false, null
    dict                              any object, as it is
    Mapping[str, X], tuple[X, ...]    an object with any names, a list of any length
    tuple[X, Y]                       a list of so many
    X | Y                             the first that fits
    Annotated[X, check]               an X in the range `check`, one that it allows (allowed.py), or
                                      one that the function `check` accepts, whose docstring says
                                      what that is
    another such class                an object
    Annotated[X, Inline(prefix)]      no object of its own: the fields of X stand beside the others,
                                      behind a prefix; null under all their names is None

A field with a default may be missing, and is not written while it has that value. Names of no field
are ignored.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from thrifty_jax import files
from thrifty_jax.allowed import Allowed
from thrifty_jax.errors import InputError

T = TypeVar('T')
_LARGEST = 1e15  # of a number: pictures have no place for more
_REMEDY = 'put it back, or remove it and run the stage that writes it again'
_NAMES: dict[Any, str] = {
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  bool: 'true or false',
  types.NoneType: 'null',
}


class _Mismatch(Exception):
  """What is wrong with a value, in words."""


class Inline(NamedTuple):
  """Marks a field whose own fields stand beside the others in the file, behind the prefix."""

  prefix: str = ''


def read(path: Path, form: type[T]) -> T:
  """Reads a JSON file that has the form of a class, or of another annotation.

  Raises:
    InputError: If it cannot be read or has another form: with the place, the value there and what
      was expected.
  """
  return parse(files.read_json(path), form, path)


def parse(value: Any, form: type[T], path: Path | str, *, remedy: str = _REMEDY) -> T:
  """Makes a record of a value that JSON had at `path`, or raises InputError (see read)."""
  try:
    return _parse(value, form, '')
  except _Mismatch as error:
    raise InputError(f'{path}: {error}; the file is damaged: {remedy}') from error


def write(path: Path, record: Any) -> None:
  """Writes records as indented JSON, whole or not at all."""
  files.write_json(path, to_json(record))


def to_json(value: Any) -> Any:
  """Turns records, also within lists and mappings, into what json can write."""
  if isinstance(value, Mapping):
    return {name: to_json(inner) for name, inner in value.items()}
  if isinstance(value, tuple | list):
    return [to_json(inner) for inner in value]
  if not dataclasses.is_dataclass(value):
    return value
  content = {}
  for name, form, default, prefix in _fields(type(value)):
    inner = getattr(value, name)
    if prefix is not None:
      parts = _nulls(form) if inner is None else to_json(inner)
      content |= {prefix + part: one for part, one in parts.items()}
    elif inner != default:
      content[name] = to_json(inner)
  return content


@functools.cache
def _fields(record: type) -> list[tuple[str, Any, Any, str | None]]:
  """Of each field the name, the annotation, the default, and the prefix if it is inline."""
  forms = typing.get_type_hints(record, include_extras=True)
  found = []
  for field in dataclasses.fields(record):
    form, prefix = forms[field.name], None
    if typing.get_origin(form) is Annotated and isinstance(form.__metadata__[0], Inline):
      form, (prefix,) = typing.get_args(form)
    found.append((field.name, form, field.default, prefix))
  return found


def _record_of(form: Any) -> Any:
  """The record of `Record | None`."""
  return next((one for one in typing.get_args(form) if dataclasses.is_dataclass(one)), form)


def _nulls(form: Any) -> dict[str, None]:
  """What stands in a file for `Record | None` where it is None."""
  return {name: None for name, *_ in _fields(_record_of(form))}


def _parse(value: Any, form: Any, place: str) -> Any:
  """The value as the form has it; raises _Mismatch."""
  origin, inner = typing.get_origin(form), typing.get_args(form)
  if origin in (typing.Union, types.UnionType):
    return _parse_one_of(value, inner, place)
  if origin is tuple and type(value) is list:
    each = inner[:1] * len(value) if ... in inner else inner
    if len(each) == len(value):
      pairs = enumerate(zip(value, each, strict=True))
      return tuple(_parse(one, part, f'{place}[{index}]') for index, (one, part) in pairs)
  elif origin is Mapping and type(value) is dict:
    return {name: _parse(one, inner[1], _at(place, name)) for name, one in value.items()}
  elif dataclasses.is_dataclass(form) and type(value) is dict:
    return _parse_record(value, form, place)
  elif _fits(value, form):
    return value
  raise _Mismatch(f'{place or "all of it"} is {value!r:.60}, expected {_described(form)}')


def _parse_one_of(value: Any, forms: tuple[Any, ...], place: str) -> Any:
  problems = []
  for form in forms:
    try:
      return _parse(value, form, place)
    except _Mismatch as problem:
      problems.append(problem)
  raise problems[0]


def _parse_record(value: dict[str, Any], record: Any, place: str, prefix: str = '') -> Any:
  found = {}
  for name, form, default, inner in _fields(record):
    key = prefix + name
    if inner is not None:
      kind, parts = _record_of(form), [prefix + inner + part for part in _nulls(form)]
      is_none = kind is not form and all(value.get(part, '') is None for part in parts)
      found[name] = None if is_none else _parse_record(value, kind, place, prefix + inner)
    elif key in value:
      found[name] = _parse(value[key], form, _at(place, key))
    elif default is dataclasses.MISSING:
      raise _Mismatch(f'{_at(place, key)} is not there, expected {_described(form)}')
  return record(**found)


def _at(place: str, name: str) -> str:
  return f'{place}.{name:.40}'.lstrip('.')


def _fits(value: Any, form: Any) -> bool:
  """Whether a value that holds no others has the form."""
  if typing.get_origin(form) is Annotated:
    kind, check = typing.get_args(form)
    holds = check.holds if isinstance(check, Allowed) else check
    return _fits(value, kind) and (value in holds if isinstance(holds, range) else holds(value))
  if form is float:
    return type(value) in (int, float) and abs(value) <= _LARGEST
  return type(value) is form  # True is no whole number


def _described(form: Any) -> str:
  origin, inner = typing.get_origin(form), typing.get_args(form)
  if origin in (typing.Union, types.UnionType):
    return ' or '.join(map(_described, inner))
  if origin is Annotated:
    check = inner[1]
    if isinstance(check, range):
      return f'a whole number from {check[0]} to {check[-1]}'
    return check.expected if isinstance(check, Allowed) else str(check.__doc__).splitlines()[0]
  if origin is tuple:
    return 'a list' if ... in inner else f'a list of {len(inner)}'
  return _NAMES.get(form, 'an object')
