"""Ways to damage the bytes of a file, and JSON that stays JSON."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 255, 256, 512, 1000, 32767, -32768, 2**31 - 1)
# JSON as text: some of it is what json.dumps refuses to write.
HOSTILE = (
  *('null', 'true', 'false', '-1', '0', '1', '2', '3', '-0.0', '0.5', '1e-320', '1e308', '-1e308'),
  *('1e999', 'NaN', 'Infinity', '-Infinity', '9' * 18, '9' * 30, '9' * 5000, '1000000000'),
  *('""', '"0"', '"1"', '"x"', '"none"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J"', '"\\n"'),
  *('"../../../../etc/passwd"', '"/dev/zero"', '"' + 'x' * 5000 + '"', '"\u0663"'),
  *('[]', '{}', '[[]]', '[null]', '{"": {}}', '[0, 1]', '[1, 0]', '["a", "a"]', '[true]'),
  '[' * 40 + ']' * 40,
  '{"a":' * 45 + '0' + '}' * 45,
  '[' * 900 + ']' * 900,
  '[' * 100_000 + ']' * 100_000,
)
MARK = '\x02mark\x03'


def change_bytes(chance: random.Random, data: bytes) -> bytes:
  """Flips bits, or cuts off, cuts out, repeats or replaces a piece of a file."""
  a = chance.randrange(len(data) + 1)
  b, kind = min(len(data), a + chance.choice((1, 2, 4, 64, 1000))), chance.randrange(7)
  if kind < 2 and data:
    flipped = bytearray(data)
    for _ in range(chance.randint(1, 4)):
      flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped)
  if kind == 2:
    return data[:a]
  if kind == 3:
    return data[:a] + data[b:]
  if kind == 4:
    return data[:b] + data[a:]
  if kind == 5:
    return data[:a] + chance.choice(HOSTILE[:-2]).encode() + data[b:]
  return data[:a] + chance.randbytes(b - a) + data[b:]


def change_numbers(chance: random.Random, data: bytes, *, head: int = 64) -> bytes:
  """Puts a number of 1 to 4 bytes, in either order, somewhere into the head of a file."""
  at, size = chance.randrange(max(1, min(head, len(data)))), chance.choice((1, 2, 4))
  value = (chance.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, 'little')
  value = value[:: chance.choice((1, -1))]
  return data[:at] + value + data[at + size :]


def change_json(chance: random.Random, value: Any) -> bytes:
  """Valid JSON in which one to three values are replaced, removed, renamed, repeated or swapped."""
  value, inserted = copy.deepcopy({'': value}), []
  for _ in range(chance.randint(1, 3)):
    places = list(_places(value))
    place, name = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0 and place is not value:
      del place[name]
    elif kind == 1 and isinstance(place, dict) and place is not value:
      place[chance.choice(('', '0', '9' * 5000, 'x', 'skipped', '\ud800'))] = place.pop(name)
    elif kind == 2 and isinstance(place, list):
      place += copy.deepcopy(place) * chance.choice((1, 1, 50))
    elif kind == 3:
      other, other_name = chance.choice(places)
      place[name], other[other_name] = copy.deepcopy((other[other_name], place[name]))
    else:
      place[name] = f'{MARK}{len(inserted)}'
      inserted.append(chance.choice(HOSTILE))
  text = json.dumps(value.get(''))
  for index, hostile in enumerate(inserted):
    text = text.replace(json.dumps(f'{MARK}{index}'), hostile)
  if chance.random() < 0.05 and text.startswith('{"'):  # a name that is there twice
    text = '{' + text[1 : text.index(':')] + ': 0, ' + text[1:]
  return text.encode('utf-8', errors='surrogatepass')


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
  """Every value in lists and objects: what holds it, and under which name."""
  for name in list(value) if isinstance(value, dict) else range(len(value)):
    yield value, name
    if isinstance(value[name], dict | list):
      yield from _places(value[name])
