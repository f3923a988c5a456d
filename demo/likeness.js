// How a scan is unlike those of the training, as likeness.py has it.

const LIKE = {
  slices: 2, slice_spacing_mm: 1.5, pixel_spacing_mm: 1.5, field_of_view_mm: 1.25,
};
const PICTURE_LIKE = { field_of_view_mm: 2 }; // in pixels: a picture knows no millimetres
const PICTURE_WORDS = { field_of_view_mm: 'pixels on the longer side' };
const [SHADE, THICK] = [0.15, 1.5];

// A line for each measure outside the range of the training scans. Of the scan: squares as the
// network sees them, a list for each channel; shape and spacing along D, H and W. A single slice
// has no number of slices.
export function unlike(channels, shape, spacing, settings) {
  const known = settings.training_scans;
  if (!known) return [];
  const [across, ...inside] = spacing;
  const values = {
    slices: [shape[0]],
    slice_spacing_mm: [across],
    pixel_spacing_mm: inside,
    field_of_view_mm: [Math.max(shape[1] * spacing[1], shape[2] * spacing[2])],
  };
  if (shape[0] === 1) delete values.slices;
  const lines = [];
  const trainedOnThick = known.slice_spacing_mm[0] >= THICK * known.pixel_spacing_mm[1];
  if (trainedOnThick && Math.max(...inside) >= THICK * across) {
    lines.push(`thick slices that are not ${settings.slice_axis}`);
  }
  const [like, words] = settings.unit === 'pixels' ? [PICTURE_LIKE, PICTURE_WORDS] : [LIKE, {}];
  const told = (name, value, least, most) => {
    const [own, from, to] = [value, least, most].map((one) => Number(one.toPrecision(4)));
    return `${words[name] ?? name.replaceAll('_', ' ')} ${own}, in training ${from} to ${to}`;
  };
  for (const [name, found] of Object.entries(values).filter(([one]) => one in like)) {
    const [least, most] = known[name];
    const odd = found.find((one) => !(least / like[name] <= one && one <= most * like[name]));
    if (odd !== undefined) lines.push(told(name, odd, least, most));
  }
  channels.forEach((squares, m) => {
    const sorted = joined(squares).sort();
    for (const name of Object.keys(known).filter((one) => one.startsWith(`intensity_${m}_`))) {
      const shade = percentile(sorted, Number(name.split('_p')[1]));
      const [least, most] = known[name];
      const isAlike = least - SHADE <= shade && shade <= most + SHADE;
      if (!isAlike) lines.push(told(name, shade, least, most));
    }
  });
  return lines;
}

export function joined(squares) {
  const all = new Float32Array(squares.length * squares[0].length);
  squares.forEach((square, d) => all.set(square, d * square.length));
  return all;
}

export function percentile(sorted, percent) {
  const place = (percent / 100) * (sorted.length - 1);
  const [a, b] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return a + (b - a) * (place - Math.floor(place));
}
