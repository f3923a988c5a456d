// A PNG: {size [H, W], bands, bits, samples, palette, clear}, as stored.

import { checksum } from './crc.js';
import { firstOf, inflated, requireSize, unpacked } from './packed.js';
import { orientationOf, requireUpright, textOf } from './tags.js';

export const START = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const BANDS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // samples of a pixel by kind of colour
const BITS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const PALETTE = 3;
// Passes of an interlaced picture: the first column and row, and the steps to the next ones.
const ADAM7 = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
];
const XMP = 'XML:com.adobe.xmp\0';
const PROFILE = 'Raw profile type exif\0'; // as ImageMagick keeps EXIF

export async function readPng(bytes) {
  const chunks = readChunks(bytes);
  const [head, another] = chunks.IHDR ?? [];
  if (another || Object.keys(chunks)[0] !== 'IHDR') {
    throw new Error('its head is not the first of its chunks alone; copy it again');
  }
  if (head?.length !== 13 || !chunks.IDAT) throw new Error('it is a PNG without header or pixels');
  const view = new DataView(head.buffer, head.byteOffset);
  const [w, h, bits, kind] = [view.getUint32(0), view.getUint32(4), head[8], head[9]];
  const bands = BANDS[kind];
  const ways = [...head.subarray(10)]; // to pack, to filter, to interlace
  if (!BITS[kind]?.includes(bits) || ways[0] || ways[1] || ways[2] > 1) {
    throw new Error(`it is a PNG of kind ${kind}, ${bits} bits and ways ${ways}, which are none`);
  }
  if (bits === 16 && bands > 1) {
    throw new Error(`it is a PNG of ${bands} channels with 16 bits; expected 8 bits, or one ` +
      'channel. Save it as TIFF');
  }
  const frames = chunks.acTL ? new DataView(chunks.acTL[0].slice().buffer).getUint32(0) : 1;
  if (frames !== 1) throw new Error(`it has ${frames} frames; expected one picture`);
  requireUpright(await turnOf(chunks));
  requireSize([h, w], bands, bits, bytes);
  const raw = await inflated(chunks.IDAT);
  const samples = new (bits === 16 ? Uint16Array : Uint8Array)(h * w * bands);
  let at = 0;
  for (const [left, top, right, down] of ways[2] ? ADAM7 : [[0, 0, 1, 1]]) {
    const [rows, columns] = [Math.ceil((h - top) / down), Math.ceil((w - left) / right)];
    if (rows <= 0 || columns <= 0) continue;
    const stride = Math.ceil((columns * bands * bits) / 8);
    const part = firstOf(raw.subarray(at), rows * (stride + 1));
    at += part.length;
    const bare = unfiltered(part, stride, Math.ceil((bands * bits) / 8));
    const found = unpacked(bare, bits, columns * bands);
    for (let y = 0, i = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const pixel = ((top + y * down) * w + left + x * right) * bands;
        for (let band = 0; band < bands; band++) samples[pixel + band] = found[i++];
      }
    }
  }
  const palette = kind === PALETTE ? chunks.PLTE?.[0] : undefined;
  if (kind === PALETTE && !palette) throw new Error('it has no palette for its indices');
  return { size: [h, w], bands, bits, samples, palette, clear: clearOf(chunks.tRNS?.[0], kind) };
}

// Chunks by name, each a list of contents, whose checksums are right.
function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks = {};
  for (let at = START.length; !chunks.IEND;) {
    const end = at + 8 + view.getUint32(at);
    const name = textOf(bytes.subarray(at + 4, at + 8));
    if (view.getUint32(end) !== checksum(bytes.subarray(at + 4, end))) {
      throw new Error(`its part ${JSON.stringify(name)} is damaged; copy it again`);
    }
    (chunks[name] ??= []).push(bytes.subarray(at + 8, end));
    at = end + 4;
  }
  return chunks;
}

async function turnOf(chunks) {
  let [exif, xmp] = [chunks.eXIf?.[0], undefined];
  for (const one of chunks.iTXt ?? []) if (textOf(one).startsWith(XMP)) xmp = one;
  for (const name of ['tEXt', 'zTXt']) {
    for (const one of chunks[name] ?? []) {
      if (exif || !textOf(one).startsWith(PROFILE)) continue;
      const rest = one.subarray(PROFILE.length + (name === 'zTXt'));
      const lines = textOf(name === 'zTXt' ? await inflated([rest]) : rest).trim().split('\n');
      const digits = lines.slice(2).join('').match(/../g) ?? []; // behind its name and length
      exif = Uint8Array.from(digits, (pair) => parseInt(pair, 16)).subarray('Exif\0\0'.length);
    }
  }
  return orientationOf(exif, xmp);
}

// Rows without their filters, in place: each byte was stored as the difference to a guess.
function unfiltered(part, stride, step) {
  const rows = part.length / (stride + 1);
  const found = new Uint8Array(rows * stride);
  for (let y = 0; y < rows; y++) {
    const filter = part[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const at = y * stride + x;
      const a = x < step ? 0 : found[at - step];
      const b = y ? found[at - stride] : 0;
      const c = x < step || !y ? 0 : found[at - stride - step];
      found[at] = part[y * (stride + 1) + 1 + x] + guess(filter, a, b, c);
    }
  }
  return found;
}

// From the bytes to the left, above, and above to the left.
function guess(filter, a, b, c) {
  switch (filter) {
    case 0: return 0;
    case 1: return a;
    case 2: return b;
    case 3: return (a + b) >> 1;
    case 4: {
      const [left, above, corner] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      if (left <= above && left <= corner) return a;
      return above <= corner ? b : c;
    }
    default: throw new Error('its pixels are damaged; copy it again');
  }
}

// The colour that stands for transparency, or indices that have any.
function clearOf(content, kind) {
  if (!content || !(kind in { 0: 1, 2: 1, 3: 1 })) return undefined;
  if (kind === PALETTE) return { indices: [...content.keys()].filter((i) => content[i] < 255) };
  const numbers = Array.from({ length: BANDS[kind] }, (_, i) => 256 * content[2 * i] + content[2 * i + 1]);
  return { colour: numbers };
}
