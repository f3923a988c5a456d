// Reads a scan and runs the network over its slices, off the page's own thread.

import * as ort from './onnxruntime/ort.wasm.min.mjs';
import { isDicom, readDicom } from './dicom.js';
import { unlike } from './likeness.js';
import { isNifti, readNifti, unzipped } from './nifti.js';
import { turned } from './orient.js';
import { classesOf, keepLargest, toSquare, toUnitRange } from './prepare.js';

// ONNX Runtime takes one thread, or half the cores up to four where the server isolates the page:
// only there do browsers let threads share memory.

onmessage = async ({ data: { file, settings } }) => {
  try {
    const scan = turned(await read(file), settings.slice_axis);
    toUnitRange(scan.voxels, settings);
    const network = await ort.InferenceSession.create('model.onnx');
    await segment(scan, settings, network);
  } catch (error) {
    // Of reading past the end of a file, and of a scan that memory does not hold.
    const text = error instanceof RangeError ? 'it is cut off or too large' : error.message;
    postMessage({ kind: 'error', text: `${file.name}: ${text}` });
  }
};

async function read(file) {
  const bytes = await unzipped(new Uint8Array(await file.arrayBuffer()));
  if (isNifti(bytes)) return readNifti(bytes);
  if (isDicom(bytes)) return readDicom(bytes);
  throw new Error('neither a NIfTI file (.nii, .nii.gz) nor a DICOM slice');
}

async function segment({ voxels, shape, spacing }, settings, network) {
  const [depth, h, w] = shape;
  const gray = Uint8Array.from(voxels, (one) => 255 * one + 0.5);
  const threads = ort.env.wasm.numThreads;
  postMessage({ kind: 'scan', shape, spacing, gray, threads });
  const squares = [];
  const square = (d) => (squares[d] ??=
    toSquare(voxels.subarray(d * h * w, (d + 1) * h * w), [h, w], settings));
  const mask = new Uint8Array(depth * h * w);
  const middle = Math.floor(depth / 2); // shown first, so done first
  const order = [...mask.keys()].slice(0, depth);
  for (const d of order.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))) {
    const start = performance.now();
    const classes = await classesOfSlice(d, depth, square, [h, w], settings, network);
    mask.set(classes, d * h * w);
    postMessage({ kind: 'slice', d, mask: classes, milliseconds: performance.now() - start });
  }
  for (const name of settings.largest_component) {
    keepLargest(mask, shape, settings.classes.indexOf(name));
  }
  postMessage({ kind: 'done', mask, odd: unlike(squares, shape, spacing, settings) });
}

async function classesOfSlice(d, depth, square, native, settings, network) {
  const { image_size: size, context, classes } = settings;
  const input = new Float32Array((2 * context + 1) * size * size);
  for (let k = 0; k <= 2 * context; k++) {
    const neighbour = Math.min(depth - 1, Math.max(0, d + k - context));
    input.set(square(neighbour), k * size * size);
  }
  const image = new ort.Tensor('float32', input, [1, 2 * context + 1, size, size]);
  const { logits } = await network.run({ image });
  return classesOf(logits.data, classes.length, native, size);
}
