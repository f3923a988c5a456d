// A GIF of one frame: {size [H, W], bands, bits, samples, palette, clear}, as stored.

import { lzw, requireSize } from './packed.js';

const [EXTENSION, CONTROL, IMAGE, END] = [0x21, 0xf9, 0x2c, 0x3b];
const INTERLACED = [[0, 8], [4, 8], [2, 4], [1, 2]]; // first row and step of each pass

export function readGif(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const short = (at) => view.getUint16(at, true);
  const [w, h] = [short(6), short(8)];
  requireSize([h, w], 1, 8, bytes);
  const tableAt = (flags, at) =>
    bytes.subarray(at, at + (flags & 128 ? 3 * 2 ** ((flags & 7) + 1) : 0));
  const shared = tableAt(bytes[10], 13);
  let [at, clear] = [13 + shared.length, undefined];
  const frames = [];
  for (let kind; (kind = view.getUint8(at)) !== END;) {
    if (kind === EXTENSION) {
      if (bytes[at + 1] === CONTROL && bytes[at + 3] & 1) clear = { indices: [bytes[at + 6]] };
      at = blocks(view, at + 2).end;
    } else if (kind === IMAGE) {
      const flags = bytes[at + 9];
      const own = tableAt(flags, at + 10);
      const start = at + 10 + own.length;
      const { parts, end } = blocks(view, start + 1);
      const place = [1, 3, 5, 7].map((offset) => short(at + offset));
      const table = own.length ? own : shared;
      frames.push({ flags, parts, place, table, minimum: view.getUint8(start) });
      at = end;
    } else {
      throw new Error('it is a damaged GIF; copy it again');
    }
  }
  if (frames.length !== 1) throw new Error(`it has ${frames.length} frames; expected one picture`);
  const [{ flags, parts, place, minimum, table }] = frames;
  if (place.join() !== [0, 0, w, h].join()) {
    throw new Error('its frame covers only a part of the picture; export it again');
  }
  if (!table.length || minimum < 1 || minimum > 8) throw new Error('it is a GIF without a palette');
  const found = lzw(joined(parts), minimum, h * w, false);
  const samples = flags & 64 ? inOrder(found, h, w) : found;
  return { size: [h, w], bands: 1, bits: 8, samples, palette: table, clear };
}

// Pieces of up to 255 bytes, each behind its length, up to one without any.
function blocks(view, at) {
  const parts = [];
  for (let size; (size = view.getUint8(at)); at += size + 1) {
    parts.push(new Uint8Array(view.buffer, view.byteOffset + at + 1, size));
  }
  return { parts, end: at + 1 };
}

function joined(parts) {
  const found = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    found.set(part, at);
    at += part.length;
  }
  return found;
}

function inOrder(stored, h, w) {
  const found = new Uint8Array(h * w);
  let at = 0;
  for (const [first, step] of INTERLACED) {
    for (let y = first; y < h; y += step) found.set(stored.subarray(at, (at += w)), y * w);
  }
  return found;
}
