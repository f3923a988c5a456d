// Pixels of a DICOM file as they are stored, whole numbers, as dicom_pixels.py has them.

import { DAMAGED, requirePieces } from './dicom_pieces.js';
import { decompressed } from './gdcm.js';
import { codesOf } from './tags.js';

// JPEG of 8 and of 12 bits, twice without loss, JPEG-LS and JPEG 2000 without and with loss, RLE.
const RLE = '1.2.840.10008.1.2.5';
export const COMPRESSED = [
  ...['50', '51', '57', '70', '80', '81', '90', '91'].map((end) => `1.2.840.10008.1.2.4.${end}`), RLE,
];
// Bytes that one of RLE can become, as two stand for up to 128, and one of other compressed pixels;
// and bytes of pixels for which any number of compressed ones is enough.
const [OF_RLE, OF_OTHERS, SURELY] = [64, 1032, 2 ** 27];
const SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7.3'; // a class of objects that have pixels alone

// Of all frames, one after the other, from the tags of a file.
export async function readStored(bytes, tags) {
  const count = tags.rows * tags.columns * Number(tags.frames);
  const read = COMPRESSED.includes(tags.syntax) ? compressed : native;
  return read(bytes, tags, count);
}

function native(bytes, { start, length, allocated, stored, highBit, signed }, count) {
  const size = (count * allocated) / 8;
  if (size > length || start + size > bytes.length) throw new Error('its pixels are cut off');
  if (size + (size % 2) < length) throw new Error('it has more pixels than it says');
  const Samples = { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array }[allocated];
  // A copy, which begins where its samples may; machines of browsers have the lowest byte first.
  const samples = new Samples(bytes.slice(start, start + size).buffer);
  const found = signed ? new Int32Array(count) : new Uint32Array(count);
  const [left, right] = [31 - highBit, 32 - stored]; // what lies beside the stored bits goes
  for (let i = 0; i < count; i++) {
    const bits = samples[i] << left;
    found[i] = signed ? bits >> right : bits >>> right;
  }
  return found;
}

async function compressed(bytes, tags, count) {
  const { syntax, start, length, allocated, stored, highBit, inPieces } = tags;
  if (highBit !== stored - 1) throw new Error('its stored bits are not the lowest');
  if (!inPieces) throw new Error(DAMAGED);
  const most = syntax === RLE ? OF_RLE * length : Math.max(SURELY, OF_OTHERS * length);
  if ((count * allocated) / 8 > most) {
    throw new Error(`its pixels are ${length} compressed bytes; expected ${(count * allocated) / 8}, `
      + `for ${tags.frames} x ${tags.rows} x ${tags.columns} of ${allocated} bits`);
  }
  const content = bytes.subarray(start, start + length);
  requirePieces(content, [tags.rows, tags.columns], syntax === RLE ? allocated / 8 : 0);
  const file = await withPixelsAlone(tags, content);
  const { size, components, samples } = await decompressed(file);
  const wanted = [tags.columns, tags.rows, Number(tags.frames)];
  if (components !== 1 || String(size) !== String(wanted) || samples.length !== count) {
    throw new Error(`its pixels are ${size.join(' x ')}; expected ${wanted.join(' x ')}`);
  }
  return samples;
}

// A DICOM file that says nothing but how its pixels are compressed: no scaling, no white that is low.
async function withPixelsAlone({ syntax, frames, rows, columns, ...tags }, pieces) {
  const number = (tag, value) => element(0x28, tag, 'US', [value & 255, value >> 8]);
  const text = (group, tag, kind, value) => element(group, tag, kind, codesOf(value));
  const meta = text(2, 0x10, 'UI', syntax);
  const head = [
    ...new Array(128).fill(0), ...codesOf('DICM'),
    ...element(2, 0, 'UL', [meta.length, 0, 0, 0]), ...meta,
    ...text(8, 0x16, 'UI', SECONDARY_CAPTURE),
    ...number(2, 1), ...text(0x28, 4, 'CS', 'MONOCHROME2'),
    ...text(0x28, 8, 'IS', String(Number(frames))), ...number(0x10, rows), ...number(0x11, columns),
    ...number(0x100, tags.allocated), ...number(0x101, tags.stored), ...number(0x102, tags.highBit),
    ...number(0x103, tags.signed),
    0xe0, 0x7f, 0x10, 0, ...codesOf('OB'), 0, 0, 255, 255, 255, 255,
  ];
  const end = [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];
  const file = new Blob([Uint8Array.from(head), pieces, Uint8Array.from(end)]);
  return new Uint8Array(await file.arrayBuffer());
}

function element(group, tag, kind, value) {
  const padded = value.length % 2 ? [...value, kind === 'UI' ? 0 : 32] : value;
  return [group, 0, tag & 255, tag >> 8, ...codesOf(kind), padded.length, 0, ...padded];
}
