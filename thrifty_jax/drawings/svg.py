"""Elements of SVG (boxes, texts, lines), and pictures for a page or a standalone file.

Text and lines have the colour of the surrounding text (currentColor), boxes that of the background
(--ground), so that a picture suits light and dark pages. Colours are CSS variables that the page
may set, each with a default colour.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

MONOSPACE = 'font-size="11.5" font-family="ui-monospace, monospace"'
BOLD = 'font-weight="600"'
MUTED = 'fill-opacity=".7"'
LIGHT = {'color': '#1d2126', '--ground': '#fdfdfc'}
DARK = {'color': '#e4e7ea', '--ground': '#14171a'}
PADDING = 24  # pixels around the picture in a standalone file


@dataclass(frozen=True)
class Place:
  """A point of a picture in pixels, such as the middle of a box."""

  x: float
  y: float


@dataclass(frozen=True)
class Picture:
  """Parts of SVG and their size in pixels."""

  width: float
  height: float
  parts: Sequence[str]
  label: str  # description for people who cannot see it

  def inline(self) -> str:
    """Returns an SVG element, never enlarged, for a page that sets its colours."""
    view = f'viewBox="0 0 {self.width:g} {self.height:g}" style="max-width:{self.width:g}px"'
    return self._element(view, self.width, self.parts)

  def file(self, light: Mapping[str, str], dark: Mapping[str, str]) -> str:
    """Returns a standalone file with background, and CSS variables for light and dark screens."""
    width, height = self.width + 2 * PADDING, self.height + 2 * PADDING
    by_day, by_night = (
      ''.join(f'{name}:{value};' for name, value in {**ground, **colours}.items())
      for ground, colours in ((LIGHT, light), (DARK, dark))
    )
    style = (
      f'<style>svg{{color-scheme:light dark;background:var(--ground);{by_day}}}'
      f'@media(prefers-color-scheme:dark){{svg{{{by_night}}}}}</style>'
    )
    middle = Place(self.width / 2, self.height / 2)
    ground = box(middle, width, height, 0, f'stroke="none" {fill("ground")}')
    view = f'viewBox="{-PADDING} {-PADDING} {width:g} {height:g}"'
    return self._element(view, width, [style, ground, *self.parts]) + '\n'

  def _element(self, view: str, width: float, parts: Sequence[str]) -> str:
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" {view} width="{width:g}" role="img" '
      f'aria-label="{escape(self.label)}" fill="none" stroke="currentColor" '
      f'font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def beside(pictures: Sequence[Picture], *, gap: float, label: str) -> Picture:
  """Places pictures side by side, aligned at the top."""
  lefts = [0, *itertools.accumulate(picture.width + gap for picture in pictures)]
  parts = [_moved(picture, x, 0) for picture, x in zip(pictures, lefts[:-1], strict=True)]
  return Picture(lefts[-1] - gap, max(picture.height for picture in pictures), parts, label)


def below(pictures: Sequence[Picture], *, gap: float, label: str) -> Picture:
  """Places pictures one below the other, aligned at the left."""
  tops = [0, *itertools.accumulate(picture.height + gap for picture in pictures)]
  parts = [_moved(picture, 0, y) for picture, y in zip(pictures, tops[:-1], strict=True)]
  return Picture(max(picture.width for picture in pictures), tops[-1] - gap, parts, label)


def _moved(picture: Picture, x: float, y: float) -> str:
  return f'<g transform="translate({x:g} {y:g})">{"".join(picture.parts)}</g>'


def note(content: str) -> Picture:
  """A line of small text, as a picture."""
  return Picture(6.2 * len(content), 14, [text(Place(0, 4), content, MUTED, anchor='start')], '')


def fill(variable: str, colour: str = '#fff') -> str:
  """Fill attribute of a box: --<variable>, or the colour for readers without CSS variables."""
  return f'fill="{colour}" style="fill:var(--{variable}, {colour})"'


def box(middle: Place, width: float, height: float, radius: float, attributes: str) -> str:
  """Rectangle with round corners around its middle."""
  left, top = middle.x - width / 2, middle.y - height / 2
  return (
    f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
    f'{attributes}/>'
  )


def tinted_box(
  middle: Place, width: float, height: float, radius: float, variable: str, colour: str
) -> str:
  """Box on the background colour, framed and lightly filled with --<variable>."""
  value = f'var(--{variable}, {colour})'
  frame = (
    f'stroke-width="1.5" fill-opacity=".14" fill="{colour}" stroke="{colour}" '
    f'style="fill:{value};stroke:{value}"'
  )
  ground = box(middle, width, height, radius, f'stroke="none" {fill("ground")}')
  return ground + box(middle, width, height, radius, frame)


def plain_box(
  middle: Place, width: float, height: float, content: str, attributes: str = ''
) -> str:
  """Box on the background colour with a text of these attributes."""
  frame = box(middle, width, height, 5, f'stroke-width="1.4" {fill("ground")}')
  return frame + text(middle, content, attributes)


def text(middle: Place, content: str, attributes: str = '', *, anchor: str = 'middle') -> str:
  """Line of text, vertically centred on the place."""
  return (
    f'<text x="{middle.x:g}" y="{middle.y + 4:g}" text-anchor="{anchor}" stroke="none" '
    f'fill="currentColor" {attributes}>{escape(content)}</text>'
  )


def title(name: str, after: str) -> str:
  """Heading of a picture, with a remark."""
  return (
    f'<text y="14" stroke="none" fill="currentColor" font-size="14" {BOLD}>{escape(name)}'
    f'<tspan dx="8" font-size="12" font-weight="400" {MUTED}>{escape(after)}</tspan></text>'
  )


def curve(start: Place, end: Place, *, straight: float = 0.0) -> str:
  """Line with vertical ends that starts with `straight` pixels straight down."""
  path = f'M{start.x:g} {start.y:g}'
  if straight:
    start = Place(start.x, start.y + straight)
    path += f'V{start.y:g}'
  bend = (end.y - start.y) * 0.5
  return (
    f'<path d="{path}C{start.x:g} {start.y + bend:g} '
    f'{end.x:g} {end.y - bend:g} {end.x:g} {end.y:g}"/>'
  )


def arrow(start: Place, tip: Place) -> str:
  """Arrow straight down, up or to the right."""
  down = (tip.y > start.y) - (tip.y < start.y)
  way = f'V{tip.y:g}' if down else f'H{tip.x:g}'
  return f'<path d="M{start.x:g} {start.y:g}{way}"/>' + arrow_head(tip, int(not down), down)


def arrow_head(tip: Place, right: int, down: int) -> str:
  """Head of an arrow that points right (1, 0), down (0, 1) or up (0, -1)."""
  x, y = tip.x - 7 * right, tip.y - 7 * down
  across = f'{4 * down:g} {4 * right:g}'
  return (
    f'<path d="M{tip.x:g} {tip.y:g}L{x:g} {y:g}m{across}L{tip.x:g} {tip.y:g}'
    f'l{-7 * right - 4 * down:g} {-7 * down - 4 * right:g}z" fill="currentColor" stroke="none"/>'
  )


def lines(paths: Sequence[str]) -> str:
  """Group of lines with a common opacity, so that crossings are not darker."""
  return f'<g stroke-width="1.4" opacity=".6">{"".join(paths)}</g>'
