"""Frozen dataclasses as JSON: the class alone says which form a file has, to writer and readers.

The annotation of a field says what the file holds there:

    int, float, str, bool, None       a whole number, a number up to 1e15, text, true or false, null
    dict                              any object, as it is
    Mapping[str, X], tuple[X, ...]    an object with any names, a list of any length
    tuple[X, Y]                       a list of so many
    X | Y                             the first that fits
    Annotated[X, allowed]             an X that is allowed (allowed.py)
    another such class                an object
    Annotated[X, Inline(prefix)]      no object of its own: the fields of X stand beside the others,
                                      behind a prefix; null under all their names is None

A field with a default may be missing, and is not written while it has that value, unless its
metadata are WRITTEN or a factory makes the default. Names of no field are ignored.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from thrifty_jax import files
from thrifty_jax.errors import InputError

T = TypeVar('T')
_LARGEST = 1e15  # of a number: pictures have no place for more
WRITTEN = {'is_written': True}  # metadata of a field that is written at its default too
REMEDY = 'put it back, or remove it and run the stage that writes it again'
_UNIONS = (typing.Union, types.UnionType)
_NAMES: dict[Any, str] = {
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  bool: 'true or false',
  types.NoneType: 'null',
}


class Inline(NamedTuple):
  """Marks a field whose own fields stand beside the others in the file, behind the prefix."""

  prefix: str = ''


class _Field(NamedTuple):
  """A field of a record.

  `default` is the value that is not written, MISSING if there is none; `inline` is the record whose
  fields stand in its place, else None.
  """

  name: str
  form: Any
  default: Any
  may_be_missing: bool
  inline: Any = None
  prefix: str = ''


def read(path: Path, form: type[T]) -> T:
  """Reads a JSON file that has the form of a class, or of another annotation.

  An InputError says at which place which value stands, and what was expected.
  """
  return parse(files.read_json(path), form, path)


def read_optional(path: Path, form: type[T]) -> T | None:
  """Reads a JSON file as `read` does; None if it is missing."""
  return read(path, form) if path.exists() else None


def parse(value: Any, form: type[T], path: Path | str, *, remedy: str = REMEDY) -> T:
  """Makes a record of a value that JSON had at `path`, or raises InputError (see read)."""
  try:
    return _parse(value, form, '')
  except ValueError as error:
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
  for field in _fields(type(value)):
    inner = getattr(value, field.name)
    if field.inline:
      nulls = {part.name: None for part in _fields(field.inline)}
      parts = nulls if inner is None else to_json(inner)
      content |= {field.prefix + name: part for name, part in parts.items()}
    elif inner != field.default:
      content[field.name] = to_json(inner)
  return content


@functools.cache
def _fields(record: type) -> list[_Field]:
  forms = typing.get_type_hints(record, include_extras=True)
  found = []
  for field in dataclasses.fields(record):
    form, inline, prefix = forms[field.name], None, ''
    if typing.get_origin(form) is Annotated and isinstance(form.__metadata__[0], Inline):
      form, (prefix,) = typing.get_args(form)
      inline = next(filter(dataclasses.is_dataclass, (form, *typing.get_args(form))))
    missing = dataclasses.MISSING
    default = missing if field.metadata == WRITTEN else field.default
    has_default = field.default is not missing or field.default_factory is not missing
    found.append(_Field(field.name, form, default, has_default, inline, prefix))
  return found


def _parse(value: Any, form: Any, place: str) -> Any:
  """The value as the form has it; raises ValueError with the first problem."""
  origin, inner = typing.get_origin(form), typing.get_args(form)
  if origin in _UNIONS:
    problems = []
    for one in inner:
      try:
        return _parse(value, one, place)
      except ValueError as problem:
        problems.append(problem)
    raise problems[0]
  if origin is tuple and type(value) is list and (... in inner or len(inner) == len(value)):
    forms = inner[:1] * len(value) if ... in inner else inner
    return tuple(_parse(one, forms[i], f'{place}[{i}]') for i, one in enumerate(value))
  if origin is Mapping and type(value) is dict:
    return {name: _parse(one, inner[1], _at(place, name)) for name, one in value.items()}
  if dataclasses.is_dataclass(form) and type(value) is dict:
    return _parse_record(value, form, place)
  if not _fits(value, form):
    raise ValueError(f'{place or "all of it"} is {value!r:.60}, expected {_describe(form)}')
  return value


def _parse_record(value: dict[str, Any], record: Any, place: str, prefix: str = '') -> Any:
  found = {}
  for field in _fields(record):
    key = prefix + field.name
    if field.inline:
      start = prefix + field.prefix
      nulls = [value.get(start + part.name, '') is None for part in _fields(field.inline)]
      is_none = field.form is not field.inline and all(nulls)
      found[field.name] = None if is_none else _parse_record(value, field.inline, place, start)
    elif key in value:
      found[field.name] = _parse(value[key], field.form, _at(place, key))
    elif not field.may_be_missing:
      raise ValueError(f'{_at(place, key)} is missing, expected {_describe(field.form)}')
  return record(**found)


def _at(place: str, name: str) -> str:
  return f'{place}.{name:.40}'.lstrip('.')


def _fits(value: Any, form: Any) -> bool:
  """Whether a value that holds no others has the form."""
  if typing.get_origin(form) is Annotated:
    kind, check = typing.get_args(form)
    return _fits(value, kind) and check.holds(value)
  if form is float:
    return type(value) in (int, float) and abs(value) <= _LARGEST
  return type(value) is form  # True is no whole number


def _describe(form: Any) -> str:
  origin, inner = typing.get_origin(form), typing.get_args(form)
  if origin in _UNIONS:
    return ' or '.join(map(_describe, inner))
  if origin is Annotated:
    kind, check = inner
    return check.expected if kind is str else f'{_NAMES[kind]} {check.expected}'
  if origin is tuple:
    return 'a list' if ... in inner else f'a list of {len(inner)}'
  return _NAMES.get(form, 'an object')
