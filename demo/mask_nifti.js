// The mask of a volume as the content of a .nii.gz: classes on the grid of the scan, and nothing else
// of its header, as masks.py of the program writes it.

import { EXTENDER, VERSIONS, WIDTHS } from './nifti.js';
import { codesOf } from './tags.js';

const [BYTE, MILLIMETRES, SCANNER] = [2, 2, 1]; // codes of the type, the unit and the coordinates
const MOST_LEANING = 1e-4; // cosine between axes, which a quaternion cannot say
const NEW_LINES = [13, 10, 26, 10]; // of version 2, by which changed ones are seen

// Of a mask in the order of the scan's own voxels, x fastest, and a geometry: that of its NIfTI
// header, or headerOf its affine.
export async function writeNifti(mask, shape, [version, geometry], note) {
  const start = version + EXTENDER;
  const [bytes, fields] = [new Uint8Array(start), VERSIONS[version]];
  const view = new DataView(bytes.buffer);
  const write = (name, ...values) => values.forEach((value, number) => {
    const [at, type] = fields[name];
    const whole = type.startsWith('Big') ? BigInt(value) : value;
    view[`set${type}`](at + number * WIDTHS[type], whole, true);
  });
  view.setInt32(0, version, true);
  bytes.set(codesOf(fields.magic[1]), fields.magic[0]);
  if (version === 540) bytes.set(NEW_LINES, fields.magic[0] + 4);
  write('dim', 3, ...shape, 1, 1, 1, 1);
  write('datatype', BYTE);
  write('bitpix', 8);
  write('vox_offset', start);
  write('scl_slope', 1);
  for (const [name, values] of Object.entries(geometry)) write(name, ...values);
  write('pixdim', ...sidesOf(geometry), 1, 1, 1, 1);
  bytes.set(codesOf(note), fields.descrip[0]);
  const packing = new Blob([bytes, mask]).stream().pipeThrough(new CompressionStream('gzip'));
  return new Blob([await new Response(packing).arrayBuffer()], { type: 'application/gzip' });
}

// The first four of pixdim. Beside a matrix they decide nothing, so that sides may be none.
function sidesOf({ pixdim: [sign, ...sides], srow }) {
  if (sides.slice(0, 3).every((side) => side > 0 && Number.isFinite(side))) {
    return [sign, ...sides.slice(0, 3)];
  }
  return [sign, ...[0, 1, 2].map((axis) => Math.hypot(srow[axis], srow[4 + axis], srow[8 + axis]))];
}

// The geometry in a header of version 1 that an affine [3][4] in RAS millimetres has.
export function headerOf(affine) {
  const columns = [0, 1, 2].map((axis) => affine.map((row) => row[axis]));
  const sides = columns.map((column) => Math.hypot(...column));
  const units = columns.map((column, axis) => column.map((one) => one / sides[axis]));
  const dot = (a, b) => units[a].reduce((sum, one, i) => sum + one * units[b][i], 0);
  const leans = [[0, 1], [0, 2], [1, 2]].some(([a, b]) => Math.abs(dot(a, b)) > MOST_LEANING);
  const { sign, quatern } = quaternOf(units);
  return [348, {
    dim_info: [0], xyzt_units: [MILLIMETRES], pixdim: [sign, ...sides],
    sform_code: [SCANNER], srow: affine.flat(),
    qform_code: [leans ? 0 : SCANNER], quatern, qoffset: affine.map((row) => row[3]),
  }];
}

// The quaternion of three axes, columns of length 1; sign is -1 if their third is mirrored.
function quaternOf([x, y, z]) {
  const cross = [[1, 2], [2, 0], [0, 1]].map(([i, j]) => x[i] * y[j] - x[j] * y[i]);
  const sign = cross.reduce((sum, one, i) => sum + one * z[i], 0) < 0 ? -1 : 1;
  const [r, s, t] = [x, y, z.map((one) => one * sign)]; // columns of a rotation
  // Four times the squares of a quaternion's parts, of which the largest is no small number.
  const squares = [
    1 + r[0] + s[1] + t[2], 1 + r[0] - s[1] - t[2], 1 - r[0] + s[1] - t[2], 1 - r[0] - s[1] + t[2],
  ];
  const largest = squares.indexOf(Math.max(...squares));
  const products = [ // of each part with each, four times
    [squares[0], s[2] - t[1], t[0] - r[2], r[1] - s[0]],
    [s[2] - t[1], squares[1], s[0] + r[1], t[0] + r[2]],
    [t[0] - r[2], s[0] + r[1], squares[2], t[1] + s[2]],
    [r[1] - s[0], t[0] + r[2], t[1] + s[2], squares[3]],
  ];
  const parts = products[largest].map((one) => one / (2 * Math.sqrt(squares[largest])));
  const half = parts[0] < 0 ? -1 : 1; // both signs are one rotation; the first part is not written
  return { sign, quatern: parts.slice(1).map((one) => one * half) };
}
