"""Records: what is written comes back, and anything else is one line with the place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import pytest

from thrifty_jax import files, records
from thrifty_jax.allowed import Allowed, within
from thrifty_jax.errors import InputError
from thrifty_jax.records import WRITTEN, Inline


@dataclass(frozen=True)
class Part:
  mean: float
  pair: tuple[int, int] | None


@dataclass(frozen=True)
class Whole:
  name: Annotated[str, Allowed('a short text', lambda value: len(value) < 4)]
  count: Annotated[int, within(1, 3)]
  first: Annotated[Part, Inline('first_')]
  second: Annotated[Part | None, Inline('second_')]
  parts: Mapping[str, Part]
  any: dict
  more: tuple[int | str, ...] = ()
  note: str | None = None


WHOLE = Whole('abc', 2, Part(0.5, (1, 2)), None, {'x': Part(1, None)}, {'free': [1, {}]})
CONTENT = {
  'name': 'abc',
  'count': 2,
  'first_mean': 0.5,
  'first_pair': [1, 2],
  'second_mean': None,
  'second_pair': None,
  'parts': {'x': {'mean': 1, 'pair': None}},
  'any': {'free': [1, {}]},
}


def test_a_record_is_written_as_its_fields_and_comes_back(tmp_path):
  assert records.to_json(WHOLE) == CONTENT
  path = tmp_path / 'whole.json'
  records.write(path, WHOLE)
  assert records.read(path, Whole) == WHOLE
  records.write(path, (WHOLE, WHOLE))
  assert records.read(path, tuple[Whole, ...]) == (WHOLE, WHOLE)


def test_a_field_with_a_default_may_be_missing_and_other_names_are_ignored():
  assert records.parse(CONTENT | {'unknown': 1}, Whole, 'x') == WHOLE
  found = records.parse(CONTENT | {'more': [1, 'a'], 'note': 'n'}, Whole, 'x')
  assert (found.more, found.note) == ((1, 'a'), 'n')
  assert records.to_json(found) == CONTENT | {'more': [1, 'a'], 'note': 'n'}


@dataclass(frozen=True)
class Optional:
  score: float | None = field(default=None, metadata=WRITTEN)
  counts: Mapping[str, int] = field(default_factory=dict)


def test_a_default_that_is_always_written_or_made_may_be_missing_too():
  assert records.to_json(Optional()) == {'score': None, 'counts': {}}
  assert records.parse({}, Optional, 'x') == Optional()
  assert records.parse({'score': 1, 'counts': {'a': 2}}, Optional, 'x') == Optional(1, {'a': 2})


def test_an_inline_record_is_none_where_all_its_names_are_null():
  found = records.parse(CONTENT | {'second_mean': 3.0}, Whole, 'x')
  assert found.second == Part(3.0, None)


@pytest.mark.parametrize(
  ('name', 'value', 'told'),
  [
    ('name', 'abcd', "name is 'abcd', expected a short text"),
    ('name', 1, 'name is 1, expected a short text'),
    ('count', 4, 'count is 4, expected a whole number from 1 to 3'),
    ('count', True, 'count is True, expected a whole number from 1 to 3'),
    ('first_mean', '1', "first_mean is '1', expected a number"),
    ('first_mean', 1e300, 'first_mean is 1e+300, expected a number'),
    ('first_pair', [1], 'first_pair is [1], expected a list of 2'),
    ('first_pair', [1, 0.5], 'first_pair[1] is 0.5, expected a whole number'),
    ('second_pair', [1, 2], 'second_mean is None, expected a number'),
    ('parts', [], 'parts is [], expected an object'),
    ('parts', {'x': {'mean': 1}}, 'parts.x.pair is missing, expected a list of 2 or null'),
    ('any', [], 'any is [], expected an object'),
    ('more', [1, None], 'more[1] is None, expected a whole number'),
    ('note', 1, 'note is 1, expected text'),
  ],
)
def test_another_form_is_one_line_with_place_value_and_what_was_expected(
  tmp_path, name, value, told
):
  files.write_json(tmp_path / 'x.json', CONTENT | {name: value})
  with pytest.raises(InputError, match=re.escape(f'x.json: {told}; the file is damaged')):
    records.read(tmp_path / 'x.json', Whole)


def test_what_is_missing_or_no_object_is_named():
  with pytest.raises(InputError, match='x: count is missing, expected a whole number from 1'):
    records.parse({name: value for name, value in CONTENT.items() if name != 'count'}, Whole, 'x')
  with pytest.raises(InputError, match='x: first_mean is missing, expected a number'):
    records.parse({'name': 'a', 'count': 1}, Whole, 'x')
  with pytest.raises(InputError, match='x: all of it is 3, expected an object'):
    records.parse(3, Whole, 'x')
