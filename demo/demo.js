// The page: a scan in, what the worker finds out of it on the screen.

import { chosen, dropped, namesOf } from './files.js';
import { greys } from './greys.js';
import { innermost } from './prepare.js';
import { shadesOf } from './shades.js';
import { timeOf } from './time.js';
import { legend, viewer } from './view.js';

const DIRECTIONS = {
  axial: "seen from the feet: the patient's left is on the right",
  coronal: "seen from the front: the patient's left is on the right",
  sagittal: 'seen from the left: the front of the patient is on the left',
};
// What the page says of a network of pictures instead of what index.html has.
const OF_PICTURES = {
  ask: 'Drop a picture on this page, or choose it: PNG, TIFF, JPEG, BMP or GIF.',
  choose: 'Choose a picture',
  sent: 'Nothing leaves this machine: the network runs in this browser, and the picture is sent ' +
    'nowhere.',
};
const NOTCH = 100; // pixels of scrolling for a slice
const at = (id) => document.getElementById(id);
let [worker, scan, settings, ofPictures, show, grey] = [null, null, null, false, null, null];
let [turn, scrolled] = [0, 0];

async function start() {
  const read = async (name) => (await fetch(name, { cache: 'no-cache' })).json();
  const [about, page] = await Promise.all(['preprocessing.json', 'page.json'].map(read));
  settings = about;
  ofPictures = settings.unit === 'pixels';
  at('what').textContent = settings.classes.slice(1).join(', ');
  const axis = settings.slice_axis;
  at('directions').textContent = `${axis} slices, ${DIRECTIONS[axis]}`;
  if (ofPictures) for (const [id, text] of Object.entries(OF_PICTURES)) at(id).textContent = text;
  for (const id of ['directions', 'slices', 'folders']) at(id).hidden = ofPictures;
  at('file').multiple = !ofPictures;
  legend(at('classes'), settings.classes, page.colours);
  show = viewer(at('picture'), page.colours);
  const parts = ['greys', 'centre', 'width', 'reset', 'picture'];
  grey = greys(Object.fromEntries(parts.map((id) => [id, at(id)])), draw);
  at('sample').hidden = !page.sample;
  at('sample').addEventListener('click', () => trySample(page.sample));
  for (const id of ['file', 'folder']) at(id).addEventListener('change', () => open(chosen(at(id))));
  at('slice').addEventListener('input', draw);
  at('opacity').addEventListener('input', fade);
  at('picture').addEventListener('wheel', turnSlices, { passive: false });
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', async (event) => {
    event.preventDefault();
    open(await dropped(event.dataTransfer));
  });
  fade();
  tell('ready', 'Ready.');
}

function tell(state, text) {
  document.body.dataset.state = state;
  at('status').textContent = text;
}

function open(given) {
  turn++;
  worker?.terminate(); // whatever it was doing, the user wants something else now
  at('result').hidden = at('save').hidden = true;
  if (!given.length) return tell('error', 'That holds no file; expected a scan.');
  scan = namesOf(given);
  tell('working', `Reading ${scan.title} ...`);
  worker = new Worker('worker.js', { type: 'module' });
  worker.addEventListener('message', ({ data }) => receive[data.kind](data));
  worker.addEventListener('error', () => tell('error', 'The page is damaged: build it again.'));
  worker.postMessage({ given, title: scan.title, settings });
}

async function trySample({ name, files }) {
  const own = ++turn;
  tell('working', `Fetching ${name} ...`);
  try {
    const given = await Promise.all(files.map(async (path) => {
      const answer = await fetch(`sample/${encodeURIComponent(path)}`);
      if (!answer.ok) throw new Error(answer.statusText);
      return { file: new File([await answer.blob()], path), folder: files.length > 1 ? name : '' };
    }));
    if (own === turn) open(given); // unless the user has given something else since
  } catch (error) {
    if (own === turn) tell('error', `${name}: the sample cannot be fetched (${error.message}).`);
  }
}

const receive = {
  error: ({ text }) => tell('error', text),
  scan(found) {
    const { shape, levels, step } = found;
    const mask = new Uint8Array(shape[0] * shape[1] * shape[2]);
    scan = { ...scan, ...found, mask, times: [], outlined: ofPictures, classes: innermost(settings) };
    at('slice').max = shape[0] - 1;
    at('slice').value = Math.floor(shape[0] / 2);
    at('slice').disabled = shape[0] === 1;
    at('alone').hidden = shape[0] > 1 || ofPictures;
    at('greys').hidden = !levels || !step;
    at('result').hidden = false;
    if (levels) grey.start(found);
    else draw();
  },
  slice({ d, mask, milliseconds }) {
    scan.mask.set(mask, d * mask.length);
    scan.times[d] = milliseconds;
    const count = Object.keys(scan.times).length;
    if (!ofPictures) tell('working', `${count} of ${scan.shape[0]} slices ...`);
    at('time').textContent = timeOf(Object.values(scan.times), { ...scan, ofPictures });
    if (d === Number(at('slice').value)) draw();
  },
  window({ done, windows }) {
    if (ofPictures) tell('working', `${done} of ${windows} windows ...`);
  },
  done({ mask, odd, unsure, saved }) {
    scan.mask = mask;
    if (saved) offer(saved);
    const [kept, { leftOut }] = [settings.largest_component, scan];
    const pieces = kept.length ? ` Of ${kept.join(', ')} the largest piece is kept.` : '';
    const what = ofPictures ? 'picture' : 'scan';
    const check = odd.length
      ? ` This ${what} is unlike those of the training, check its mask: ${odd.join('; ')}.` : '';
    const axes = unsure ? ` ${scan.title}: ${unsure}.` : '';
    const others = leftOut.length ? ` Left out, as they hold no slice: ${leftOut.join(', ')}.` : '';
    const unsaved = saved || ofPictures ? ''
      : ' The mask cannot be saved: a single slice of DICOM does not say how thick it is.';
    tell('done', `Done.${pieces}${check}${axes}${others}${unsaved}`);
    draw();
  },
};

// The mask to save, beside the scan and not in its place.
function offer(content) {
  const ending = ofPictures ? 'png' : 'nii.gz';
  URL.revokeObjectURL(at('save').href);
  at('save').href = URL.createObjectURL(content);
  at('save').download = `${scan.stem}_mask.${ending}`;
  at('save').textContent = `Save ${at('save').download}`;
  at('save').hidden = false;
}

function draw() {
  const d = Number(at('slice').value);
  show(scan, d, scan.levels && shadesOf(scan, grey.window()));
  at('number').textContent = `${d + 1} of ${scan.shape[0]}`;
}

// A wheel gives lines or a notch of pixels at a time, a trackpad few pixels.
function turnSlices(event) {
  if (at('slice').disabled) return;
  event.preventDefault();
  scrolled += event.deltaMode ? Math.sign(event.deltaY) * NOTCH : event.deltaY;
  const by = Math.trunc(scrolled / NOTCH);
  scrolled -= by * NOTCH;
  at('slice').value = Number(at('slice').value) + by;
  draw();
}

function fade() {
  at('opaque').textContent = `${at('opacity').value} %`;
  at('picture').style.setProperty('--opacity', at('opacity').value / 100);
}

start().catch((error) => tell('error', `The page is damaged (${error.message}): build it again.`));
