// The window of grey shades: two sliders, dragging on the picture, and back to what it was at first.

const DIGITS = 4; // of values that are no whole numbers
const FINE = 1000; // steps of a slider whose values are none
const PER_PIXEL = 1 / 300; // of its width, by which dragging changes the window

// Gives {start, window}: a function that begins with a scan {least, most, limits}, and the window
// {centre, width}. `changed` is called whenever it is another one.
export function greys({ greys: box, centre, width, reset, picture }, changed) {
  let [usual, whole] = [null, false];
  const values = () => ({ centre: Number(centre.value), width: Number(width.value) });
  const show = () => {
    for (const input of [centre, width]) {
      const value = Number(input.value);
      input.nextElementSibling.value = whole ? Math.round(value) : Number(value.toPrecision(DIGITS));
    }
  };
  const set = (window) => {
    [centre.value, width.value] = [window.centre, window.width];
    show();
    changed();
  };
  for (const input of [centre, width]) {
    input.addEventListener('input', () => { show(); changed(); });
  }
  reset.addEventListener('click', () => set(usual));
  picture.addEventListener('dblclick', () => { if (!box.hidden) set(usual); });
  picture.addEventListener('pointerdown', (event) => {
    // A finger scrolls the page.
    if (event.pointerType !== 'touch' && !box.hidden) picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener('pointermove', ({ pointerId, movementX: right, movementY: down }) => {
    if (!picture.hasPointerCapture(pointerId)) return;
    const { centre: middle, width: across } = values();
    const by = Math.max(across * PER_PIXEL, Number(width.step));
    set({ centre: middle + down * by, width: across + right * by });
  });
  const start = ({ least, most, limits: [low, high] }) => {
    const range = Math.max(most, high) - Math.min(least, low);
    whole = range > FINE / 10;
    const step = whole ? 1 : range / FINE;
    Object.assign(centre, { min: Math.min(least, low), max: Math.max(most, high), step });
    Object.assign(width, { min: step, max: range, step });
    usual = { centre: (low + high) / 2, width: high - low };
    set(usual);
  };
  return { start, window: values };
}
