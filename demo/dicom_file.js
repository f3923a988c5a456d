// The slices that a DICOM file holds: one, or the frames of an enhanced object. What is refused is
// what dicom_file.py of the program refuses.

import { readStored } from './dicom_pixels.js';
import { isDicom, readTags } from './dicom_tags.js';

const GRAYS = ['MONOCHROME1', 'MONOCHROME2']; // which say how values are shown
// Storage classes that are no images: spectra, maps, segmentations, doses, plans and reports, and
// whatever is no number.
const NO_IMAGE = new RegExp(String.raw`[^\d.]|^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(4\.2|6\.2|[89]|1[01]|30|`
  + String.raw`6[678]|77\.1\.5\.[38]|7[89]|8[0128]|9[01]|104|129|131|20[01]|481\.(2[0125]?|[3-9]|1\d)|`
  + String.raw`501\.[3-6])(\.\d+)*$`);
const STANDARD = '1.2.840.10008.5.1.4.1.1.'; // how the classes of all images begin, and of others
const SEGMENTS = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[457]$/;
const LOCALIZERS = ['LOCALIZER', 'SCOUT'];
const NUMBER = /^ *[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)? *$/i;
const ROUNDING = 0.01; // of directions: some programs write three digits
// What a file without a head is called, or how it begins: a tag of the first groups, then its type
// or a short length.
const NAMED = /\.(dcm|ima)$/i;
const [NO_ENDING, BARE] = [/^[^.]+$|\.\d+$/, /^[\x02\x08]\0.\0([A-Z]{2}|..\0\0)/s];

// Whether one of several files holds a slice, or should: no text, plan, report or segmentation.
export function holdsSlice(name, bytes) {
  if (!isDicom(bytes)) {
    const begins = String.fromCharCode(...bytes.subarray(0, 8));
    return NAMED.test(name) || (NO_ENDING.test(name) && BARE.test(begins));
  }
  try {
    const { rows, object, stored_as: stored } = readTags(bytes);
    const what = object || stored || '';
    if (rows !== undefined) return !SEGMENTS.test(what);
    return !what || (what.startsWith(STANDARD) && !NO_IMAGE.test(what));
  } catch {
    return true; // so that it is refused rather than left out
  }
}

// The slices of a file, {name, series, its id or '', size [columns, rows], voxels with slope and
// intercept applied, isScaled, and what placeOf says}. An error has the name of the file.
export async function readPlanes(name, bytes) {
  try {
    if (!isDicom(bytes)) throw new Error('it has no head of a DICOM file; export it again');
    const found = readTags(bytes);
    requireSlices(found);
    const places = placesOf(found);
    const [stored, size] = [await readStored(bytes, found), found.rows * found.columns];
    return places.map((place, k) => ({
      ...place,
      name: places.length > 1 ? `${name}, frame ${k + 1}` : name,
      series: found.series ?? '',
      size: [found.columns, found.rows],
      voxels: scaled(stored.subarray(k * size, (k + 1) * size), place),
    }));
  } catch (error) {
    throw Object.assign(error, { file: name });
  }
}

function requireSlices({ start, frames, channels, kind, rows, columns, each, ...rest }) {
  const object = rest.object || rest.stored_as || '';
  const { allocated, stored, highBit, signed } = rest;
  const problems = [
    [start === null || !rows || !columns, 'it has no pixels'],
    [channels !== 1, 'it is a colour image; expected intensities'],
    [NO_IMAGE.test(object), `it is no image but an object of class ${object.slice(0, 60)}, such as a `
      + 'dose, a segmentation or a report; expected intensities'],
    [(rest.type ?? '').split('\\').some((one) => LOCALIZERS.includes(one.trim())),
      'it is a localizer; expected a slice of a scan'],
    [Number(frames) !== Math.max(1, each.length), `it has ${frames} frames, of which `
      + `${each.length} say where they lie; expected all, or a single slice`],
    [!GRAYS.includes(kind), `its pixels are ${kind}; expected ${GRAYS.join(' or ')}`],
    [rest.table, 'its intensities are those of a table; expected a slope and an intercept'],
    [![8, 16, 32].includes(allocated), `it has ${allocated} bits a pixel; expected 8, 16 or 32`],
    [!(stored > 0 && stored <= allocated), `it stores ${stored} of ${allocated} bits`],
    [!(highBit >= stored - 1 && highBit < allocated), `its high bit is ${highBit} of ${allocated}`],
    [![0, 1].includes(signed), `its PixelRepresentation is ${signed}; expected 0 or 1`],
  ];
  const problem = problems.find(([is]) => is);
  if (problem) throw new Error(problem[1]);
}

// What the file says of each frame: of it alone, else of all, else of the file, as of a slice.
function placesOf({ shared, each, ...found }) {
  return Array.from({ length: Number(found.frames) }, (_, k) => {
    const plane = { ...found, ...shared[0], ...each[k] };
    if (!['position', 'directions', 'spacing'].every((name) => name in plane)) {
      throw new Error('it does not say where the slice lies');
    }
    return { ...placeOf(plane), ...scalingOf(plane) };
  });
}

function scalingOf(plane) {
  const there = ['slope', 'intercept'].filter((name) => name in plane);
  if (there.length === 1) throw new Error(`it has the ${there[0]} alone; expected slope and intercept`);
  const [slope, intercept] = there.length ? there.map((name) => numbers(plane, name, 1)[0]) : [1, 0];
  if (!slope) throw new Error('its slope is 0');
  return { isScaled: there.length === 2, slope, intercept };
}

function scaled(stored, { slope, intercept }) {
  const voxels = new Float32Array(stored.length);
  for (let i = 0; i < voxels.length; i++) voxels[i] = stored[i] * slope + intercept;
  return voxels;
}

// As many numbers as expected in a text, or an error that quotes it.
function numbers(found, name, count) {
  const words = found[name].split('\\');
  const values = words.map(Number);
  if (words.length !== count || !words.every((word) => NUMBER.test(word)) || !values.every(isFinite)) {
    throw new Error(`its ${name} is '${found[name].slice(0, 60)}'; expected ${count} numbers`);
  }
  return values;
}

export const dot = (a, b) => a.reduce((sum, one, i) => sum + one * b[i], 0);
const unit = (a) => a.map((one) => one / Math.hypot(...a));

// Where a plane lies, LPS mm: its first pixel, the directions of rows, columns and their normal.
function placeOf(found) {
  const distances = numbers(found, 'spacing', 2); // between rows, between columns
  if (!(Math.min(...distances) > 0)) {
    throw new Error(`its spacing is '${found.spacing}'; expected two distances above 0`);
  }
  const [origin, six] = [numbers(found, 'position', 3), numbers(found, 'directions', 6)];
  const [u, v] = [six.slice(0, 3), six.slice(3)];
  const off = [dot(u, u) - 1, dot(v, v) - 1, dot(u, v)].map(Math.abs);
  if (!(Math.max(...off) <= ROUNDING)) {
    throw new Error(`its directions are '${found.directions}'; expected two at right angles`);
  }
  const row = unit(u);
  const column = unit(v.map((one, i) => one - dot(v, row) * row[i]));
  const normal = [[1, 2], [2, 0], [0, 1]].map(([i, j]) => row[i] * column[j] - row[j] * column[i]);
  return { origin, distances, row, column, normal };
}
