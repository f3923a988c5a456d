"""The form that a file of a run must have: checked once, so that who reads it need not doubt.

A form looks like what it describes:

    {'patients': int, '?note': str}   an object with these names, the second one if it is there;
                                      others may be there too
    {str: form}                       an object with any names
    [form]                            a list of any length
    (form, other)                     one or the other
    int, float, str, bool, dict       a whole number, any number up to 1e15, text, true or false,
                                      any object
    None                              null
    range(2, 7)                       a whole number from 2 to 6
    a function                        whatever it returns True for; its first line says what that is
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from thrifty_jax import files
from thrifty_jax.errors import InputError

Form = Any
_LARGEST = 1e15  # of a number: pictures have no place for more
_MOST_ROWS = 50_000  # of a table: patients times classes
_NAMES = {
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  bool: 'true or false',
  None: 'null',
}


def read(path: Path, form: Form) -> Any:
  """The value of a JSON file that has the form.

  Raises:
    InputError: If it cannot be read or has another form: with the place, the value there and what
      was expected.
  """
  value = files.read_json(path)
  require(path, value, form)
  return value


def require(path: Path, value: Any, form: Form) -> None:
  """Refuses a value of another form; path says where it stands."""
  if problem := _problem(value, form, ''):
    raise InputError(
      f'{path}: {problem}; the file is damaged: put it back, or remove it and run the stage that '
      'writes it again'
    )


def read_rows(path: Path, columns: Sequence[str], *, scores: Sequence[str] = ()) -> list[Any]:
  """The rows of a CSV file.

  Args:
    path: The file.
    columns: That it must have; others may be there too.
    scores: Those of its columns, as far as they are there, that hold numbers from 0 to 1.

  Returns:
    A dictionary of texts for each row, at least one.

  Raises:
    InputError: If it cannot be read or is anything else.
  """
  files.require_file(path, most_bytes=files.MOST_JSON_BYTES)
  try:
    with path.open(newline='', encoding='utf-8') as file:
      reader = csv.DictReader(file)
      names = reader.fieldnames or ()
      rows = [row for row, _ in zip(reader, range(_MOST_ROWS + 1), strict=False)]
  except (OSError, ValueError, csv.Error) as error:
    raise InputError(f'{path}: cannot be read as CSV ({error})') from error
  if not {*columns} <= {*names} or len({*names}) < len(names):
    raise InputError(f'{path}: has the columns {names!r:.200}; expected {", ".join(columns)} there')
  if not 0 < len(rows) <= _MOST_ROWS:
    raise InputError(f'{path}: has {len(rows)} rows or more; expected 1 to {_MOST_ROWS}')
  for number, row in enumerate(rows, start=2):
    for name, text in row.items():
      if name is None or text is None or (name in scores and not _is_share(text)):
        raise InputError(
          f'{path}: line {number} has {text!r:.60} under {name!r:.60}; expected a value for each '
          'column, and scores from 0 to 1'
        )
  return rows


def name(value: Any) -> bool:
  """a name that a file can have"""
  return inside(value) and len(PurePosixPath(value).parts) <= 1


def inside(value: Any) -> bool:
  """a path that leads to nowhere outside of the run"""
  return (
    isinstance(value, str)
    and value.isprintable()
    and '\\' not in value
    and not PurePosixPath(value).is_absolute()
    and '..' not in PurePosixPath(value).parts
  )


def _is_share(text: str) -> bool:
  try:
    return 0 <= float(text) <= 1  # not NaN either
  except ValueError:
    return False


def _problem(value: Any, form: Form, place: str) -> str:
  """What is wrong first; '' if nothing is."""
  if isinstance(form, Mapping) and isinstance(value, dict):
    return _problem_in(value, form, place)
  if isinstance(form, list) and isinstance(value, list):
    inner = (_problem(one, form[0], f'{place}[{i}]') for i, one in enumerate(value))
    return next(filter(None, inner), '')
  if isinstance(form, tuple):
    problems = [_problem(value, one, place) for one in form]
    return '' if '' in problems else problems[0]
  if fits(value, form):
    return ''
  return f'{place.lstrip(".") or "all of it"} is {value!r:.60}, expected {_described(form)}'


def _problem_in(value: dict[str, Any], form: Mapping[Any, Form], place: str) -> str:
  for name, inner in form.items():
    if name is str:
      found = ((one, value[one]) for one in value)
    elif name.lstrip('?') in value:
      found = iter([(name.lstrip('?'), value[name.lstrip('?')])])
    elif name.startswith('?'):
      continue
    else:
      return f'{f"{place}.{name}".lstrip(".")} is not there, expected {_described(inner)}'
    for one, content in found:
      if problem := _problem(content, inner, f'{place}.{one:.40}'):
        return problem
  return ''


def fits(value: Any, form: Form) -> bool:
  """Whether a value that holds no others has the form."""
  if isinstance(form, range):
    return type(value) is int and value in form
  if form is float:
    return type(value) in (int, float) and abs(value) <= _LARGEST
  if form is None or isinstance(form, type):
    return value is None if form is None else type(value) is form  # True is no whole number
  return callable(form) and form(value)


def _described(form: Form) -> str:
  if isinstance(form, range):
    return f'a whole number from {form[0]} to {form[-1]}'
  if isinstance(form, Mapping | list):
    return 'an object' if isinstance(form, Mapping) else 'a list'
  if isinstance(form, tuple):
    return ' or '.join(map(_described, form))
  return _NAMES.get(form) or str(form.__doc__).splitlines()[0]
