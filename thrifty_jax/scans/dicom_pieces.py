"""Checks the pieces of compressed pixels in DICOM, before GDCM decompresses them.

GDCM takes what they say of themselves as it is, and may allocate gigabytes, end the process, or
give a third of a picture in colours as one in grey.

Source: DICOM PS3.5, A.4 (pieces) and G (run lengths); ITU-T T.81, B.2.2, T.87, C.2.2 and T.800,
A.5.1 (where JPEG, JPEG-LS and JPEG 2000 have their sizes).
"""

from collections.abc import Iterator

_ITEM = b'\xfe\xff\x00\xe0'  # tag of a piece
_DAMAGED = 'its compressed pixels are cut off or damaged'
_JPEG, _JPEG_2000 = b'\xff\xd8', b'\xff\x4f\xff\x51'  # how streams begin
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers before the size of a JPEG


def require_valid(content: bytes, size: tuple[int, int], *, segments: int) -> None:
  """Refuses, by a ValueError, pieces that are not whole or hold something else than grey.

  Args:
    content: Value of the pixels: a table of where frames begin, and their pieces.
    size: Rows and columns of a frame.
    segments: Number of segments of a frame in run lengths, or 0 for streams of JPEG and its kin.
  """
  _, *pieces = [*_split(content)] or [b'']
  if not pieces:
    raise ValueError(_DAMAGED)
  for piece in pieces:
    if segments and int.from_bytes(piece[:4], 'little') != segments:
      raise ValueError(_DAMAGED)
    found = None if segments else _size_of(piece)  # None too of a stream that goes on
    if found and found != (*size, 1):
      raise ValueError(
        f'its compressed pixels are {found[0]} x {found[1]} of {found[2]} samples, but its tags '
        f'say {size[0]} x {size[1]} of 1'
      )


def _split(content: bytes) -> Iterator[bytes]:
  place = 0
  while content[place : place + 4] == _ITEM:
    start = place + 8
    place = start + int.from_bytes(content[place + 4 : start], 'little')
    yield content[start:place]
  if place != len(content):
    raise ValueError(_DAMAGED)


def _size_of(stream: bytes) -> tuple[int, int, int] | None:
  """Returns height, width and samples of a stream that begins here, if it does."""

  def number(at: int, count: int = 2) -> int:
    return int.from_bytes(stream[at : at + count], 'big')

  if stream.startswith(_JPEG_2000):
    width, height, left, top = (number(at, 4) for at in (8, 12, 16, 20))
    return height - top, width - left, number(40)
  if not stream.startswith(_JPEG):
    return None
  at = 2
  while at + 10 <= len(stream) and stream[at] == 0xFF:
    marker = stream[at + 1]
    if marker in _FRAMES:
      return number(at + 5), number(at + 7), stream[at + 9]
    at += 1 if marker == 0xFF else 2 + number(at + 2)  # 0xFF fills up
  raise ValueError(_DAMAGED)
