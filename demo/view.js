// A slice with its classes in colour above it, and the names of these colours.

const LINE = 800; // pixels of the longer side from which on outlines are twice as thick

export function legend(list, names, colours) {
  list.replaceChildren(...names.slice(1).map((name, index) => {
    const [item, swatch] = [document.createElement('li'), document.createElement('span')];
    swatch.style.backgroundColor = colours[index];
    item.append(swatch, name);
    return item;
  }));
}

// Gives the function that shows slice d of a scan {shape, spacing, mask, classes, levels or colours};
// levels become the shades that it is given, colours are red, green and blue, whose classes are
// outlined too; classes has the class by which a label of the mask is drawn.
export function viewer(picture, colours) {
  const [image, overlay, lines] = picture.querySelectorAll('canvas');
  const paints = [0, ...colours.map((one) =>
    packed(...[1, 3, 5].map((at) => parseInt(one.slice(at, at + 2), 16))))];
  return ({ shape: [, h, w], spacing, mask, levels, colours: stored, ...scan }, d, shades) => {
    picture.style.setProperty('--ratio', (w * spacing[2]) / (h * spacing[1]));
    const part = (voxels) => voxels.subarray(d * h * w, (d + 1) * h * w);
    const classes = part(mask).map((label) => scan.classes[label]);
    if (stored) {
      const [red, green, blue] = stored.map(part);
      paint(image, [h, w], (i) => packed(red[i], green[i], blue[i]));
    } else {
      const own = part(levels);
      paint(image, [h, w], (i) => packed(shades[own[i]], shades[own[i]], shades[own[i]]));
    }
    paint(overlay, [h, w], (i) => paints[classes[i]]);
    const edge = scan.outlined ? edges(classes, [h, w]) : classes.fill(0);
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

// An opaque pixel as canvases have it in memory.
function packed(red, green, blue) {
  return (255 << 24) | (blue << 16) | (green << 8) | red;
}

function paint(canvas, [h, w], pixel) {
  Object.assign(canvas, { width: w, height: h });
  const found = new ImageData(w, h);
  const pixels = new Int32Array(found.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = pixel(i);
  canvas.getContext('2d').putImageData(found, 0, 0);
}
