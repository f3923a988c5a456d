// A JPEG: {size [H, W], bands, bits, samples}, decoded by the browser and turned as its EXIF says.

import { checksum } from './crc.js';
import { requireSize } from './packed.js';
import { orientationOf } from './tags.js';

const [START, END, SCAN, JFIF, ADOBE, EXIF] = [0xd8, 0xd9, 0xda, 0xe0, 0xee, 0xe1];
const [EXIF_NAME, XMP_NAME] = ['Exif\0\0', 'http://ns.adobe.com/xap/1.0/\0'];
// A JPEG of 16 x 24 pixels in colours at half the resolution, and the checksum of its pixels
// as libjpeg-turbo, with which the program reads, decodes it.
const PROBE =
  '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVG' +
  'ZIhlbXd7gYKBTmCNl4x9lnN+gXz/2wBDARUXFx4aHjshITt8U0ZTfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8' +
  'fHx8fHx8fHx8fHx8fHx8fHx8fHz/wAARCAAQABgDASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAABQADBP/EACIQ' +
  'AQACAQQCAgMAAAAAAAAAAAECEQADBBIhIjFBcZGh8P/EABUBAQEAAAAAAAAAAAAAAAAAAAQF/8QAHBEAAgICAwAAAAAA' +
  'AAAAAAAAAQQAIQIDMUHx/9oADAMBAAIRAxEAPwAiOznxZR9x8Sz39Ztp7dJrGLBBsu8SNozYy4eL7o/WdGltpFDp1KBc' +
  'Wu6D+6x+5sjuFXau4dp7ZOcmi75dL8veWLae2KTjIBuko/FZZKzcAPMtYNV5P//Z';
const [PROBE_SIZE, PROBE_SUM] = [[16, 24], 0xf174656f];

export async function readJpeg(bytes) {
  const { size, bands, orientation, bare } = readParts(bytes);
  requireSize(size, bands, 8, bytes);
  await requireExact();
  const samples = await decoded(bare, size, bands);
  return { ...upright(samples, size, bands, orientation), bands, bits: 8 };
}

// What the header says, and the file without what would make a browser turn or recolour it.
export function readParts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = [bytes.subarray(0, 2)];
  let [at, size, bands, exif, xmp] = [2, undefined, 0, undefined, undefined];
  for (let marker = START; marker !== END;) {
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at++; // these fill up
    marker = markerAt(view, at);
    const end = marker === END ? at + 2 : at + 2 + view.getUint16(at + 2);
    const content = bytes.subarray(at + 4, end);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) [size, bands] = [[view.getUint16(at + 5), view.getUint16(at + 7)], bytes[at + 9]];
    if (marker === EXIF && begins(content, EXIF_NAME)) exif = content.subarray(EXIF_NAME.length);
    if (marker === EXIF && begins(content, XMP_NAME)) xmp = content;
    const next = marker === SCAN ? endOfScan(bytes, end) : end;
    const describes = marker >= JFIF && marker <= 0xef && marker !== JFIF && marker !== ADOBE;
    if (!describes) parts.push(bytes.subarray(at, next));
    at = next;
  }
  if (!size) throw new Error('it is a JPEG without a picture');
  if (bands !== 1 && bands !== 3) {
    throw new Error(`it is a JPEG of ${bands} colours (CMYK has 4); expected grey or RGB. Convert it`);
  }
  const bare = new Blob(parts, { type: 'image/jpeg' });
  return { size, bands, orientation: orientationOf(exif, xmp), bare };
}

function begins(content, name) {
  return [...name].every((letter, i) => content[i] === letter.charCodeAt(0));
}

function markerAt(view, at) {
  if (view.getUint8(at) !== 0xff) throw new Error('it is a damaged JPEG; copy it again');
  return view.getUint8(at + 1);
}

// Where the next marker is that does not belong to the coded pixels.
function endOfScan(bytes, start) {
  for (let at = start; (at = bytes.indexOf(0xff, at)) >= 0; at += 2) {
    const next = bytes[at + 1];
    if (next && (next < 0xd0 || next > 0xd7)) return at;
  }
  throw new RangeError(); // it ends before
}

// Browsers may decode in other ways, or change what a page reads so that it cannot be recognised.
async function requireExact() {
  const bytes = Uint8Array.from(atob(PROBE), (letter) => letter.charCodeAt(0));
  const probe = new Blob([bytes], { type: 'image/jpeg' });
  if (checksum(await decoded(probe, PROBE_SIZE, 3)) === PROBE_SUM) return;
  throw new Error('this browser gives JPEG other values than those of the training; save it as ' +
    'PNG, or take another browser');
}

async function decoded(file, [h, w], bands) {
  let pixels;
  try {
    const picture = await createImageBitmap(file, { colorSpaceConversion: 'none' });
    const context = new OffscreenCanvas(w, h).getContext('2d', { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    pixels = context.getImageData(0, 0, w, h).data;
  } catch {
    throw new Error('this browser cannot decode it; save it as PNG');
  }
  const samples = new Uint8Array(h * w * bands);
  for (let i = 0; i < samples.length; i++) samples[i] = pixels[Math.floor(i / bands) * 4 + (i % bands)];
  return samples;
}

// Pixels as they are seen, by EXIF 2.32, table of tag 274: above 4 rows are columns.
export function upright(samples, [h, w], bands, orientation) {
  const lies = orientation > 4 && orientation <= 8;
  const size = lies ? [w, h] : [h, w];
  const [mirrored, headOver] = [[2, 3, 6, 7], [3, 4, 7, 8]].map((all) => all.includes(orientation));
  const found = new Uint8Array(samples.length);
  let at = 0;
  for (let y = 0; y < size[0]; y++) {
    for (let x = 0; x < size[1]; x++) {
      const [row, column] = [headOver ? size[0] - 1 - y : y, mirrored ? size[1] - 1 - x : x];
      const pixel = lies ? column * w + row : row * w + column;
      for (let band = 0; band < bands; band++) found[at++] = samples[pixel * bands + band];
    }
  }
  return { size, samples: found };
}
