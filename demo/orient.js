// A scan turned so that its axes are those of slices.

// Where axes D, H, W of the slices point to, as in segment.py.
const SLICE_AXES = { axial: 'SPL', coronal: 'PIL', sagittal: 'LIP' };
const WORLD = { R: [0, 1], L: [0, -1], A: [1, 1], P: [1, -1], S: [2, 1], I: [2, -1] };
const MOST_SHEAR = 0.02; // cosine between two axes: 1.1 degrees
const POSSIBLE_MM = [1e-4, 100]; // sides of a voxel: beyond, the unit rather than the scan is odd

// Gives {voxels [D, H, W], shape, spacing in mm along each, restored}, a function that turns a mask
// of this shape back to the order of the scan's own voxels.
export function turned({ voxels, shape, affine }, sliceAxis) {
  const { axes, spacing } = orientationOf(affine);
  const strides = [1, shape[0], shape[0] * shape[1]];
  const wanted = [...SLICE_AXES[sliceAxis]].map((letter) => {
    const [world, sign] = WORLD[letter];
    const axis = axes.findIndex((one) => one.world === world);
    return { axis, step: strides[axis] * sign * axes[axis].sign };
  });
  const size = wanted.map(({ axis }) => shape[axis]);
  if (shape[2] === 1 && size[0] !== 1) {
    throw new Error(`the slice is not ${sliceAxis}, but the network's slices are`);
  }
  const [d, h, w] = wanted.map(({ step }) => step);
  const first = [d, h, w].reduce((sum, step, i) => sum - Math.min(0, step) * (size[i] - 1), 0);
  const along = (place) => { // for the places of both, one after the other
    let i = 0;
    for (let z = 0; z < size[0]; z++) {
      for (let y = 0; y < size[1]; y++) {
        for (let x = 0; x < size[2]; x++) place(i++, first + z * d + y * h + x * w);
      }
    }
  };
  const found = new Float32Array(voxels.length);
  along((to, from) => (found[to] = voxels[from]));
  const restored = (mask) => {
    const own = new Uint8Array(mask.length);
    along((from, to) => (own[to] = mask[from]));
    return own;
  };
  return { voxels: found, shape: size, spacing: wanted.map(({ axis }) => spacing[axis]), restored };
}

// The world axis that each axis of the scan is nearest to, the strongest first, as in nibabel.
function orientationOf(affine) {
  const columns = [0, 1, 2].map((axis) => affine.map((row) => row[axis]));
  const spacing = columns.map((column) => Math.hypot(...column));
  const [least, most] = POSSIBLE_MM;
  if (!spacing.every((side) => least <= side && side <= most)) {
    throw new Error(`its header gives voxels of ${spacing.map((side) => side.toPrecision(4)).join(' x ')} `
      + `mm; expected sides from ${least} to ${most} mm. Correct the spacing, or its unit`);
  }
  const units = columns.map((column, axis) => column.map((one) => one / spacing[axis]));
  const cosine = (a, b) => Math.abs(units[a].reduce((sum, one, i) => sum + one * units[b][i], 0));
  const shear = Math.max(cosine(0, 1), cosine(0, 2), cosine(1, 2));
  if (!(shear <= MOST_SHEAR)) {
    const degrees = (Math.asin(Math.min(shear, 1)) * 180) / Math.PI;
    throw new Error(`its axes are not at right angles, but lean by ${degrees.toFixed(1)} degrees; resample it`);
  }
  const strength = units.map((unit) => Math.max(...unit.map(Math.abs)));
  const axes = [];
  const free = [0, 1, 2];
  for (const axis of [0, 1, 2].sort((a, b) => strength[b] - strength[a])) {
    free.sort((a, b) => Math.abs(units[axis][b]) - Math.abs(units[axis][a]));
    const world = free.shift();
    axes[axis] = { world, sign: Math.sign(units[axis][world]) };
  }
  return { axes, spacing };
}
