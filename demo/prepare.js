// From a scan to the network's input and from its logits to classes: the arithmetic of segment.py.
// Axes: D slices, H W pixels, S the side of a prepared slice, K classes. All arrays are flat.

const { fround } = Math;

// Maps intensities to [0, 1] in place.
export function toUnitRange(voxels, settings) {
  const [least, most] = extremes(voxels);
  if (least === most) throw new Error('all voxels have one value');
  if (settings.padding) {
    const [from, value] = settings.padding;
    for (let i = 0; i < voxels.length; i++) if (voxels[i] >= from) voxels[i] = value;
  }
  const [low, high] = limits(voxels, settings);
  const [offset, range] = [fround(low), fround(high - low)];
  for (let i = 0; i < voxels.length; i++) {
    voxels[i] = Math.min(1, Math.max(0, fround(fround(voxels[i] - offset) / range)));
  }
}

function extremes(voxels) {
  let [least, most] = [Infinity, -Infinity];
  for (const one of voxels) {
    if (Number.isNaN(one)) {
      throw new Error('it has voxels that are NaN; segment.py of the export takes these as the ' +
        'lowest value, by --nan_is_lowest, or export it again');
    }
    if (!Number.isFinite(one)) throw new Error('it has infinite voxels; export it again');
    if (one < least) least = one;
    if (one > most) most = one;
  }
  return [least, most];
}

function limits(voxels, settings) {
  if (settings.intensity === 'window') return settings.window;
  const sorted = voxels.slice().sort();
  const found = settings.percentiles.map((percent) => {
    const place = (percent / 100) * (sorted.length - 1);
    const [a, b] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return a + fround(b - a) * (place - Math.floor(place));
  });
  return found[0] < found[1] ? found : [sorted[0], sorted.at(-1)];
}

// A slice [H, W] as the network sees it, [S, S]: in the middle of a square, resized, in float16.
export function toSquare(plane, [h, w], settings) {
  const side = Math.max(h, w);
  const [top, left] = [Math.floor((side - h) / 2), Math.floor((side - w) / 2)];
  const square = new Float32Array(side * side);
  for (let y = 0; y < h; y++) {
    square.set(plane.subarray(y * w, (y + 1) * w), (top + y) * side + left);
  }
  const small = resize(square, side, settings.image_size, settings.resize === 'linear');
  return small.map((one) => toHalf(Math.min(1, Math.max(0, one))));
}

// A number in [0, 1] rounded to 11 bits, ties to even, as in float16.
function toHalf(value) {
  const ulp = 2 ** Math.max(-24, Math.floor(Math.log2(value)) - 10);
  const [steps, even] = [value / ulp, 2 ** 52]; // adding that much rounds to whole numbers
  return value && (steps + even - even) * ulp;
}

// A flat [K, S, S] of logits as the class of each pixel, [H, W].
export function classesOf(logits, count, [h, w], size) {
  const side = Math.max(h, w);
  const [top, left] = [Math.floor((side - h) / 2), Math.floor((side - w) / 2)];
  const planes = Array.from({ length: count }, (_, k) =>
    resize(logits.subarray(k * size * size, (k + 1) * size * size), size, side, true));
  const mask = new Uint8Array(h * w);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const at = (top + y) * side + left + x;
      let best = 0;
      for (let k = 1; k < count; k++) if (planes[k][at] > planes[best][at]) best = k;
      mask[y * w + x] = best;
    }
  }
  return mask;
}

// A square with another side: linear, blurred first where it gets smaller, or nearest.
export function resize(square, old, size, linear) {
  if (old === size) return square;
  const rows = weights(old, size, linear);
  return alongColumns(alongColumns(square, old, rows), old, rows);
}

// Resizes columns and transposes: [old, n] to [n, new]; twice is both axes, the right way round.
function alongColumns(plane, old, rows) {
  const n = plane.length / old;
  const found = new Float32Array(n * rows.length);
  rows.forEach(({ first, values }, y) => {
    for (let x = 0; x < n; x++) {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[i] * plane[(first + i) * n + x];
      found[x * rows.length + y] = sum;
    }
  });
  return found;
}

const known = new Map();

// What each new pixel of a row takes of the old ones, from `first` on: skimage.transform.resize.
function weights(old, size, linear) {
  const key = `${old} ${size} ${linear}`;
  if (!known.has(key)) {
    const blur = linear && size < old ? gaussian((old / size - 1) / 2) : [1];
    const radius = (blur.length - 1) / 2;
    known.set(key, Array.from({ length: size }, (_, y) => {
      const place = Math.min(old - 1, Math.max(0, ((y + 0.5) * old) / size - 0.5));
      const parts = new Float64Array(old);
      const add = (at, share) => blur.forEach((one, i) => {
        parts[Math.min(old - 1, Math.max(0, at + i - radius))] += one * share;
      });
      const at = linear ? Math.floor(place) : Math.floor(place + 0.5);
      const share = linear ? place - at : 0;
      add(at, 1 - share);
      if (share) add(at + 1, share);
      const first = parts.findIndex((one) => one);
      const last = parts.findLastIndex((one) => one);
      return { first, values: Float32Array.from(parts.subarray(first, last + 1)) };
    }));
  }
  return known.get(key);
}

function gaussian(sigma) {
  const radius = Math.floor(4 * sigma + 0.5); // where scipy cuts it off
  const bell = Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.exp((-0.5 * (i - radius) ** 2) / sigma ** 2));
  const sum = bell.reduce((a, b) => a + b);
  return bell.map((one) => one / sum);
}

// Turns all but the largest piece of a class into background, in place; pieces touch by faces.
export function keepLargest(mask, [depth, h, w], number) {
  const piece = new Uint32Array(mask.length);
  let [pieces, largest, most] = [0, 0, 0];
  for (let seed = 0; seed < mask.length; seed++) {
    if (mask[seed] !== number || piece[seed]) continue;
    piece[seed] = ++pieces;
    const members = [seed];
    for (let i = 0; i < members.length; i++) {
      const at = members[i];
      const [x, y, z] = [at % w, Math.floor(at / w) % h, Math.floor(at / (w * h))];
      const beside = [
        [x > 0, at - 1], [x < w - 1, at + 1], [y > 0, at - w], [y < h - 1, at + w],
        [z > 0, at - w * h], [z < depth - 1, at + w * h],
      ];
      for (const [inside, next] of beside) {
        if (!inside || mask[next] !== number || piece[next]) continue;
        piece[next] = pieces;
        members.push(next);
      }
    }
    if (members.length > most) [largest, most] = [pieces, members.length];
  }
  for (let i = 0; i < mask.length; i++) if (piece[i] && piece[i] !== largest) mask[i] = 0;
}
