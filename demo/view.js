// A slice with its classes in colour above it, and the names of these colours.

const LINE = 800; // pixels of the longer side from which on outlines are twice as thick

// Those of the report, in scans/overlays.py.
const COLOURS = [
  '#29c7ac', '#ff9f43', '#c48bfc', '#fcfc8b', '#d40000', '#2699bf', '#bf26bf', '#b0d474',
  '#6e6316', '#8bfcfc', '#fc32b1', '#488265', '#9e00fc', '#fcca32', '#96871e', '#d75de8',
];

// Of a class from 1 on, [r, g, b]; behind COLOURS there are hues without end.
function colour(number) {
  const known = COLOURS[number - 1];
  if (known) return [1, 3, 5].map((at) => parseInt(known.slice(at, at + 2), 16));
  const hue = number * 0.618034 * 6; // turns by the golden angle
  const channel = (n) => {
    const k = (n + hue) % 6;
    return Math.round(255 * 0.95 * (1 - 0.7 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [5, 3, 1].map(channel);
}

export function legend(list, names) {
  list.replaceChildren(...names.slice(1).map((name, index) => {
    const [item, swatch] = [document.createElement('li'), document.createElement('span')];
    swatch.style.backgroundColor = `rgb(${colour(index + 1)})`;
    item.append(swatch, name);
    return item;
  }));
}

// Gives the function that shows slice d of a scan {shape, spacing, shades, mask, classes}; shades
// are one channel of grey, or three of red, green and blue, whose classes are outlined too; classes
// has the class by which a label of the mask is drawn.
export function viewer(picture) {
  const [image, overlay, lines] = picture.querySelectorAll('canvas');
  const paints = Array.from({ length: 256 }, (_, k) => (k ? [...colour(k), 255] : [0, 0, 0, 0]));
  return ({ shape: [, h, w], spacing, shades, mask, classes: drawn, outlined }, d) => {
    picture.style.setProperty('--ratio', (w * spacing[2]) / (h * spacing[1]));
    const part = (voxels) => voxels.subarray(d * h * w, (d + 1) * h * w);
    const [red, green, blue] = [0, 1, 2].map((m) => part(shades[m] ?? shades[0]));
    const classes = part(mask).map((label) => drawn[label]);
    paint(image, [h, w], (i) => [red[i], green[i], blue[i], 255]);
    paint(overlay, [h, w], (i) => paints[classes[i]]);
    if (!outlined) return;
    const edge = edges(classes, [h, w]);
    paint(lines, [h, w], (i) => paints[edge[i]]);
  };
}

// Classes [H, W] at the border of their class, 0 inside it.
export function edges(mask, [h, w]) {
  const thick = 1 + Math.floor(Math.max(h, w) / LINE);
  const found = new Uint8Array(mask.length);
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0; x < w; x++, i++) {
      for (let far = 1; far <= thick && !found[i]; far++) {
        const beside = [
          [x >= far, i - far], [x + far < w, i + far],
          [y >= far, i - far * w], [y + far < h, i + far * w],
        ];
        if (beside.some(([inside, at]) => inside && mask[at] !== mask[i])) found[i] = mask[i];
      }
    }
  }
  return found;
}

function paint(canvas, [h, w], pixel) {
  Object.assign(canvas, { width: w, height: h });
  const found = new ImageData(w, h);
  for (let i = 0; i < h * w; i++) found.data.set(pixel(i), 4 * i);
  canvas.getContext('2d').putImageData(found, 0, 0);
}
