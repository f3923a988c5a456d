// One uncompressed DICOM slice as a scan: {voxels, shape [columns, rows, 1], affine}.
// Only the tags below are read; names and dates of the file are passed over.

const NATIVE = { '1.2.840.10008.1.2': false, '1.2.840.10008.1.2.1': true }; // is the VR written?
const LONG = ['OB', 'OD', 'OF', 'OL', 'OV', 'OW', 'SQ', 'SV', 'UC', 'UN', 'UR', 'UT', 'UV'];
const UNDEFINED = 0xffffffff;
const [PIXELS, TABLE] = ['7fe0,0010', '0028,3000'];
const GRAYS = ['MONOCHROME1', 'MONOCHROME2']; // which say how values are shown
const DOSE = '1.2.840.10008.5.1.4.1.1.481.2'; // an RT Dose Storage object
const LOCALIZER = /LOCALIZER|SCOUT/;
const NUMBER = /^ *[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)? *$/i;
const ROUNDING = 0.01; // of directions: some programs write three digits
const TEXTS = {
  '0002,0010': 'syntax', '0008,0008': 'type', '0008,0016': 'object', '0020,0032': 'position', '0020,0037': 'directions',
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

export function readDicom(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found = { start: null, frames: '1', channels: 1 };
  for (let at = 132; at < bytes.length && found.start === null; ) {
    const meta = view.getUint16(at, true) === 2; // that group is always explicit
    if (!meta) requireNative(found.syntax);
    at = readElement(view, at, meta || NATIVE[found.syntax], found);
  }
  requirePlain(found);
  const shape = [found.columns, found.rows, 1];
  return { voxels: voxelsOf(view, found), shape, affine: affineOf(found) };
}

function requireNative(syntax) {
  if (syntax in NATIVE) return;
  throw new Error(`its pixels are compressed or big endian (transfer syntax ${syntax}); `
    + 'expected an uncompressed little-endian slice');
}

// Notes what an element says and gives where the next one begins.
function readElement(view, at, explicit, found) {
  const { tag, kind, start, length } = headerAt(view, at, explicit);
  if (tag === TABLE) found.table = true;
  if (tag === PIXELS) Object.assign(found, { start, length });
  else if (length === UNDEFINED) return skipItems(view, start, explicit && kind !== 'UN');
  else if (tag in TEXTS) found[TEXTS[tag]] = textAt(view, start, length);
  else if (tag in NUMBERS) found[NUMBERS[tag]] = view.getUint16(start, true);
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

// Passes over what has no length: a sequence of items, or an item of elements.
function skipItems(view, at, explicit) {
  for (;;) {
    const { tag, start, length } = headerAt(view, at, explicit);
    if (tag === 'fffe,e0dd' || tag === 'fffe,e00d') return start;
    at = length === UNDEFINED ? skipItems(view, start, explicit) : start + length;
  }
}

function textAt(view, start, length) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + start, length);
  return String.fromCharCode(...bytes).replace(/[\0 ]+$/, '');
}

function requirePlain({ start, frames, channels, kind, rows, columns, ...rest }) {
  const { allocated, stored, highBit, signed } = rest;
  const size = (rows * columns * allocated) / 8;
  const problems = [
    [start === null || !rows || !columns, 'it has no pixels'],
    [channels > 1, 'it is a colour image; expected intensities'],
    [rest.object === DOSE, 'it is a dose; expected intensities'],
    [LOCALIZER.test(rest.type), 'it is a localizer; expected a slice of a scan'],
    [Number(frames) !== 1, `it has ${frames} frames; expected a single slice`],
    [!GRAYS.includes(kind), `its pixels are ${kind}; expected ${GRAYS.join(' or ')}`],
    [rest.table, 'its intensities are those of a table; expected a slope and an intercept'],
    [![8, 16, 32].includes(allocated), `it has ${allocated} bits a pixel; expected 8, 16 or 32`],
    [!(stored > 0 && stored <= allocated), `it stores ${stored} of ${allocated} bits`],
    [!(highBit >= stored - 1 && highBit < allocated), `its high bit is ${highBit} of ${allocated}`],
    [![0, 1].includes(signed), `its PixelRepresentation is ${signed}; expected 0 or 1`],
    [size > rest.length, 'its pixels are cut off'],
    [size + (size % 2) < rest.length, 'it has more pixels than it says'],
    [!['position', 'directions', 'spacing'].every((name) => name in rest),
      'it does not say where the slice lies'],
  ];
  const problem = problems.find(([is]) => is);
  if (problem) throw new Error(problem[1]);
}

function voxelsOf(view, { start, rows, columns, allocated, stored, highBit, signed, ...rest }) {
  const get = { 8: 'getUint8', 16: 'getUint16', 32: 'getUint32' }[allocated];
  const [left, right] = [31 - highBit, 32 - stored]; // what lies beside the stored bits goes
  const names = ['slope', 'intercept'];
  const there = names.filter((name) => name in rest);
  if (there.length === 1) throw new Error(`it has the ${there[0]} alone; expected slope and intercept`);
  const scaling = there.length ? names.map((name) => numbers(rest, name, 1)[0]) : [1, 0];
  const [slope, intercept] = scaling;
  if (!slope) throw new Error('its slope is 0');
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    const bits = view[get](start + (i * allocated) / 8, true) << left;
    return (signed ? bits >> right : bits >>> right) * slope + intercept;
  });
}

// As many numbers as expected in a text, or an error that quotes it.
function numbers(found, name, count) {
  const words = found[name].split('\\');
  if (words.length !== count || !words.every((word) => NUMBER.test(word))) {
    throw new Error(`its ${name} is '${found[name].slice(0, 60)}'; expected ${count} numbers`);
  }
  return words.map(Number);
}

// DICOM points to the left and back, an affine to the right and front.
function affineOf(found) {
  const [down, across] = numbers(found, 'spacing', 2); // between rows, between columns
  if (!(down > 0 && across > 0)) throw new Error(`its spacing is '${found.spacing}'`);
  const [origin, six] = [numbers(found, 'position', 3), numbers(found, 'directions', 6)];
  const [u, v] = [six.slice(0, 3), six.slice(3)];
  const dot = (a, b) => a.reduce((sum, one, i) => sum + one * b[i], 0);
  const off = [dot(u, u) - 1, dot(v, v) - 1, dot(u, v)].map(Math.abs);
  if (!(Math.max(...off) <= ROUNDING)) {
    throw new Error(`its directions are '${found.directions}'; expected two at right angles`);
  }
  const normal = [[1, 2], [2, 0], [0, 1]].map(([i, j]) => u[i] * v[j] - u[j] * v[i]);
  const rows = [0, 1, 2].map((i) => [u[i] * across, v[i] * down, normal[i], origin[i]]);
  return rows.map((row, i) => (i < 2 ? row.map((one) => -one) : row));
}
