"""Which mask belongs to which image, found from the names of their files alone.

Names are those of files without their endings. The first of these rules that pairs anything holds
for all of them; what it leaves over has no partner:

  equal    a and a
  added    a and a_mask: one name is the other with the same text before or behind it
  framed   img_07 and 7_manual: in each folder all names begin and end alike
  number   a-07-left and b-7-right: one number alone differs in all names

Texts are compared in whole words and numbers: 1 is no part of 12.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

_TOKEN = re.compile(r'\d+|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[\W_]')  # catMask-01: cat Mask - 01
_SEPARATORS = '_-. '

Tokens = tuple[str, ...]
Affix = tuple[Tokens, Tokens]  # what a name has before and behind another
Pairs = list[tuple[str, str]]  # names of an image and of its mask, or of a short and a long name


class AmbiguousError(ValueError):
  """Names that pair in more than one way, of which the text has an example."""


@dataclasses.dataclass(frozen=True)
class Pairing:
  """Which image has which mask."""

  masks: Mapping[str, str]  # name of the mask by name of the image, sorted
  rule: str  # the rule by which they were paired, as in `by equal names`


def pair(images: Sequence[str], masks: Sequence[str]) -> Pairing:
  """Pairs the names of two folders; nothing if no rule applies.

  Raises:
    AmbiguousError: If a mask may belong to two images, or an image to two masks.
  """
  for rule in (_pair_equal, _pair_added, _pair_framed, _pair_numbers):
    found = rule(images, masks)
    if found and found.masks:
      return found
  return Pairing({}, '')


def pair_within(names: Sequence[str]) -> Pairing:
  """Pairs the names of images with those of masks in the same folder: a and a_mask.

  Raises:
    AmbiguousError: If several texts mark as many masks.
  """
  found = _most_frequent(_added(names, names))
  if found is None:
    return Pairing({}, '')
  affix, pairs = found
  masks = {mask for _, mask in pairs}
  kept = {image: mask for image, mask in sorted(pairs) if image not in masks}
  return Pairing(kept, f'by names, * with {_show(affix)}')


def _pair_equal(images: Sequence[str], masks: Sequence[str]) -> Pairing:
  both = sorted({*images} & {*masks})
  return Pairing({name: name for name in both}, 'by equal names')


def _pair_added(images: Sequence[str], masks: Sequence[str]) -> Pairing | None:
  """Pairs names of which one is the other with a text added, the same for all."""
  longer_masks = _added(images, masks)
  longer_images = {
    affix: [(image, mask) for mask, image in pairs]
    for affix, pairs in _added(masks, images).items()
  }
  found = _most_frequent(longer_masks | longer_images)
  if found is None:
    return None
  affix, pairs = found
  shown = ('*', _show(affix)) if affix in longer_masks else (_show(affix), '*')
  return Pairing(dict(sorted(pairs)), f'by names, {shown[0]} with {shown[1]}')


def _pair_framed(images: Sequence[str], masks: Sequence[str]) -> Pairing | None:
  """Pairs names by what is left of them without the words that all of a folder have."""
  if min(len(images), len(masks)) < 2:
    return None
  keys, shown = [], []
  for names in (images, masks):
    split = [_split(name) for name in names]
    before, behind = _count_common(split)
    middles = [tokens[before : len(tokens) - behind] for tokens in split]
    keys.append({name: _key(middle) for name, middle in zip(names, middles, strict=True)})
    first = split[0]
    shown.append(_show((first[:before], first[len(first) - behind :])))
  return Pairing(_match(*keys), f'by names, {shown[0]} with {shown[1]}')


def _pair_numbers(images: Sequence[str], masks: Sequence[str]) -> Pairing | None:
  """Pairs names by their number, if in each folder one number differs and no other does."""
  keys = [_varying_number(names) for names in (images, masks)]
  return Pairing(_match(*keys), 'by the numbers in their names') if all(keys) else None


def _split(name: str) -> Tokens:
  """Returns words, numbers and single other signs of a name."""
  return tuple(_TOKEN.findall(name))


def _key(tokens: Tokens) -> str:
  """Returns tokens as one text without signs around them, 07 as 7."""
  texts = [str(int(token)) if token.isdecimal() else token for token in tokens]
  return ''.join(texts).strip(_SEPARATORS)


def _show(affix: Affix) -> str:
  return f'{"".join(affix[0])}*{"".join(affix[1])}'


def _added(short: Iterable[str], long: Iterable[str]) -> dict[Affix, Pairs]:
  """Returns the pairs of a short and a long name, by what the long one has before and behind.

  A text without a letter tells nothing: 1_2 is not the mask of 1, nor of 2.
  """
  names = {_split(name): name for name in short}
  found: dict[Affix, Pairs] = collections.defaultdict(list)
  for name in long:
    tokens = _split(name)
    for cut in range(1, len(tokens)):
      begin, end = tokens[:cut], tokens[cut:]
      ways: tuple[tuple[Tokens, Affix], ...] = ((begin, ((), end)), (end, (begin, ())))
      for inner, affix in ways:
        if inner in names and any(sign.isalpha() for sign in ''.join(affix[0] + affix[1])):
          found[affix].append((names[inner], name))
  return found


def _most_frequent(found: Mapping[Affix, Pairs]) -> tuple[Affix, Pairs] | None:
  """Returns the added text that pairs the most names, and these; None if there is none."""
  most = max(map(len, found.values()), default=0)
  ways = [item for item in found.items() if len(item[1]) == most]
  if len(ways) > 1:
    (one, its), (other, second) = (names[0] for _, names in ways[:2])
    raise AmbiguousError(f'{one} pairs with {its}, but {other} with {second}')
  return ways[0] if ways else None


def _count_common(names: Sequence[Tokens]) -> tuple[int, int]:
  """Returns how many tokens at the beginning and at the end are the same in all names.

  Those at the beginning have no number, as `p1_01` is not `p2_01`; one token at least is left.
  """
  shortest = min(map(len, names)) - 1
  before = 0
  while before < shortest and len({tokens[before] for tokens in names}) == 1:
    if names[0][before].isdigit():
      break
    before += 1
  behind = 0
  while before + behind < shortest and len({tokens[-1 - behind] for tokens in names}) == 1:
    behind += 1
  return before, behind


def _varying_number(names: Sequence[str]) -> dict[str, int]:
  """Returns the number of each name that differs from name to name; {} if that is not one."""
  numbers = [[int(token) for token in _split(name) if token.isdecimal()] for name in names]
  if len({len(found) for found in numbers}) != 1:
    return {}
  columns = [column for column in zip(*numbers, strict=True) if len({*column}) > 1]
  return dict(zip(names, columns[0], strict=True)) if len(columns) == 1 else {}


def _match(images: Mapping[str, str | int], masks: Mapping[str, str | int]) -> dict[str, str]:
  """Returns the image and the mask of each key that both have."""
  partners = collections.defaultdict(list)
  for mask, key in masks.items():
    partners[key].append(mask)
  found: dict[str, str] = {}
  for image, key in sorted(images.items()):
    for mask in partners[key]:
      if other := next((one for one in found if one == image or found[one] == mask), ''):
        raise AmbiguousError(f'{other} pairs with {found[other]}, but {image} with {mask} too')
      found[image] = mask
  return found
