// The page: a file in, what the worker finds out of it on the screen.

import { innermost } from './prepare.js';
import { legend, viewer } from './view.js';

const DIRECTIONS = {
  axial: "seen from the feet: the patient's left is on the right",
  coronal: "seen from the front: the patient's left is on the right",
  sagittal: 'seen from the left: the front of the patient is on the left',
};
// What the page says of a network of pictures instead of what index.html has.
const OF_PICTURES = {
  ask: 'Choose a picture or drop it on this page: PNG, TIFF, JPEG, BMP or GIF',
  sent: 'Nothing leaves this machine: the network runs in this browser, and the picture is sent ' +
    'nowhere.',
};
const at = (id) => document.getElementById(id);
const show = viewer(at('picture'));
let [worker, scan, settings, ofPictures] = [null, null, null, false];

async function start() {
  settings = await (await fetch('preprocessing.json')).json();
  ofPictures = settings.unit === 'pixels';
  at('what').textContent = settings.classes.slice(1).join(', ');
  const axis = settings.slice_axis;
  at('directions').textContent = `${axis} slices, ${DIRECTIONS[axis]}`;
  if (ofPictures) for (const [id, text] of Object.entries(OF_PICTURES)) at(id).textContent = text;
  for (const id of ['directions', 'slices']) at(id).hidden = ofPictures;
  legend(at('classes'), settings.classes);
  at('file').addEventListener('change', () => open(at('file').files));
  at('slice').addEventListener('input', draw);
  at('opacity').addEventListener('input', fade);
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    open(event.dataTransfer.files);
  });
  fade();
  tell('ready', 'Ready.');
}

function tell(state, text) {
  document.body.dataset.state = state;
  at('status').textContent = text;
}

function open(files) {
  worker?.terminate(); // whatever it was doing, the user wants something else now
  at('result').hidden = at('save').hidden = true;
  if (files.length !== 1) return tell('error', `${files.length} files; expected one at a time.`);
  scan = { name: files[0].name };
  tell('working', `Reading ${scan.name} ...`);
  worker = new Worker('worker.js', { type: 'module' });
  worker.addEventListener('message', ({ data }) => receive[data.kind](data));
  worker.addEventListener('error', () => tell('error', 'The page is damaged: build it again.'));
  worker.postMessage({ file: files[0], settings });
}

const receive = {
  error: ({ text }) => tell('error', text),
  scan(found) {
    const { shape, shades } = found;
    const mask = new Uint8Array(shades[0].length);
    scan = { ...scan, ...found, mask, times: [], outlined: ofPictures, classes: innermost(settings) };
    at('slice').max = shape[0] - 1;
    at('slice').value = Math.floor(shape[0] / 2);
    at('slice').disabled = shape[0] === 1;
    at('alone').hidden = shape[0] > 1 || ofPictures;
    at('result').hidden = false;
    draw();
  },
  slice({ d, mask, milliseconds }) {
    scan.mask.set(mask, d * mask.length);
    scan.times[d] = milliseconds;
    const count = Object.keys(scan.times).length;
    if (!ofPictures) tell('working', `${count} of ${scan.shape[0]} slices ...`);
    if (d === Number(at('slice').value)) draw();
  },
  window({ done, windows }) {
    if (ofPictures) tell('working', `${done} of ${windows} windows ...`);
  },
  done({ mask, odd, saved }) {
    scan.mask = mask;
    if (saved) offer(saved);
    const kept = settings.largest_component;
    const pieces = kept.length ? ` Of ${kept.join(', ')} the largest piece is kept.` : '';
    const what = ofPictures ? 'picture' : 'scan';
    const check = odd.length
      ? ` This ${what} is unlike those of the training, check its mask: ${odd.join('; ')}.` : '';
    tell('done', `Done.${pieces}${check}`);
    draw();
  },
};

// The mask to save, beside the picture and not in its place.
function offer(content) {
  URL.revokeObjectURL(at('save').href);
  at('save').href = URL.createObjectURL(content);
  at('save').download = `${scan.name.replace(/\.[^.]*$/, '')}_mask.png`;
  at('save').hidden = false;
}

function draw() {
  const d = Number(at('slice').value);
  show(scan, d);
  at('number').textContent = `${d + 1} of ${scan.shape[0]}`;
  const times = Object.values(scan.times);
  if (!times.length) return;
  const middle = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
  at('time').textContent = [
    d in scan.times ? `${scan.times[d].toFixed(0)} ms for this ${partOf(scan)}` : 'not done yet',
    times.length > 1 ? `${middle.toFixed(0)} ms, median of ${times.length}` : 'with warming up',
    `${scan.threads} ${scan.threads === 1 ? 'thread' : 'threads'}`,
  ].join(', ');
}

function partOf({ windows }) {
  const what = ofPictures ? 'picture' : 'slice';
  return windows > 1 ? `${what} in ${windows} windows` : what;
}

function fade() {
  at('picture').style.setProperty('--opacity', at('opacity').value / 100);
}

start().catch((error) => tell('error', `The page is damaged (${error.message}): build it again.`));
