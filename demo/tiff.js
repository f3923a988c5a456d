// A TIFF, or BigTIFF: {size [H, W], bands, bits, samples, palette}, as stored.

import { firstOf, inflated, lzw, packBits, requireSize, unpacked } from './packed.js';
import { orientationOf, readTags, requireUpright, textOf } from './tags.js';

const [ORIENTATION, XMP, DESCRIPTION] = [274, 700, 270];
const [RGB, PALETTE] = [2, 3];
const [NONE, LZW, PACK_BITS, DEFLATE] = [1, 5, 32773, [8, 32946]];
const KINDS = ['1 1', '1 2', '1 4', '1 8', '1 16', '3 32']; // SampleFormat and bits
const SEPARATE = 2; // a plane for each sample
const PAGES = /^ImageJ=[^]*\nimages=(\d+)/; // of which ImageJ may list one

export async function readTiff(bytes) {
  const { tags, little, next } = readTags(bytes);
  const one = (number, usual) => tags[number]?.[0] ?? usual;
  const pages = Number(PAGES.exec(textOf(tags[DESCRIPTION] ?? []))?.[1] ?? 1);
  if (next || pages > 1) throw new Error('it has several pages; expected one picture');
  requireUpright(one(ORIENTATION, 1));
  requireUpright(orientationOf(undefined, tags[XMP]));
  const layout = {
    w: one(256, 0), h: one(257, 0), bands: one(277, 1), bits: one(258, 1), little,
    packing: one(259, NONE), predicted: one(317, 1) === 2, planes: one(284, 1),
  };
  const { w, h, bands, bits } = layout;
  const colours = one(262);
  requireKnown(layout, colours, tags);
  requireSize([h, w], bands, bits, bytes);
  const found = await readParts(bytes, layout, tags);
  const samples = bits === 32 ? new Float32Array(found.buffer) : found;
  const palette = colours === PALETTE ? paletteOf(tags[320], bits) : undefined;
  return { size: [h, w], bands, bits, samples, palette };
}

function requireKnown({ bands, bits, packing, predicted, planes }, colours, tags) {
  const alphas = tags[338] ?? [];
  if (colours === 0) {
    throw new Error('0 is white in it, which programs read in two ways; invert its values and ' +
      'save it as BlackIsZero');
  }
  const own = bands - alphas.length;
  if (![1, RGB, PALETTE].includes(colours) || own !== (colours === RGB ? 3 : 1) || alphas.length > 1
    || ![undefined, 1, 2].includes(alphas[0]) || (tags[32997]?.[0] ?? 1) !== 1 // ImageDepth
    || (alphas.length && colours === PALETTE)) {
    throw new Error(`it has ${bands} samples of PhotometricInterpretation ${colours}; expected ` +
      'grey or RGB. Convert it');
  }
  const [formats, widths] = [tags[339] ?? [1], tags[258] ?? [1]].map((all) => [...new Set(all)]);
  if (!KINDS.includes(`${formats} ${widths}`) || (tags[266]?.[0] ?? 1) !== 1
    || (alphas.length && bits === 32)) {
    throw new Error(`it has samples of ${bits} bits, SampleFormat ${formats}; expected whole ` +
      'numbers of 1 to 16 bits without sign, or float32. Convert it');
  }
  const differences = tags[317]?.[0] ?? 1;
  if (differences !== 1 && packing === NONE) {
    throw new Error(`it has a Predictor of ${differences} without compression, which is read in ` +
      'two ways; save it without');
  }
  if (![NONE, LZW, PACK_BITS, ...DEFLATE].includes(packing) || ![1, SEPARATE].includes(planes)
    || ![1, 2].includes(differences)
    || (predicted && ![8, 16].includes(bits))) {
    throw new Error(`its compression ${packing} with Predictor ${differences} is not read here; ` +
      'save it without compression');
  }
}

// All samples, of strips or tiles.
async function readParts(bytes, layout, tags) {
  const { w, h, bands, bits } = layout;
  const apart = bands > 1 && layout.planes === SEPARATE;
  const tiled = tags[322] !== undefined;
  const across = tiled ? tags[322][0] : w;
  const down = tiled ? tags[323][0] : Math.min(tags[278]?.[0] ?? h, h);
  const [offsets, counts] = tiled ? [tags[324], tags[325]] : [tags[273], tags[279]];
  const [columns, rows, each] = [Math.ceil(w / across), Math.ceil(h / down), apart ? 1 : bands];
  const number = columns * rows * (apart ? bands : 1);
  if ((tags[273] && tags[324])
    || [offsets, counts].some((one) => one?.length !== number || !one.every(Boolean))) {
    throw new Error('it lacks a part of its pixels, or has them twice; copy it again');
  }
  const Samples = bits <= 8 ? Uint8Array : bits === 16 ? Uint16Array : Uint32Array;
  const samples = new Samples(h * w * bands);
  for (let part = 0; part < number; part++) {
    const place = part % (columns * rows);
    const [top, left] = [Math.floor(place / columns) * down, (place % columns) * across];
    const height = tiled ? down : Math.min(down, h - top);
    const packed = firstOf(bytes.subarray(offsets[part]), counts[part]);
    const found = await readPart(packed, height, across * each, each, layout);
    const first = Math.floor(part / (columns * rows)); // the band of a plane
    const width = Math.min(across, w - left);
    for (let y = 0; y < Math.min(height, h - top); y++) {
      for (let x = 0; x < width; x++) {
        const [from, to] = [(y * across + x) * each, ((top + y) * w + left + x) * bands + first];
        for (let band = 0; band < each; band++) samples[to + band] = found[from + band];
      }
    }
  }
  return samples;
}

async function readPart(packed, height, perRow, step, { bits, little, packing, predicted }) {
  const count = height * Math.ceil((perRow * bits) / 8);
  const found = unpacked(await unpackedPart(packed, count, packing), bits, perRow, little);
  if (!predicted) return found;
  const sums = found.slice(); // each sample was stored as the difference to the one to the left
  for (let i = 0; i < sums.length; i++) if (i % perRow >= step) sums[i] += sums[i - step];
  return sums;
}

async function unpackedPart(packed, count, packing) {
  if (packing === LZW) return lzw(packed, 8, count, true);
  if (packing === PACK_BITS) return packBits(packed, count);
  return firstOf(packing === NONE ? packed : await inflated([packed]), count);
}

// Colours of 16 bits by the standard, but some programs write 8.
function paletteOf(table, bits) {
  const count = 2 ** bits;
  if (table?.length !== 3 * count || bits > 8) throw new Error('it has no palette for its indices');
  const shift = table.some((one) => one > 255) ? 8 : 0;
  const value = (_, i) => table[(i % 3) * count + Math.floor(i / 3)] >> shift;
  return Uint8Array.from({ length: 3 * count }, value);
}
