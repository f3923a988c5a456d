// Reads a scan and runs the network over its slices, off the page's own thread.

import * as ort from './onnxruntime/ort.wasm.min.mjs';
import { isDicom, readDicom } from './dicom.js';
import { unlike } from './likeness.js';
import { isNifti, readNifti, unzipped } from './nifti.js';
import { writeMask } from './mask_png.js';
import { turned } from './orient.js';
import { isPicture, readPicture } from './picture.js';
import { classesOf, countWindows, keepLargest, toSquares, toUnitRange } from './prepare.js';
import { coloursOf, shadesOf } from './shades.js';

// ONNX Runtime takes one thread, or half the cores up to four where the server isolates the page:
// only there do browsers let threads share memory.

onmessage = async ({ data: { file, settings } }) => {
  try {
    const ofPictures = settings.unit === 'pixels';
    const scan = ofPictures ? await openPicture(file, settings) : await openVolume(file, settings);
    const colours = scan.channels.length === 3 ? coloursOf(scan.channels) : null;
    for (const channel of scan.channels) toUnitRange(channel, settings);
    const network = await ort.InferenceSession.create('model.onnx');
    await segment({ ...scan, shades: colours ?? shadesOf(scan.channels) }, settings, network);
  } catch (error) {
    // Of reading past the end of a file, and of a scan that memory does not hold.
    const text = error instanceof RangeError ? 'it is cut off or too large' : error.message;
    postMessage({ kind: 'error', text: `${file.name}: ${text}` });
  }
};

// Both give {channels, M flat [D, H, W], shape, spacing}.
async function openPicture(file, { modalities }) {
  const scan = await readPicture(new Uint8Array(await file.arrayBuffer()));
  const found = scan.channels.length;
  if (found === modalities) return scan;
  throw new Error(`the picture has ${found} channel(s), but the network was trained on ` +
    `${modalities}; a picture in grey has 1, one in colours 3: convert it`);
}

async function openVolume(file, { slice_axis: axis }) {
  const bytes = await unzipped(new Uint8Array(await file.arrayBuffer()));
  const read = isNifti(bytes) ? readNifti : isDicom(bytes) ? readDicom : null;
  if (read) {
    const { voxels, ...scan } = turned(read(bytes), axis);
    return { ...scan, channels: [voxels] };
  }
  const what = isPicture(bytes) ? 'a picture, but this network sees volumes; ' : '';
  throw new Error(`${what}neither a NIfTI file (.nii, .nii.gz) nor a DICOM slice`);
}

async function segment({ channels, shape, spacing, shades }, settings, network) {
  const [depth, ...native] = shape;
  const [count, voxels] = [countWindows(native, settings), native[0] * native[1]];
  const threads = ort.env.wasm.numThreads;
  postMessage({ kind: 'scan', shape, spacing, shades, windows: count, threads });
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
  const saved = settings.colours && await writeMask(mask, native, settings.colours, settings.note);
  postMessage({ kind: 'done', mask, odd: unlike(squares, shape, spacing, settings), saved });
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
