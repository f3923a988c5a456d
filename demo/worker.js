// Reads a scan and runs the network over its slices, off the page's own thread.

import * as ort from './onnxruntime/ort.wasm.min.mjs';
import { unlike } from './likeness.js';
import { openScan } from './open.js';
import { classesOf, countWindows, keepLargest, toSquares, toUnitRange } from './prepare.js';
import { coloursOf, levelsOf } from './shades.js';

// ONNX Runtime takes one thread, or half the cores up to four where the server isolates the page:
// only there do browsers let threads share memory.

onmessage = async ({ data: { given, title, settings } }) => {
  try {
    const scan = await openScan(given, settings);
    const { channels } = scan;
    const shown = channels.length === 3 ? { colours: coloursOf(channels) } : levelsOf(channels[0]);
    const [limits] = channels.map((channel) => toUnitRange(channel, settings));
    // Of the settings, not one that the browser kept of an earlier page.
    const { sha256 } = settings.files['model.onnx'];
    const network = await ort.InferenceSession.create(`model.onnx?${sha256}`);
    await segment(scan, { ...shown, limits }, settings, network);
  } catch (error) {
    // Of reading past the end of a file, and of a scan that memory does not hold.
    const text = error instanceof RangeError ? 'it is cut off or too large' : error.message;
    postMessage({ kind: 'error', text: `${error.file ?? title}: ${text}` });
  }
};

async function segment(scan, shown, settings, network) {
  const { channels, shape, spacing, leftOut, unsure, write } = scan;
  const [depth, ...native] = shape;
  const [count, voxels] = [countWindows(native, settings), native[0] * native[1]];
  const threads = ort.env.wasm.numThreads;
  postMessage({ kind: 'scan', shape, spacing, leftOut, windows: count, threads, ...shown });
  const squares = channels.map(() => []); // of each channel, T for a slice
  const square = (m, place) => {
    const d = Math.floor(place / count);
    const plane = channels[m].subarray(d * voxels, (d + 1) * voxels);
    if (!squares[m][place]) {
      toSquares(plane, native, settings).forEach((one, t) => (squares[m][d * count + t] = one));
    }
    return squares[m][place];
  };
  const mask = new Uint8Array(depth * voxels);
  const middle = Math.floor(depth / 2); // shown first, so done first
  const order = Array.from({ length: depth }, (_, d) => d);
  for (const d of order.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))) {
    const start = performance.now();
    const parts = [];
    for (let t = 0; t < count; t++) {
      const input = inputOf(d * count + t, depth * count, channels.length, square, settings);
      parts.push((await network.run({ image: input })).logits.data);
      if (count > 1) postMessage({ kind: 'window', done: t + 1, windows: count });
    }
    const classes = classesOf(parts, native, settings);
    mask.set(classes, d * voxels);
    postMessage({ kind: 'slice', d, mask: classes, milliseconds: performance.now() - start });
  }
  for (const name of settings.largest_component) {
    keepLargest(mask, shape, settings.classes.indexOf(name), settings);
  }
  const saved = write && await write(mask);
  const odd = unlike(squares, shape, spacing, settings);
  postMessage({ kind: 'done', mask, odd, unsure, saved });
}

// A square with its neighbours, the channels of each together, [1, C, S, S].
function inputOf(place, total, channels, square, { image_size: size, context }) {
  const input = new Float32Array((2 * context + 1) * channels * size * size);
  let at = 0;
  for (let k = -context; k <= context; k++) {
    const neighbour = Math.min(total - 1, Math.max(0, place + k));
    for (let m = 0; m < channels; m++, at += size * size) input.set(square(m, neighbour), at);
  }
  return new ort.Tensor('float32', input, [1, input.length / size ** 2, size, size]);
}
