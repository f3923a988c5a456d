// A NIfTI file, .nii or .nii.gz, of version 1 or 2, as a scan: {voxels, shape [X, Y, Z], affine,
// unsure, header}; the last is what a mask of the scan repeats.

// Of each datatype number: bytes a voxel, and how a DataView reads one.
const TYPES = {
  2: [1, 'getUint8'], 256: [1, 'getInt8'],
  4: [2, 'getInt16'], 512: [2, 'getUint16'],
  8: [4, 'getInt32'], 768: [4, 'getUint32'],
  16: [4, 'getFloat32'], 64: [8, 'getFloat64'],
  1024: [8, 'getBigInt64'], 1280: [8, 'getBigUint64'],
};
const COLOUR = [128, 2304];
// By the first number of a file, the size of its header: where its fields lie, and their types.
export const VERSIONS = {
  348: {
    magic: [344, 'n+1\0'], dim: [40, 'Int16'], datatype: [70, 'Int16'], pixdim: [76, 'Float32'],
    bitpix: [72, 'Int16'], dim_info: [39, 'Uint8'], descrip: [148, ''],
    vox_offset: [108, 'Float32'], scl_slope: [112, 'Float32'], scl_inter: [116, 'Float32'],
    xyzt_units: [123, 'Uint8'], qform_code: [252, 'Int16'], sform_code: [254, 'Int16'],
    quatern: [256, 'Float32'], qoffset: [268, 'Float32'], srow: [280, 'Float32'],
  },
  540: {
    magic: [4, 'n+2\0'], dim: [16, 'BigInt64'], datatype: [12, 'Int16'], pixdim: [104, 'Float64'],
    bitpix: [14, 'Int16'], dim_info: [524, 'Uint8'], descrip: [240, ''],
    vox_offset: [168, 'BigInt64'], scl_slope: [176, 'Float64'], scl_inter: [184, 'Float64'],
    xyzt_units: [500, 'Int32'], qform_code: [344, 'Int32'], sform_code: [348, 'Int32'],
    quatern: [352, 'Float64'], qoffset: [376, 'Float64'], srow: [400, 'Float64'],
  },
};
export const WIDTHS = { Uint8: 1, Int16: 2, Int32: 4, Float32: 4, Float64: 8, BigInt64: 8 };
export const EXTENDER = 4; // bytes behind a header, before extensions or voxels
// Fields that say where voxels lie, and how many numbers each has.
const GEOMETRY = {
  dim_info: 1, pixdim: 8, xyzt_units: 1, qform_code: 1, sform_code: 1, quatern: 3, qoffset: 3, srow: 12,
};
const MILLIMETRES = { 0: 1, 1: 1000, 2: 1, 3: 0.001 }; // a unit: unknown, metre, mm, micrometre
const APART = 0.7071; // cosine between an axis by both forms, 45 degrees but for rounding
const ROUNDING = 1e-3; // by which the square of a quaternion may be above 1
const OWN_ZEROS = 8; // bytes at the end of a gzip member, its checksum and length, that may be 0

export function isNifti(bytes) {
  return Object.entries(VERSIONS).some(([size, { magic: [at, text] }]) =>
    bytes.length > size && String.fromCharCode(...bytes.subarray(at, at + 4)) === text);
}

// What a gzip file holds, or the bytes of another file. Browsers refuse whatever lies behind the
// first member, so each is tried up to where the next may begin; its checksum says if that is right.
export async function unzipped(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const [file, parts] = [new Blob([bytes]), []];
  for (let start = 0; bytes.subarray(start).some(Boolean);) {
    const found = await memberAt(start, bytes, file);
    parts.push(found.content);
    start = found.end;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function memberAt(start, bytes, file) {
  for (const end of possibleEnds(start, bytes)) {
    const stream = file.slice(start, end).stream().pipeThrough(new DecompressionStream('gzip'));
    try {
      return { end, content: await new Response(stream).arrayBuffer() };
    } catch {
      // It does not end there.
    }
  }
  throw new Error('the gzip file is damaged or cut off, or has more behind its end; try gunzip ' +
    'and give what it writes');
}

function* possibleEnds(start, bytes) {
  yield bytes.length;
  for (let at = start; (at = bytes.indexOf(0x1f, at + 1)) > 0;) {
    if (bytes[at + 1] === 0x8b && bytes[at + 2] === 8) yield at;
  }
  const last = bytes.findLastIndex(Boolean) + 1;
  for (let end = last; end < Math.min(bytes.length, last + OWN_ZEROS + 1); end++) yield end;
}

// Voxels are intensities with slope and intercept applied, x fastest; affine is [3][4], from
// (x, y, z, 1) to RAS millimetres. What the header says is checked as in nifti.py of an export.
export function readNifti(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = view.getInt32(0, true) in VERSIONS;
  const header = view.getInt32(0, little);
  require(header in VERSIONS, 'sizeof_hdr', header);
  const field = (name, number = 0) => {
    const [at, type] = VERSIONS[header][name];
    return Number(view[`get${type}`](at + number * WIDTHS[type], little));
  };
  const axes = field('dim');
  const sizes = [1, 2, 3, 4, 5, 6, 7].map((axis) => (axis <= axes ? field('dim', axis) : 1));
  const [shape, more] = [sizes.slice(0, 3), sizes.slice(3)];
  if (axes < 3 || axes > 7 || sizes.some((size) => size < 1)) {
    throw new Error(`the header says ${axes} axes of ${sizes} voxels; expected a volume`);
  }
  if (more.some((size) => size > 1)) {
    throw new Error(`it has several channels or times (${sizes}); expected one volume`);
  }
  const type = field('datatype');
  if (COLOUR.includes(type)) throw new Error('it is a colour image; expected intensities');
  if (!(type in TYPES)) throw new Error(`its datatype ${type} is not read here`);
  const [width, get] = TYPES[type];
  const count = shape[0] * shape[1] * shape[2];
  const least = header + EXTENDER;
  const start = field('vox_offset') === 0 ? least : field('vox_offset'); // 0 says nothing
  require(start >= least && Number.isInteger(start), 'vox_offset', start);
  if (start + count * width > bytes.length) throw new Error('the file is cut off');
  if (start + count * width < bytes.length) throw new Error('it has more voxels than it says');
  const [slope, intercept] = [field('scl_slope'), field('scl_inter')];
  const scaled = slope !== 0 && !Number.isNaN(slope); // the ways to say that there is no scaling
  require(!scaled || Number.isFinite(slope), 'scl_slope', slope);
  require(!scaled || Number.isFinite(intercept), 'scl_inter', intercept);
  const [times, plus] = scaled ? [slope, intercept] : [1, 0];
  const voxels = new Float32Array(count);
  for (let i = 0; i < count; i++) voxels[i] = Number(view[get](start + i * width, little)) * times + plus;
  const affine = inMillimetres(affineOf(field, shape), field('xyzt_units') & 7);
  return { voxels, shape, affine, unsure: unsureOf(field), header: geometryOf(header, field) };
}

// How the axes are taken, if the header does not say clearly where they point; '' if it does.
function unsureOf(field) {
  if (field('qform_code') && field('sform_code') && formsAreApart(field)) {
    return 'its header says two things of where its axes point, as sform and qform lie more than 45 '
      + 'degrees apart; the sform is taken: check that it is right';
  }
  return field('qform_code') || field('sform_code') ? ''
    : 'its header does not say where its axes point; x, y, z are taken to point to L, A, S: check '
      + 'that they do';
}

// Whether an axis by the qform is more than 45 degrees from that by the sform; false without a
// valid quaternion.
function formsAreApart(field) {
  if (!(squareOf(field) <= 1 + ROUNDING)) return false;
  const turned = rotationOf(field);
  return [0, 1, 2].some((axis) => {
    const column = [0, 4, 8].map((row) => field('srow', row + axis));
    const along = column.reduce((sum, one, row) => sum + one * turned[row][axis], 0);
    return along < APART * Math.hypot(...column);
  });
}

// What a header says of where voxels lie, [version, lists of numbers by field], as it was taken.
function geometryOf(version, field) {
  const found = Object.fromEntries(Object.entries(GEOMETRY).map(([name, count]) =>
    [name, Array.from({ length: count }, (_, number) => field(name, number))]));
  if (!field('sform_code') && field('qform_code')) {
    found.pixdim[0] ||= 1; // as the standard has it
    found.quatern = quaternOf(field);
  }
  return [Number(version), found];
}

function require(valid, name, value) {
  if (!valid) throw new Error(`its header has ${name} ${value}, which cannot be; export it again`);
}

function inMillimetres(affine, unit) {
  require(unit in MILLIMETRES, 'xyzt_units', unit);
  return affine.map((row) => row.map((one) => one * MILLIMETRES[unit]));
}

// The sform, else the qform, else the sizes of voxels with x to the left.
function affineOf(field, shape) {
  for (const name of ['qform_code', 'sform_code']) {
    require(field(name) >= 0 && field(name) <= 5, name, field(name));
  }
  const numbers = (name, places) => {
    const found = places.map((number) => field(name, number));
    require(found.every(Number.isFinite), name, found);
    return found;
  };
  if (field('sform_code')) {
    return [0, 4, 8].map((row) => numbers('srow', [0, 1, 2, 3].map((column) => row + column)));
  }
  const size = numbers('pixdim', [1, 2, 3]);
  require(Math.min(...size) > 0, 'pixdim', size);
  if (!field('qform_code')) {
    const signed = [-size[0], size[1], size[2]];
    return signed.map((one, row) => {
      const line = [0, 0, 0, (-one * (shape[row] - 1)) / 2];
      line[row] = one;
      return line;
    });
  }
  require([-1, 0, 1].includes(field('pixdim')), 'pixdim[0]', field('pixdim'));
  numbers('quatern', [0, 1, 2]);
  const rotation = rotationOf(field);
  const origin = numbers('qoffset', [0, 1, 2]);
  return rotation.map((row, i) => [...row.map((one, axis) => one * size[axis]), origin[i]]);
}

// The directions of the axes by the qform, [3, 3], an axis in a column.
function rotationOf(field) {
  const [b, c, d] = quaternOf(field);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const hand = field('pixdim') < 0 ? -1 : 1;
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), hand * 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, hand * 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), hand * (a * a + d * d - b * b - c * c)],
  ];
}

// The last three of a quaternion of length 1, which rounding may have made longer.
function quaternOf(field) {
  const stored = [0, 1, 2].map((number) => field('quatern', number));
  const square = squareOf(field);
  require(square <= 1 + ROUNDING, 'quatern', stored);
  return stored.map((one) => one / Math.max(1, Math.sqrt(square)));
}

function squareOf(field) {
  return [0, 1, 2].reduce((sum, number) => sum + field('quatern', number) ** 2, 0);
}
