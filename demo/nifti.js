// A NIfTI-1 file, .nii or .nii.gz, as a scan: {voxels, shape [X, Y, Z], affine}.

// Of each datatype number: bytes a voxel, and how a DataView reads one.
const TYPES = {
  2: [1, 'getUint8'], 256: [1, 'getInt8'],
  4: [2, 'getInt16'], 512: [2, 'getUint16'],
  8: [4, 'getInt32'], 768: [4, 'getUint32'],
  16: [4, 'getFloat32'], 64: [8, 'getFloat64'],
};
const COLOUR = [128, 2304];

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
// (x, y, z, 1) to RAS millimetres.
export function readNifti(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = view.getInt32(0, true) === 348;
  const short = (at) => view.getInt16(at, little);
  const float = (at) => view.getFloat32(at, little);
  const sizes = [1, 2, 3, 4, 5, 6, 7].map((axis) => (axis <= short(40) ? short(40 + 2 * axis) : 1));
  const [shape, more] = [sizes.slice(0, 3), sizes.slice(3)];
  if (sizes.some((size) => size < 1)) throw new Error(`the header says ${sizes} voxels`);
  if (more.some((size) => size > 1)) {
    throw new Error(`it has several channels or times (${sizes}); expected one volume`);
  }
  const type = short(70);
  if (COLOUR.includes(type)) throw new Error('it is a colour image; expected intensities');
  if (!(type in TYPES)) throw new Error(`its datatype ${type} is not read here`);
  const [width, get] = TYPES[type];
  const count = shape[0] * shape[1] * shape[2];
  const start = float(108);
  if (start + count * width > bytes.length) throw new Error('the file is cut off');
  const slope = float(112);
  const scaled = Number.isFinite(slope) && slope !== 0;
  const [times, plus] = scaled ? [slope, float(116)] : [1, 0];
  const voxels = new Float32Array(count);
  for (let i = 0; i < count; i++) voxels[i] = view[get](start + i * width, little) * times + plus;
  return { voxels, shape, affine: affineOf(short, float, shape) };
}

// As nibabel has it: sform, else qform, else the sizes of voxels with x to the left.
function affineOf(short, float, shape) {
  if (short(254) > 0) {
    return [280, 296, 312].map((row) => [0, 4, 8, 12].map((at) => float(row + at)));
  }
  const size = [80, 84, 88].map((at) => float(at) || 1);
  if (short(252) <= 0) {
    const signed = [-size[0], size[1], size[2]];
    return signed.map((one, row) => {
      const line = [0, 0, 0, (-one * (shape[row] - 1)) / 2];
      line[row] = one;
      return line;
    });
  }
  const [b, c, d] = [256, 260, 264].map(float);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const rotation = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  if (float(76) < 0) size[2] = -size[2];
  const origin = [268, 272, 276].map(float);
  return rotation.map((row, i) => [...row.map((one, axis) => one * size[axis]), origin[i]]);
}
