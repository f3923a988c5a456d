// A NIfTI-1 file, .nii or .nii.gz, as a scan: {voxels, shape [X, Y, Z], affine}.

// Of each datatype number: bytes a voxel, and how a DataView reads one.
const TYPES = {
  2: [1, 'getUint8'], 256: [1, 'getInt8'],
  4: [2, 'getInt16'], 512: [2, 'getUint16'],
  8: [4, 'getInt32'], 768: [4, 'getUint32'],
  16: [4, 'getFloat32'], 64: [8, 'getFloat64'],
};
const COLOUR = [128, 2304];
const LEAST = 352; // where voxels can begin
const MILLIMETRES = { 0: 1, 1: 1000, 2: 1, 3: 0.001 }; // a unit: unknown, metre, mm, micrometre
const LARGEST_MM = 100; // of a voxel in another unit: beyond, the unit rather than the scan is odd
const ROUNDING = 1e-3; // by which the square of a quaternion may be above 1

export function isNifti(bytes) {
  return bytes.length > 348 && String.fromCharCode(...bytes.subarray(344, 347)) === 'n+1';
}

export async function unzipped(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error('the gzip file is damaged or cut off');
  }
}

// Voxels are intensities with slope and intercept applied, x fastest; affine is [3][4], from
// (x, y, z, 1) to RAS millimetres. What the header says is checked as in nifti.py of an export.
export function readNifti(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = view.getInt32(0, true) === 348;
  require(little || view.getInt32(0) === 348, 'sizeof_hdr', view.getInt32(0, true));
  const short = (at) => view.getInt16(at, little);
  const float = (at) => view.getFloat32(at, little);
  const sizes = [1, 2, 3, 4, 5, 6, 7].map((axis) => (axis <= short(40) ? short(40 + 2 * axis) : 1));
  const [shape, more] = [sizes.slice(0, 3), sizes.slice(3)];
  if (short(40) < 1 || short(40) > 7 || sizes.some((size) => size < 1)) {
    throw new Error(`the header says ${sizes} voxels`);
  }
  if (more.some((size) => size > 1)) {
    throw new Error(`it has several channels or times (${sizes}); expected one volume`);
  }
  const type = short(70);
  if (COLOUR.includes(type)) throw new Error('it is a colour image; expected intensities');
  if (!(type in TYPES)) throw new Error(`its datatype ${type} is not read here`);
  const [width, get] = TYPES[type];
  const count = shape[0] * shape[1] * shape[2];
  const start = float(108) === 0 ? LEAST : float(108); // 0 says nothing
  require(start >= LEAST && Number.isInteger(start), 'vox_offset', start);
  if (start + count * width > bytes.length) throw new Error('the file is cut off');
  if (start + count * width < bytes.length) throw new Error('it has more voxels than it says');
  const [slope, intercept] = [float(112), float(116)];
  const scaled = slope !== 0 && !Number.isNaN(slope); // the ways to say that there is no scaling
  require(!scaled || Number.isFinite(slope), 'scl_slope', slope);
  require(!scaled || Number.isFinite(intercept), 'scl_inter', intercept);
  const [times, plus] = scaled ? [slope, intercept] : [1, 0];
  const voxels = new Float32Array(count);
  for (let i = 0; i < count; i++) voxels[i] = view[get](start + i * width, little) * times + plus;
  return { voxels, shape, affine: inMillimetres(affineOf(short, float, shape), bytes[123] & 7) };
}

function require(valid, name, value) {
  if (!valid) throw new Error(`its header has ${name} ${value}, which cannot be; export it again`);
}

function inMillimetres(affine, unit) {
  require(unit in MILLIMETRES, 'xyzt_units', unit);
  const found = affine.map((row) => row.map((one) => one * MILLIMETRES[unit]));
  const sides = [0, 1, 2].map((axis) => Math.hypot(...found.map((row) => row[axis])));
  require(MILLIMETRES[unit] === 1 || Math.max(...sides) <= LARGEST_MM, 'xyzt_units', unit);
  return found;
}

// The sform, else the qform, else the sizes of voxels with x to the left.
function affineOf(short, float, shape) {
  for (const [at, name] of [[252, 'qform_code'], [254, 'sform_code']]) {
    require(short(at) >= 0 && short(at) <= 5, name, short(at));
  }
  const numbers = (places, name) => {
    const found = places.map(float);
    require(found.every(Number.isFinite), name, found);
    return found;
  };
  if (short(254)) {
    return [280, 296, 312].map((row) => numbers([0, 4, 8, 12].map((at) => row + at), 'srow'));
  }
  const size = numbers([80, 84, 88], 'pixdim');
  require(Math.min(...size) > 0, 'pixdim', size);
  if (!short(252)) {
    const signed = [-size[0], size[1], size[2]];
    return signed.map((one, row) => {
      const line = [0, 0, 0, (-one * (shape[row] - 1)) / 2];
      line[row] = one;
      return line;
    });
  }
  require([-1, 0, 1].includes(float(76)), 'pixdim[0]', float(76));
  const stored = numbers([256, 260, 264], 'quatern');
  const square = stored.reduce((sum, one) => sum + one * one, 0);
  require(square <= 1 + ROUNDING, 'quatern', stored);
  const [b, c, d] = stored.map((one) => one / Math.max(1, Math.sqrt(square)));
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const rotation = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  if (float(76) < 0) size[2] = -size[2];
  const origin = numbers([268, 272, 276], 'qoffset');
  return rotation.map((row, i) => [...row.map((one, axis) => one * size[axis]), origin[i]]);
}
