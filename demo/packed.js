// What packs the samples of pictures: bits, Deflate, LZW and PackBits.

const MOST_PIXELS = 2 ** 31;
// As picture_file.py has them: bytes that are always possible, and those of one byte of a file.
const [SURELY, MOST_PACKED] = [2 ** 27, 4096];
const DAMAGED = 'its pixels are damaged or cut off; copy it again';
const LZW_BITS = 12;

// Refuses a size that is none or that the file cannot hold, before memory is taken.
export function requireSize([h, w], bands, bits, bytes) {
  const size = (h * w * bands * Math.max(bits, 8)) / 8;
  if (h * w && h * w <= MOST_PIXELS && size <= Math.max(SURELY, bytes.length * MOST_PACKED)) return;
  throw new Error(`its header says ${h} x ${w} pixels; expected some, and no more than a file of ` +
    'its size can hold. Copy it again');
}

// Bytes without what lies behind the last of so many; an error where there are fewer.
export function firstOf(bytes, count) {
  if (bytes.length < count) throw new Error(DAMAGED);
  return bytes.subarray(0, count);
}

// What a stream of zlib in one or more parts holds.
export async function inflated(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream('deflate'));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error(DAMAGED);
  }
}

// Samples of 1 to 32 bits, the highest bit first, of rows that each begin with a byte.
export function unpacked(bytes, bits, perRow, little = false) {
  if (bits === 8) return bytes;
  return bits < 8 ? ofBits(bytes, bits, perRow) : ofBytes(bytes, bits, little);
}

function ofBits(bytes, bits, perRow) {
  const stride = Math.ceil((perRow * bits) / 8);
  const [found, most] = [new Uint8Array((bytes.length / stride) * perRow), 2 ** bits - 1];
  for (let i = 0; i < found.length; i++) {
    const bit = (i % perRow) * bits;
    const byte = bytes[Math.floor(i / perRow) * stride + (bit >> 3)];
    found[i] = (byte >> (8 - bits - (bit & 7))) & most;
  }
  return found;
}

function ofBytes(bytes, bits, little) {
  const [Samples, get] = bits === 16 ? [Uint16Array, 'getUint16'] : [Uint32Array, 'getUint32'];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found = new Samples(bytes.length / Samples.BYTES_PER_ELEMENT);
  for (let i = 0; i < found.length; i++) found[i] = view[get]((i * bits) / 8, little);
  return found;
}

// `count` bytes of LZW, from codes of `minimum` + 1 bits on. TIFF has the highest bit first and takes
// longer codes one code early; GIF does neither.
export function lzw(bytes, minimum, count, isTiff) {
  const [clear, end] = [2 ** minimum, 2 ** minimum + 1];
  // A string of the table is what was written before: where it starts, and its length.
  const [starts, lengths] = [new Uint32Array(2 ** LZW_BITS), new Uint32Array(2 ** LZW_BITS)];
  const found = new Uint8Array(count);
  let [width, next, previous, held, bits, at, done] = [minimum + 1, end + 1, 0, 0, 0, 0, 0];
  while (done < count) {
    for (; bits < width; bits += 8) {
      if (at === bytes.length) throw new Error(DAMAGED);
      held = isTiff ? (held << 8) | bytes[at++] : held | (bytes[at++] << bits);
    }
    bits -= width;
    const code = isTiff ? held >> bits : held & (2 ** width - 1);
    held = isTiff ? held & (2 ** bits - 1) : held >> width;
    if (code === clear) {
      width = minimum + 1;
      next = end + 1;
      previous = 0;
      continue;
    }
    if (previous && next < 2 ** LZW_BITS) {
      starts[next] = done - previous;
      lengths[next] = previous + 1;
      next++;
    }
    if (code === end || code >= next) throw new Error(DAMAGED);
    if (next + (isTiff ? 1 : 0) >= 2 ** width && width < LZW_BITS) width++;
    previous = code < clear ? 1 : lengths[code];
    if (done + previous > count) throw new Error(DAMAGED);
    if (code < clear) found[done] = code;
    else for (let i = 0; i < previous; i++) found[done + i] = found[starts[code] + i];
    done += previous;
  }
  return found;
}

// `count` bytes of PackBits: how many bytes follow as they are, or how often the next is there.
export function packBits(bytes, count) {
  const found = new Uint8Array(count);
  let [at, done] = [0, 0];
  while (done < count) {
    if (at + 1 >= bytes.length) throw new Error(DAMAGED);
    const number = bytes[at++];
    if (number === 128) continue;
    const length = number < 128 ? number + 1 : 257 - number;
    if (number < 128) {
      found.set(firstOf(bytes.subarray(at), length).subarray(0, count - done), done);
      at += length;
    } else {
      found.fill(bytes[at++], done, done + length);
    }
    done += length;
  }
  return found;
}
