// The slices that a DICOM file holds: one, or the frames of an enhanced object. Only the tags below
// are read; names and dates of the file are passed over. What is refused is what dicom_file.py of
// the program refuses.

import { DAMAGED } from './dicom_pieces.js';
import { COMPRESSED, readStored } from './dicom_pixels.js';

const NATIVE = { '1.2.840.10008.1.2': false, '1.2.840.10008.1.2.1': true }; // is the VR written?
const LONG = ['OB', 'OD', 'OF', 'OL', 'OV', 'OW', 'SQ', 'SV', 'UC', 'UN', 'UR', 'UT', 'UV'];
const UNDEFINED = 0xffffffff;
const SHORTEST = 8; // bytes of an element: its tag and its length
const [PIXELS, TABLE] = ['7fe0,0010', '0028,3000'];
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
// Functional groups: sequences of what all frames share and of what each has, and those in them.
const GROUPS = { '5200,9229': 'shared', '5200,9230': 'each' };
const MACROS = {
  '0020,9113': ['position'], '0020,9116': ['directions'], '0028,9110': ['spacing'],
  '0028,9145': ['slope', 'intercept'],
};
const TEXTS = {
  '0002,0002': 'stored_as', '0002,0010': 'syntax', '0008,0008': 'type', '0008,0016': 'object',
  '0020,0032': 'position', '0020,0037': 'directions',
  '0028,0004': 'kind', '0028,0008': 'frames', '0028,0030': 'spacing',
  '0028,1052': 'intercept', '0028,1053': 'slope',
};
const NUMBERS = {
  '0028,0002': 'channels', '0028,0010': 'rows', '0028,0011': 'columns', '0028,0100': 'allocated',
  '0028,0101': 'stored', '0028,0102': 'highBit', '0028,0103': 'signed',
};

// What a file without a head is called, or how it begins: a tag of the first groups, then its type
// or a short length.
const NAMED = /\.(dcm|ima)$/i;
const [NO_ENDING, BARE] = [/^[^.]+$|\.\d+$/, /^[\x02\x08]\0.\0([A-Z]{2}|..\0\0)/s];

export function isDicom(bytes) {
  return String.fromCharCode(...bytes.subarray(128, 132)) === 'DICM';
}

// Whether one of several files holds a slice, or should: no text, plan, report or segmentation.
export function holdsSlice(name, bytes) {
  if (!isDicom(bytes)) {
    return NAMED.test(name) || (NO_ENDING.test(name) && BARE.test(String.fromCharCode(...bytes.subarray(0, 8))));
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

// The slices of a file, {name, size [columns, rows], voxels with slope and intercept applied,
// isScaled, and what placeOf says}. An error has the name of the file.
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
      size: [found.columns, found.rows],
      voxels: scaled(stored.subarray(k * size, (k + 1) * size), place),
    }));
  } catch (error) {
    throw Object.assign(error, { file: name });
  }
}

function readTags(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found = {
    seen: new Set(), start: null, frames: '1', channels: 1, shared: [], each: [],
  };
  for (let at = 132; at + SHORTEST <= bytes.length; ) {
    const meta = view.getUint16(at, true) === 2; // that group is always explicit
    if (!meta) requireKnown(found.syntax);
    at = readElement(view, at, meta || (NATIVE[found.syntax] ?? true), found);
  }
  found.frames ||= '1'; // an empty text says nothing
  return found;
}

function requireKnown(syntax) {
  if (syntax in NATIVE || COMPRESSED.includes(syntax)) return;
  throw new Error(`its transfer syntax ${syntax} is not read here; expected little-endian pixels, or `
    + 'JPEG, JPEG-LS, JPEG 2000 or RLE');
}

// Notes what an element says and gives where the next one begins.
function readElement(view, at, explicit, found) {
  const { tag, kind, start, length } = headerAt(view, at, explicit);
  if (found.seen?.has(tag)) throw new Error(`it has the tag ${tag} twice`); // readers take either
  found.seen?.add(tag);
  if (tag === TABLE) found.table = true;
  const isMacro = found.frame && tag in MACROS;
  if (tag === PIXELS && length === UNDEFINED) {
    const end = endOfPieces(view, start);
    Object.assign(found, { start, length: end - start, inPieces: true });
    return end + SHORTEST; // the mark of its end
  }
  if (tag === PIXELS) Object.assign(found, { start, length });
  else if (tag in GROUPS || isMacro || length === UNDEFINED) {
    const inside = explicit && kind !== 'UN';
    const make = () => (tag in GROUPS ? { frame: {} } : {}); // what a group says of its frame
    const { items, end } = readItems(view, start, length, inside, make);
    if (tag in GROUPS) found[GROUPS[tag]] = items.map(({ frame }) => frame);
    for (const name of isMacro && items.length ? MACROS[tag] : []) {
      if (name in items[0]) found.frame[name] = items[0][name];
    }
    return end;
  } else if (tag in TEXTS) found[TEXTS[tag]] = textAt(view, start, length);
  else if (tag in NUMBERS) {
    if (length !== 2) throw new Error(`its tag ${tag} has ${length} bytes; expected one number`);
    found[NUMBERS[tag]] = view.getUint16(start, true);
  }
  return start + length;
}

function headerAt(view, at, explicit) {
  const [group, element] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
  const tag = [group, element].map((one) => one.toString(16).padStart(4, '0')).join();
  if (!explicit || group === 0xfffe) {
    return { tag, start: at + 8, length: view.getUint32(at + 4, true) };
  }
  const kind = textAt(view, at + 4, 2);
  return LONG.includes(kind)
    ? { tag, kind, start: at + 12, length: view.getUint32(at + 8, true) }
    : { tag, kind, start: at + 8, length: view.getUint16(at + 6, true) };
}

// Reads the items of a sequence, each with or without a length; gives them and where it ends.
function readItems(view, start, length, explicit, make) {
  const items = [];
  const last = length === UNDEFINED ? Infinity : start + length;
  for (let at = start; at < last; ) {
    const head = headerAt(view, at, explicit);
    at = head.start;
    if (head.tag === 'fffe,e0dd') return { items, end: at };
    const end = head.length === UNDEFINED ? Infinity : at + head.length;
    const item = make();
    while (at < end && headerAt(view, at, explicit).tag !== 'fffe,e00d') {
      at = readElement(view, at, explicit, item);
    }
    items.push(item);
    if (end === Infinity) at += 8; // the mark of its end
  }
  return { items, end: last };
}

// Where compressed pixels end, which are whole pieces.
function endOfPieces(view, start) {
  for (let at = start; ;) {
    const { tag, start: from, length } = headerAt(view, at, true);
    if (tag === 'fffe,e0dd') return at;
    if (tag !== 'fffe,e000') throw new Error(DAMAGED);
    at = from + length;
  }
}

function textAt(view, start, length) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + start, length);
  return String.fromCharCode(...bytes).replace(/[\0 ]+$/, '');
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
