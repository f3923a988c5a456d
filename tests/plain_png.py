"""Writes PNG files by the standard alone, in every form that it knows."""

import struct
import zlib

import numpy as np

START = b'\x89PNG\r\n\x1a\n'


def chunk(name, content):
  return (
    struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
  )


# Passes of an interlaced picture: the first row and column, and the steps to the next ones.
ADAM7 = (
  *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
  (1, 0, 2, 1),
)


def png(samples, *, bits, kind, before=b'', after=b'', size=None, interlaced=False):
  """A PNG by the standard's own words: rows of filter 0, samples of `bits`, highest bit first."""
  height, width = samples.shape[:2]
  parts = ADAM7 if interlaced else ((0, 0, 1, 1),)
  content = b''.join(_rows(samples[y::down, x::right], bits) for y, x, down, right in parts)
  head = struct.pack('>IIBBBBB', *(size or (width, height)), bits, kind, 0, 0, interlaced)
  pixels = chunk(b'IDAT', zlib.compress(content))
  return START + chunk(b'IHDR', head) + before + pixels + after + chunk(b'IEND', b'')


def _rows(samples, bits):
  if not samples.size:
    return b''
  rows = samples.reshape(len(samples), -1)
  digits = rows[..., None].astype(np.uint32) >> np.arange(bits)[::-1] & 1
  packed = np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1)
  return b''.join(b'\0' + row.tobytes() for row in packed)


def palette(*colours):
  return chunk(b'PLTE', bytes(np.array(colours, np.uint8)))
