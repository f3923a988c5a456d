// A picture as a scan of one slice: {channels, shape [1, H, W], spacing}, as pictures.py reads it.

import { readBmp } from './bmp.js';
import { readGif } from './gif.js';
import { readJpeg } from './jpeg.js';
import { readPng } from './png.js';
import { readTiff } from './tiff.js';

// Of each format, by its content: how a file begins, and what reads it.
const READERS = [
  ['\x89PNG\r\n\x1a\n', readPng], ['BM', readBmp], ['GIF87a', readGif], ['GIF89a', readGif],
  ['\xff\xd8\xff', readJpeg], ['II*\0', readTiff], ['MM\0*', readTiff], ['II+\0', readTiff],
  ['MM\0+', readTiff],
];

export function isPicture(bytes) {
  return readerOf(bytes) !== undefined;
}

// Channels, one of grey or three of red, green and blue, have the stored values; a palette is
// replaced by its colours, or by its levels if all of them are grey.
export async function readPicture(bytes) {
  const read = readerOf(bytes);
  if (!read) throw new Error('no PNG, TIFF, JPEG, BMP or GIF, the pictures that this network sees');
  const picture = await read(bytes);
  requireColours(picture);
  requireOpaque(picture);
  return { channels: channelsOf(picture), shape: [1, ...picture.size], spacing: [1, 1, 1] };
}

function readerOf(bytes) {
  const begins = ([text]) => [...text].every((letter, i) => bytes[i] === letter.charCodeAt(0));
  return READERS.find(begins)?.[1];
}

function requireColours({ samples, palette }) {
  if (!palette) return;
  const [most, count] = [samples.reduce((a, b) => Math.max(a, b), 0), palette.length / 3];
  if (most < count) return;
  throw new Error(`it has the index ${most} in a palette of ${count} colours. Export it again`);
}

function requireOpaque({ bands, bits, samples, clear }) {
  let hidden = false;
  for (let at = 0; at < samples.length && !hidden; at += bands) {
    if (bands === 2 || bands === 4) hidden = samples[at + bands - 1] !== 2 ** bits - 1;
    else if (clear?.indices) hidden = clear.indices.includes(samples[at]);
    else if (clear) hidden = clear.colour.every((one, band) => samples[at + band] === one);
  }
  if (!hidden) return;
  throw new Error('it has transparent pixels, whose colours are not seen; export it without ' +
    'transparency');
}

function channelsOf({ size: [h, w], bands, bits, samples, palette }) {
  if (palette) {
    const isGrey = palette.every((one, i) => one === palette[i - (i % 3)]);
    return (isGrey ? [0] : [0, 1, 2]).map((band) =>
      Float32Array.from(samples, (index) => palette[3 * index + band]));
  }
  const times = bits < 8 ? 255 / (2 ** bits - 1) : 1; // as PNG spreads fewer bits over 0 to 255
  return (bands < 3 ? [0] : [0, 1, 2]).map((band) => {
    const channel = new Float32Array(h * w);
    for (let i = 0; i < channel.length; i++) channel[i] = samples[i * bands + band] * times;
    return channel;
  });
}
