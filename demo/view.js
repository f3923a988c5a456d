// A slice in grey with its classes in colour above it, and the names of these colours.

// Of a class from 1 on, [r, g, b]: hues that stay apart however many classes there are.
function colour(number) {
  const hue = (number * 137.5 - 120) / 60; // degrees of the golden angle
  const channel = (n) => {
    const k = (((n + hue) % 6) + 6) % 6;
    return Math.round(255 * (1 - 0.8 * Math.max(0, Math.min(k, 4 - k, 1))));
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

// Gives the function that shows slice d of a scan {shape, spacing, gray, mask}.
export function viewer(picture) {
  const [image, overlay] = picture.querySelectorAll('canvas');
  return ({ shape: [, h, w], spacing, gray, mask }, d) => {
    picture.style.setProperty('--ratio', (w * spacing[2]) / (h * spacing[1]));
    const part = (voxels) => voxels.subarray(d * h * w, (d + 1) * h * w);
    paint(image, [h, w], part(gray), (one) => [one, one, one, 255]);
    paint(overlay, [h, w], part(mask), (one) => (one ? [...colour(one), 255] : [0, 0, 0, 0]));
  };
}

function paint(canvas, [h, w], values, toPixel) {
  Object.assign(canvas, { width: w, height: h });
  const found = new ImageData(w, h);
  const pixels = Array.from({ length: 256 }, (_, value) => toPixel(value));
  values.forEach((value, i) => found.data.set(pixels[value], 4 * i));
  canvas.getContext('2d').putImageData(found, 0, 0);
}
