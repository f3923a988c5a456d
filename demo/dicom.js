// The slices of one DICOM series, in any order, as a scan: {voxels, shape [columns, rows, slices],
// affine}. What is refused is what dicom.py of the program refuses, in its words.

import { dot, readPlanes } from './dicom_file.js';

const SAME_PLACE_MM = 0.01;
const UNEVEN = 0.25; // share of a step: positions are rounded, and some tables move unevenly
const SHEAR = 0.02; // sideways share of a step: 1.1 degrees
const SAME = 1e-3; // by which directions and distances of slices may differ

// Files are {name, bytes}. A single slice is a scan too, whose only step is as long as 1 mm.
export async function readSeries(files) {
  const planes = [];
  for (const { name, bytes } of files) planes.push(...await readPlanes(name, bytes));
  const [first] = planes;
  for (const plane of planes) requireAlike(plane, first);
  const order = [...planes].sort((a, b) => dot(a.origin, first.normal) - dot(b.origin, first.normal));
  const step = order.length > 1 ? stepOf(order, first.normal) : first.normal;
  requireUnmixed(order);
  const size = first.voxels.length;
  const voxels = new Float32Array(size * order.length);
  order.forEach((plane, d) => voxels.set(plane.voxels, d * size));
  const affine = affineOf(first, order[0].origin, step);
  return { voxels, shape: [...first.size, order.length], affine };
}

function refuse({ name }, text) {
  throw Object.assign(new Error(text), { file: name });
}

// Refuses a slice whose pixel grid differs from that of the first: it is of another series.
function requireAlike(plane, first) {
  for (const [what, valuesOf, tolerance] of [
    ['pixels', ({ size }) => size, 0],
    ['slopes and intercepts', ({ isScaled }) => [Number(isScaled)], 0],
    ['mm between pixels', ({ distances: [down, across] }) => [across, down], SAME],
    ['as direction of rows', ({ row }) => row, SAME],
    ['as direction of columns', ({ column }) => column, SAME],
  ]) {
    const [here, there] = [valuesOf(plane), valuesOf(first)];
    if (here.every((one, i) => Math.abs(one - there[i]) <= tolerance)) continue;
    refuse(plane, `the slice has ${joined(here)} ${what}, but ${first.name} has ${joined(there)}; `
      + 'expected slices of one series. Keep only one series in the folder.');
  }
}

// Refuses slices, in their order, of several series that are not one block each.
function requireUnmixed(order) {
  const changes = order.flatMap(({ series }, d) =>
    (d && series !== order[d - 1].series ? [d] : []));
  if (changes.length < new Set(order.map(({ series }) => series)).size) return;
  const [d] = changes;
  refuse(order[d], `is of another series (SeriesInstanceUID) than ${order[d - 1].name}, and slices `
    + 'of both lie between one another; expected slices of one series. Keep only one series in the '
    + 'folder.');
}

function joined(values) {
  return values.map((one) => Number(one.toPrecision(6))).join(' x ');
}

// The vector from each plane to the next, if it is one.
function stepOf(order, normal) {
  const heights = order.map(({ origin }) => dot(origin, normal));
  requireEven(order, heights.slice(1).map((height, d) => height - heights[d]));
  const from = (a, b) => b.origin.map((one, i) => one - a.origin[i]);
  const step = from(order[0], order.at(-1)).map((one) => one / (order.length - 1));
  const along = dot(step, normal);
  const off = order.map((plane, d) =>
    Math.hypot(...from(order[0], plane).map((one, i) => one - d * step[i])));
  const most = Math.max(...off);
  if (most > UNEVEN * along) {
    refuse(order[off.indexOf(most)], `lies ${most.toFixed(2)} mm away from even steps of `
      + `${along.toFixed(2)} mm through the series; expected slices on one line. Restore the `
      + 'original slices.');
  }
  const sideways = Math.hypot(...step.map((one, i) => one - along * normal[i]));
  if (sideways > SHEAR * along) {
    refuse(order[0], `each next slice lies ${along.toFixed(2)} mm on and ${sideways.toFixed(2)} mm `
      + 'sideways, as from a tilted gantry; expected slices straight above one another. Resample the '
      + 'series.');
  }
  return step;
}

// Refuses slices at one place, missing slices and uneven steps.
function requireEven(order, gaps) {
  const double = gaps.filter((gap) => gap < SAME_PLACE_MM).length;
  if (double) {
    const at = gaps.findIndex((gap) => gap < SAME_PLACE_MM);
    const remedy = double > order.length / 3 ? 'Keep only one series in the folder.'
      : 'Remove the one that is double, and its mask.';
    refuse(order[at], `lies where ${order[at + 1].name} does, and ${double} of ${order.length} slices `
      + `lie like that; expected every slice once. ${remedy}`);
  }
  const sorted = [...gaps].sort((a, b) => a - b);
  const usual = sorted[Math.floor((gaps.length - 1) / 2)]; // of two the smaller: slices go missing
  const off = gaps.map((gap) => Math.abs(gap - usual));
  const k = off.indexOf(Math.max(...off));
  if (off[k] <= UNEVEN * usual) return;
  const times = gaps[k] / usual;
  const missing = Math.round(times) - 1;
  const gone = missing > 0 && Math.abs(times - missing - 1) <= UNEVEN ? `: ${missing} missing` : '';
  refuse(order[k], `lies ${gaps[k].toFixed(2)} mm from ${order[k + 1].name}, others `
    + `${usual.toFixed(2)} mm apart${gone}; expected even steps. Restore the original slices of one `
    + 'series.');
}

// DICOM points to the left and back, an affine to the right and front.
function affineOf({ row, column, distances: [down, across] }, origin, step) {
  const rows = [0, 1, 2].map((i) => [row[i] * across, column[i] * down, step[i], origin[i]]);
  return rows.map((line, i) => (i < 2 ? line.map((one) => -one) : line));
}
