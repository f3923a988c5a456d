// The mask of a picture as the content of a PNG: class numbers, and a palette of their colours.

import { checksum } from './crc.js';
import { START } from './png.js';
import { codesOf } from './tags.js';

const KEYWORD = 'Description\0';

// Of a mask [H, W], flat, with a colour '#rrggbb' for each class and a text for whoever reads it.
export async function writeMask(mask, [h, w], colours, note) {
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, w);
  view.setUint32(4, h);
  head.set([8, 3], 8); // bits of an index into a palette
  const rows = new Uint8Array(h * (w + 1)); // each behind a filter of 0
  for (let y = 0; y < h; y++) rows.set(mask.subarray(y * w, (y + 1) * w), y * (w + 1) + 1);
  const packing = new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate'));
  const packed = new Uint8Array(await new Response(packing).arrayBuffer());
  const parts = colours.flatMap((one) => [one.slice(1, 3), one.slice(3, 5), one.slice(5)]);
  const palette = parts.map((digits) => parseInt(digits, 16));
  return new Blob([
    Uint8Array.from(START), chunk('IHDR', head), chunk('PLTE', palette),
    chunk('tEXt', codesOf(KEYWORD + note)), chunk('IDAT', packed), chunk('IEND', []),
  ], { type: 'image/png' });
}

function chunk(name, content) {
  const found = new Uint8Array(12 + content.length);
  const view = new DataView(found.buffer);
  view.setUint32(0, content.length);
  found.set(codesOf(name), 4);
  found.set(content, 8);
  view.setUint32(8 + content.length, checksum(found.subarray(4, 8 + content.length)));
  return found;
}
