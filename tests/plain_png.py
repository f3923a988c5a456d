"""Writes PNG files by the standard alone, in every form that it knows."""

import struct
import zlib

import numpy as np

START = b'\x89PNG\r\n\x1a\n'


def chunk(name, content):
  return (
    struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
  )


def png(samples, *, bits, kind, before=b'', after=b'', size=None):
  """A PNG by the standard's own words: rows of filter 0, samples of `bits`, highest bit first."""
  height, width = samples.shape[:2]
  rows = samples.reshape(height, -1)
  digits = rows[..., None].astype(np.uint32) >> np.arange(bits)[::-1] & 1
  packed = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
  content = b''.join(b'\0' + row.tobytes() for row in packed)
  head = struct.pack('>IIBBBBB', *(size or (width, height)), bits, kind, 0, 0, 0)
  pixels = chunk(b'IDAT', zlib.compress(content))
  return START + chunk(b'IHDR', head) + before + pixels + after + chunk(b'IEND', b'')


def palette(*colours):
  return chunk(b'PLTE', bytes(np.array(colours, np.uint8)))
