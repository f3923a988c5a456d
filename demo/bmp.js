// An uncompressed BMP: {size [H, W], bands, bits, samples, palette}, as stored.

import { firstOf, requireSize, unpacked } from './packed.js';

const [HEADS, BITS] = [[40, 52, 56, 108, 124], [1, 4, 8, 24, 32]];

export function readBmp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [start, head] = [10, 14].map((at) => view.getUint32(at, true));
  const [w, height] = [18, 22].map((at) => view.getInt32(at, true));
  const [bits, compression] = [view.getUint16(28, true), view.getUint32(30, true)];
  if (!HEADS.includes(head) || !BITS.includes(bits) || compression) {
    throw new Error(`it is a BMP of ${bits} bits, header ${head}, compression ${compression}, ` +
      'not read here; save it as PNG');
  }
  const [h, bands] = [Math.abs(height), bits < 24 ? 1 : 3];
  requireSize([h, Math.max(0, w)], bands, bits, bytes);
  const stride = Math.ceil((w * bits) / 32) * 4;
  const rows = firstOf(bytes.subarray(start), h * stride);
  const samples = new Uint8Array(h * w * bands);
  for (let y = 0; y < h; y++) {
    const from = (height > 0 ? h - 1 - y : y) * stride; // the lowest row comes first
    const row = rows.subarray(from, from + Math.ceil((w * bits) / 8));
    samples.set(bands === 1 ? unpacked(row, bits, w) : turned(row, bits / 8), y * w * bands);
  }
  const palette = bands === 1 ? turned(colours(bytes, view, head, bits), 4) : undefined;
  return { size: [h, w], bands, bits: 8, samples, palette };
}

function colours(bytes, view, head, bits) {
  const count = view.getUint32(46, true) || 2 ** bits;
  return firstOf(bytes.subarray(14 + head), 4 * count);
}

// Blue, green, red, and one more byte where there are four, as red, green, blue.
function turned(bytes, step) {
  const found = new Uint8Array((bytes.length / step) * 3);
  for (let i = 0; i < found.length; i++) found[i] = bytes[Math.floor(i / 3) * step + 2 - (i % 3)];
  return found;
}
