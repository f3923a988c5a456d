"""Whole pictures and masks of every kind, and changes of their headers."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import plain_png
import tifffile
from PIL import Image

from fuzzing import damage
from fuzzing.volume_files import Files

_RNG = np.random.default_rng(1)
GREY = _RNG.integers(0, 256, (6, 7), np.uint8)
COLOUR = _RNG.integers(0, 256, (6, 7, 3), np.uint8)
DEEP = _RNG.integers(0, 20000, (6, 7), np.uint16)
REAL = _RNG.normal(size=(6, 7)).astype(np.float32)
CLASSES = _RNG.integers(0, 3, (6, 7), np.uint8)
COLOURS = np.array(((0, 0, 0), (255, 0, 0), (9, 8, 7)), np.uint8)
_CHUNKS = (b'IHDR', b'PLTE', b'IDAT', b'IEND', b'tRNS', b'gAMA', b'iCCP', b'sBIT', b'acTL')
_CHUNKS += (b'fcTL', b'fdAT', b'eXIf', b'tEXt', b'zTXt', b'iTXt', b'pHYs', b'bKGD', b'caNv')
_TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320)
_TAGS += (322, 323, 324, 325, 330, 338, 339, 347, 700, 34665, 50838, 50839, 65000)


def saved(pixels: Any, ending: str, **options: Any) -> bytes:
  """The content of a file as Pillow writes it."""
  content = io.BytesIO()
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  image.save(content, format=ending, **options)
  return content.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
  """The content of a TIFF as tifffile writes it."""
  content = io.BytesIO()
  kind = 'rgb' if pixels.ndim == 3 else 'minisblack'
  tifffile.imwrite(content, pixels, photometric=kind, **options)
  return content.getvalue()


def indexed() -> Image.Image:
  """Classes as indices of a palette."""
  image = Image.fromarray(CLASSES)
  image.putpalette(COLOURS.tobytes())
  return image


def with_mask(scan: bytes, mask: bytes, ending: str) -> Files:
  """A scan and its mask, of which the mask is to be damaged."""
  return {f'mask.{ending}': mask, 'scan.png': scan}


def change_png(chance: random.Random, data: bytes) -> bytes:
  """Changes a chunk: its content, name or length, or it is gone, double, moved or new."""
  at, chunks = len(plain_png.START), []
  while at + 8 <= len(data):
    length = int.from_bytes(data[at : at + 4], 'big')
    chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
    at += 12 + length
  if not chunks:
    return data
  here, kind = chance.randrange(len(chunks)), chance.randrange(8)
  name, content = chunks[here]
  if kind < 3 and name == b'IDAT':  # what is packed, not the packing
    try:
      rows = zlib.decompress(content)
    except zlib.error:
      rows = content
    chunks[here] = name, zlib.compress(damage.change_bytes(chance, rows))
  elif kind < 3:
    chunks[here] = name, damage.change_numbers(chance, content)
  elif kind == 3:
    chunks[here] = chance.choice(_CHUNKS), content
  elif kind == 4:
    del chunks[here]
  elif kind == 5:
    chunks.insert(chance.randrange(len(chunks)), chunks[here])
  else:
    new = chance.randbytes(chance.choice((0, 1, 2, 4, 9, 13, 26, 300)))
    chunks.insert(chance.randrange(len(chunks)), (chance.choice(_CHUNKS), new))
  whole = [plain_png.chunk(*one) for one in chunks]
  if kind == 7 and whole[here:]:  # a length that is not so
    length = chance.choice(damage.NUMBERS) % (1 << 32)
    whole[here] = struct.pack('>I', length) + whole[here][4:]
  return plain_png.START + b''.join(whole)


def change_tiff(chance: random.Random, data: bytes) -> bytes:
  """Changes the tag, type, count or value of an entry of the first directory."""
  order = '<' if data[:2] == b'II' else '>'
  if data[2:4] not in (b'*\0', b'\0*') or len(data) < 8:
    return damage.change_numbers(chance, data)
  (place,) = struct.unpack_from(f'{order}I', data, 4)
  if place + 2 > len(data):
    return damage.change_numbers(chance, data)
  (count,) = struct.unpack_from(f'{order}H', data, place)
  at, kind = place + 2 + 12 * chance.randrange(max(1, min(count, 60))), chance.randrange(8)
  number = chance.choice((*damage.NUMBERS, len(data), len(data) - 1, 6, 42, 65535))
  if kind == 0:
    new, at = struct.pack(f'{order}H', chance.choice(_TAGS)), at
  elif kind == 1:
    new, at = struct.pack(f'{order}H', chance.randrange(19)), at + 2
  elif kind == 2:
    new, at = struct.pack(f'{order}I', number % (1 << 32)), at + 4
  elif kind == 3:  # where the next directory is
    new, at = struct.pack(f'{order}I', chance.choice((place, 8, 1, number % (1 << 32)))), at + 12
  elif kind < 6:
    new, at = struct.pack(f'{order}H', number % (1 << 16)), at + 8
  else:
    new, at = struct.pack(f'{order}I', number % (1 << 32)), at + 8
  return data[:at] + new + data[at + len(new) :]
