// Run in Node.js, not by the page: says what is wrong with a sample, in JSON, or null. On its
// standard input are the paths of the sample's files.

import { File } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { readParts } from './jpeg.js';
import { openScan, requireChannels } from './open.js';
import { toUnitRange } from './prepare.js';

async function problemOf(paths) {
  const settings = JSON.parse(readFileSync('preprocessing.json', 'utf8'));
  const given = paths.map((path) =>
    ({ file: new File([readFileSync(path)], basename(path)), folder: '' }));
  try {
    const bytes = new Uint8Array(await given[0].file.arrayBuffer());
    if (settings.unit === 'pixels' && isJpeg(bytes)) { // which only a browser decodes
      requireChannels(readParts(bytes).bands, settings);
      return null;
    }
    const scan = await openScan(given, settings);
    for (const channel of scan.channels) toUnitRange(channel, settings);
    return null;
  } catch (error) {
    const text = error instanceof RangeError ? 'it is cut off or too large' : error.message;
    return error.file ? `${error.file}: ${text}` : text;
  }
}

function isJpeg(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8;
}

console.log(JSON.stringify(await problemOf(JSON.parse(readFileSync(0, 'utf8')))));
process.exitCode = 0; // GDCM sets another one where it refuses
