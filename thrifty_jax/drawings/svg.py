"""Pieces of SVG: boxes, texts, lines; a picture for a page and as a file of its own.

Text and lines take the colour of the surrounding text (currentColor), boxes that of the ground
(--ground), so that a picture serves on light and on dark pages. Colours come from CSS variables
that the page may set; the colour beside each serves where there are none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

MONOSPACE = 'font-size="11.5" font-family="ui-monospace, monospace"'
BOLD = 'font-weight="600"'
MUTED = 'fill-opacity=".7"'
GROUND = {'light': '#fdfdfc', 'dark': '#14171a'}
INK = {'light': '#1d2126', 'dark': '#e4e7ea'}
PADDING = 24  # pixels around the picture in a file of its own


@dataclass(frozen=True)
class Place:
  """A point of a picture in pixels, for instance the middle of a box."""

  x: float
  y: float


@dataclass(frozen=True)
class Picture:
  """Parts of SVG and the size that they take, in pixels."""

  width: float
  height: float
  parts: Sequence[str]
  label: str  # for those who cannot see it

  def inline(self) -> str:
    """An SVG element for a page that sets its colours, never enlarged."""
    box = f'viewBox="0 0 {self.width:g} {self.height:g}" style="max-width:{self.width:g}px"'
    return self._element(box, self.width, self.parts)

  def file(self, light: Mapping[str, str], dark: Mapping[str, str]) -> str:
    """A file of its own, with ground and colours for light and for dark screens.

    Args:
      light: CSS variables, '--op-conv' -> '#3f7fbf'.
      dark: CSS variables for screens that are dark.
    """
    width, height = self.width + 2 * PADDING, self.height + 2 * PADDING
    schemes = {
      name: ''.join(
        f'{variable}:{value};'
        for variable, value in {'color': INK[name], '--ground': GROUND[name], **colours}.items()
      )
      for name, colours in (('light', light), ('dark', dark))
    }
    style = (
      f'<style>svg{{color-scheme:light dark;background:var(--ground);{schemes["light"]}}}'
      f'@media(prefers-color-scheme:dark){{svg{{{schemes["dark"]}}}}}</style>'
    )
    ground = _rectangle(-PADDING, -PADDING, width, height, 0, f'stroke="none" {fill("ground")}')
    box = f'viewBox="{-PADDING} {-PADDING} {width:g} {height:g}"'
    return self._element(box, width, [style, ground, *self.parts]) + '\n'

  def _element(self, box: str, width: float, parts: Sequence[str]) -> str:
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" {box} width="{width:g}" role="img" '
      f'aria-label="{escape(self.label)}" fill="none" stroke="currentColor" '
      f'font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def beside(pictures: Sequence[Picture], *, gap: float, label: str) -> Picture:
  """Pictures side by side, their tops in line."""
  parts, x = [], 0.0
  for picture in pictures:
    parts.append(moved(picture.parts, x, 0))
    x += picture.width + gap
  return Picture(x - gap, max(picture.height for picture in pictures), parts, label)


def below(pictures: Sequence[Picture], *, gap: float, label: str) -> Picture:
  """Pictures one below the other, their left sides in line."""
  parts, y = [], 0.0
  for picture in pictures:
    parts.append(moved(picture.parts, 0, y))
    y += picture.height + gap
  return Picture(max(picture.width for picture in pictures), y - gap, parts, label)


def note(content: str) -> Picture:
  """A line of small text, as a picture."""
  return Picture(6.2 * len(content), 14, [text(Place(0, 4), content, MUTED, anchor='start')], '')


def moved(parts: Sequence[str], x: float, y: float) -> str:
  """The parts at another place."""
  return f'<g transform="translate({x:g} {y:g})">{"".join(parts)}</g>'


def fill(variable: str, colour: str = '#fff') -> str:
  """An attribute for boxes: --<variable>, or the colour where a reader knows no variables."""
  return f'fill="{colour}" style="fill:var(--{variable}, {colour})"'


def box(middle: Place, width: float, height: float, radius: float, attributes: str) -> str:
  """A rectangle with round corners, around its middle."""
  left, top = middle.x - width / 2, middle.y - height / 2
  return _rectangle(left, top, width, height, radius, attributes)


def tinted_box(
  middle: Place, width: float, height: float, radius: float, variable: str, colour: str
) -> str:
  """A box on the ground's own colour, framed and lightly filled with --<variable>."""
  value = f'var(--{variable}, {colour})'
  frame = (
    f'stroke-width="1.5" fill-opacity=".14" fill="{colour}" stroke="{colour}" '
    f'style="fill:{value};stroke:{value}"'
  )
  return box(middle, width, height, radius, f'stroke="none" {fill("ground")}') + box(
    middle, width, height, radius, frame
  )


def text(middle: Place, content: str, attributes: str = '', *, anchor: str = 'middle') -> str:
  """A line of text, its height centred on the place."""
  return (
    f'<text x="{middle.x:g}" y="{middle.y + 4:g}" text-anchor="{anchor}" stroke="none" '
    f'fill="currentColor" {attributes}>{escape(content)}</text>'
  )


def title(name: str, after: str) -> str:
  """The heading of a picture, with a remark."""
  return (
    f'<text y="14" stroke="none" fill="currentColor" font-size="14" {BOLD}>{escape(name)}'
    f'<tspan dx="8" font-size="12" font-weight="400" {MUTED}>{escape(after)}</tspan></text>'
  )


def curve(start: Place, end: Place, *, straight: float = 0.0) -> str:
  """A line that leaves and arrives upright, at first so many pixels straight down."""
  path = f'M{start.x:g} {start.y:g}'
  if straight:
    start = Place(start.x, start.y + straight)
    path += f'V{start.y:g}'
  bend = (end.y - start.y) * 0.5
  return (
    f'<path d="{path}C{start.x:g} {start.y + bend:g} '
    f'{end.x:g} {end.y - bend:g} {end.x:g} {end.y:g}"/>'
  )


def lines(paths: Sequence[str]) -> str:
  """Lines as a group: transparent together, so that they are no darker where they meet."""
  return f'<g stroke-width="1.4" opacity=".6">{"".join(paths)}</g>'


def _rectangle(x: float, y: float, width: float, height: float, radius: float, more: str) -> str:
  return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" {more}/>'
