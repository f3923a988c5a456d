// From a scan to the network's input and from its logits to classes: the arithmetic of segment.py.
// Axes: D slices, H W pixels, S the side of a prepared slice or of each of its T windows, K classes.
// All arrays are flat.

import { ranksOf } from './ranks.js';
import { corners, cut, join, reduced } from './windows.js';

const { fround } = Math;

// Maps intensities of a channel to [0, 1] in place and gives the values that become these limits; a
// channel of one value, which a picture may have, becomes 0 where percentiles make the range.
export function toUnitRange(voxels, settings) {
  const [least, most] = extremes(voxels);
  if (least === most && settings.unit !== 'pixels') {
    throw new Error('all values of a channel are the same; expected an image');
  }
  if (settings.padding) {
    const [from, value] = settings.padding;
    for (let i = 0; i < voxels.length; i++) if (voxels[i] >= from) voxels[i] = value;
  }
  const [low, high] = limits(voxels, settings);
  if (low === high) {
    voxels.fill(0);
    return [low, high];
  }
  const [offset, range] = [fround(low), fround(high - low)];
  for (let i = 0; i < voxels.length; i++) {
    voxels[i] = Math.min(1, Math.max(0, fround(fround(voxels[i] - offset) / range)));
  }
  return [low, high];
}

function extremes(voxels) {
  let [least, most] = [Infinity, -Infinity];
  for (const one of voxels) {
    if (Number.isNaN(one)) {
      throw new Error('it has values that are NaN; segment.py of the export takes these as the ' +
        'lowest value, by --nan_is_lowest, or export it again');
    }
    if (!Number.isFinite(one)) throw new Error('it has infinite values; export it again');
    if (one < least) least = one;
    if (one > most) most = one;
  }
  return [least, most];
}

function limits(voxels, settings) {
  if (settings.intensity === 'window') return settings.window;
  const ranked = ranksOf(voxels);
  const found = settings.percentiles.map((percent) => {
    const place = (percent / 100) * (voxels.length - 1);
    const [a, b] = [ranked(Math.floor(place)), ranked(Math.ceil(place))];
    return a + fround(b - a) * (place - Math.floor(place));
  });
  return found[0] < found[1] ? found : [ranked(0), ranked(voxels.length - 1)];
}

// How many windows a slice [H, W] is cut into; 1 where it is seen whole.
export function countWindows(native, settings) {
  return corners(sizesOf(native, settings).size, settings.image_size).length;
}

// A slice [H, W] as the network sees it, T of [S, S]: resized, cut and in float16.
export function toSquares(plane, [h, w], settings) {
  const { frame, corner: [top, left], size } = sizesOf([h, w], settings);
  const framed = new Float32Array(frame[0] * frame[1]);
  for (let y = 0; y < h; y++) {
    framed.set(plane.subarray(y * w, (y + 1) * w), (top + y) * frame[1] + left);
  }
  const drawn = resize(framed, frame, size, settings.resize === 'linear');
  const clipped = drawn.map((one) => toHalf(Math.min(1, Math.max(0, one))));
  return cut(clipped, size, settings.image_size);
}

// What is resized, a square around a slice that is seen whole; the slice's corner in it; new size.
function sizesOf([h, w], { image_size: side, reduction }) {
  if (reduction) return { frame: [h, w], corner: [0, 0], size: reduced([h, w], reduction) };
  const most = Math.max(h, w);
  const corner = [h, w].map((length) => Math.floor((most - length) / 2));
  return { frame: [most, most], corner, size: [side, side] };
}

// A number in [0, 1] rounded to 11 bits, ties to even, as in float16.
function toHalf(value) {
  const ulp = 2 ** Math.max(-24, Math.floor(Math.log2(value)) - 10);
  const [steps, even] = [value / ulp, 2 ** 52]; // adding that much rounds to whole numbers
  return value && (steps + even - even) * ulp;
}

// Logits of the windows of a slice, T of [K, S, S], as the label of each pixel, [H, W]: the class
// with the largest, or of each region whose logit is above that of class 0 its first label.
export function classesOf(parts, [h, w], settings) {
  const { frame, corner: [top, left], size } = sizesOf([h, w], settings);
  const [side, mask] = [settings.image_size, new Uint8Array(h * w)];
  const most = new Float32Array(h * w).fill(-Infinity);
  const regions = settings.regions ?? [];
  for (let k = 0; k < settings.classes.length; k++) {
    const own = parts.map((part) => part.subarray(k * side * side, (k + 1) * side * side));
    const plane = resize(join(own, size, side), size, frame, true);
    for (let y = 0, i = 0; y < h; y++) {
      for (let x = 0; x < w; x++, i++) {
        const value = plane[(top + y) * frame[1] + left + x];
        if (!(value > most[i])) continue;
        mask[i] = k && regions.length ? regions[k - 1][0] : k;
        if (!k || !regions.length) most[i] = value;
      }
    }
  }
  return mask;
}

// A plane with another height and width: linear, blurred first where it gets smaller, or nearest.
export function resize(plane, old, size, linear) {
  if (old.join() === size.join()) return plane;
  const [down, right] = [0, 1].map((axis) => weights(old[axis], size[axis], linear));
  return alongColumns(alongColumns(plane, old[0], down), old[1], right);
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
      const at = linear ? Math.floor(place) : Math.floor(place + 0.5);
      const share = linear ? place - at : 0;
      const [first, last] = [Math.max(0, at - radius), Math.min(old - 1, at + radius + (share > 0))];
      const parts = new Float64Array(last - first + 1);
      const add = (middle, part) => blur.forEach((one, i) => {
        parts[Math.min(last, Math.max(first, middle + i - radius)) - first] += one * part;
      });
      add(at, 1 - share);
      if (share) add(at + 1, share);
      return { first, values: Float32Array.from(parts) };
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

// The smallest class of each label, by which it is drawn.
export function innermost({ regions = [] }) {
  const found = Uint8Array.from({ length: 256 }, (_, label) => label);
  const sizes = regions.map((labels, index) => [labels.length, index]);
  for (const [, index] of sizes.sort(([a], [b]) => b - a)) {
    for (const label of regions[index]) found[label] = index + 1;
  }
  return found;
}

// The labels of a class, and the one that its voxels get where they are no more of it: that of the
// next region around it, else the background.
function meaningOf(number, { regions = [] }) {
  if (!regions.length) return [[number], 0];
  const own = regions[number - 1];
  const outer = regions.filter((one) => one.length > own.length && own.every((l) => one.includes(l)));
  return [own, outer.length ? outer.sort((a, b) => a.length - b.length)[0][0] : 0];
}

// Turns all but the largest piece of a class into what is around, in place; pieces touch by faces.
export function keepLargest(mask, [depth, h, w], number, settings) {
  const [labels, around] = meaningOf(number, settings);
  const own = mask.map((label) => labels.includes(label));
  const piece = new Uint32Array(mask.length);
  let [pieces, largest, most] = [0, 0, 0];
  for (let seed = 0; seed < mask.length; seed++) {
    if (!own[seed] || piece[seed]) continue;
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
        if (!inside || !own[next] || piece[next]) continue;
        piece[next] = pieces;
        members.push(next);
      }
    }
    if (members.length > most) [largest, most] = [pieces, members.length];
  }
  for (let i = 0; i < mask.length; i++) if (piece[i] && piece[i] !== largest) mask[i] = around;
}
