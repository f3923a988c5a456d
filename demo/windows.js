// Windows of a plane, overlapping by half, and the plane of values in its windows: as windows.py.

const { fround } = Math;

// Height and width of a plane that is reduced by a factor from 1.
export function reduced(size, reduction) {
  return size.map((length) => Math.max(1, Math.floor(length / reduction + 0.5)));
}

// Corners [top, left] of the windows, S pixels a side, row by row; the last reach the end.
export function corners([h, w], side) {
  const columns = starts(w, side);
  return starts(h, side).flatMap((top) => columns.map((left) => [top, left]));
}

function starts(length, side) {
  const last = Math.max(length - side, 0);
  const step = Math.max(Math.floor(side / 2), 1);
  return [...Array.from({ length: Math.ceil(last / step) }, (_, i) => i * step), last];
}

// The windows, [S, S] each, of a plane [H, W], which is padded with 0 to S, itself in the middle.
export function cut(plane, [h, w], side) {
  const [above, before] = margins([h, w], side);
  return corners([h, w], side).map(([top, left]) => {
    const found = new Float32Array(side * side);
    for (let y = 0; y < Math.min(h, side); y++) {
      const from = (top + y) * w + left;
      found.set(plane.subarray(from, from + Math.min(w, side)), (above + y) * side + before);
    }
    return found;
  });
}

// Undoes `cut`: averages, weighted by how near a value is to the middle of its window.
export function join(parts, [h, w], side) {
  const [total, weights] = [new Float32Array(h * w), new Float32Array(h * w)];
  const [above, before] = margins([h, w], side);
  const ramp = (place) => (parts.length > 1 ? Math.min(place + 1, side - place) : 1);
  corners([h, w], side).forEach(([top, left], t) => {
    for (let y = 0; y < Math.min(h, side); y++) {
      for (let x = 0; x < Math.min(w, side); x++) {
        const [row, column] = [above + y, before + x];
        const weight = ramp(row) * ramp(column);
        const at = (top + y) * w + left + x;
        total[at] += fround(weight * parts[t][row * side + column]);
        weights[at] += weight;
      }
    }
  });
  return total.map((one, at) => one / weights[at]);
}

function margins(size, side) {
  return size.map((length) => Math.floor(Math.max(side - length, 0) / 2));
}
