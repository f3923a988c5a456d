// What is shown of a scan: channels of shades from black, 0, to white, 255.

import { joined, percentile } from './likeness.js';

// Of channels in [0, 1].
export function shadesOf(channels) {
  return channels.map((channel) => Uint8Array.from(channel, (one) => 255 * one + 0.5));
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
