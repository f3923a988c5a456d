// The tags of a DICOM file that say what its slices are and where they lie; names and dates of the
// file are passed over.

import { DAMAGED } from './dicom_pieces.js';
import { COMPRESSED } from './dicom_pixels.js';

const NATIVE = { '1.2.840.10008.1.2': false, '1.2.840.10008.1.2.1': true }; // is the VR written?
const LONG = ['OB', 'OD', 'OF', 'OL', 'OV', 'OW', 'SQ', 'SV', 'UC', 'UN', 'UR', 'UT', 'UV'];
const UNDEFINED = 0xffffffff;
const SHORTEST = 8; // bytes of an element: its tag and its length
const [PIXELS, TABLE] = ['7fe0,0010', '0028,3000'];
// Functional groups: sequences of what all frames share and of what each has, and those in them.
const GROUPS = { '5200,9229': 'shared', '5200,9230': 'each' };
const MACROS = {
  '0020,9113': ['position'], '0020,9116': ['directions'], '0028,9110': ['spacing'],
  '0028,9145': ['slope', 'intercept'],
};
const TEXTS = {
  '0002,0002': 'stored_as', '0002,0010': 'syntax', '0008,0008': 'type', '0008,0016': 'object',
  '0020,000e': 'series', '0020,0032': 'position', '0020,0037': 'directions',
  '0028,0004': 'kind', '0028,0008': 'frames', '0028,0030': 'spacing',
  '0028,1052': 'intercept', '0028,1053': 'slope',
};
const NUMBERS = {
  '0028,0002': 'channels', '0028,0010': 'rows', '0028,0011': 'columns', '0028,0100': 'allocated',
  '0028,0101': 'stored', '0028,0102': 'highBit', '0028,0103': 'signed',
};

export function isDicom(bytes) {
  return String.fromCharCode(...bytes.subarray(128, 132)) === 'DICM';
}

// Texts and numbers by the names above; seen, all tags; shared and each, what functional groups say of
// all frames and of each; start and length of the pixels, and whether these are inPieces.
export function readTags(bytes) {
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
