// What is shown of a scan: levels of grey, of which a window makes shades, or shades of three colours.

import { joined, percentile } from './likeness.js';

const MOST = 65535; // the largest level

// The values of a channel in 16 bits, from the least of them on in equal steps; the network does not
// see them.
export function levelsOf(voxels) {
  let [least, most] = [Infinity, -Infinity];
  for (const one of voxels) {
    if (one < least) least = one;
    if (one > most) most = one;
  }
  const step = (most - least) / MOST;
  const levels = new Uint16Array(voxels.length);
  if (step) for (let i = 0; i < levels.length; i++) levels[i] = (voxels[i] - least) / step + 0.5;
  return { levels, least, most, step };
}

// The shade of each level, from black, 0, below a window to white, 255, above it.
export function shadesOf({ least, step }, { centre, width }) {
  const [low, scale] = [centre - width / 2, 255 / width];
  const shades = new Uint8Array(MOST + 1);
  for (let level = 0; level <= MOST; level++) {
    shades[level] = Math.min(255, Math.max(0, (least + level * step - low) * scale)) + 0.5;
  }
  return shades;
}

// Of red, green and blue as stored, which share one white, so that hues stay. It is the largest
// value that they may have, up to 255; beyond, where it cannot be told, their 99.5th percentile.
export function coloursOf(channels) {
  const most = Math.max(...channels.map((channel) => channel.reduce((a, b) => Math.max(a, b))));
  const white = [1, 255].find((one) => most <= one)
    ?? (percentile(joined(channels).sort(), 99.5) || most);
  return channels.map((channel) =>
    Uint8Array.from(channel, (one) => 255 * Math.min(1, Math.max(0, one / white)) + 0.5));
}
