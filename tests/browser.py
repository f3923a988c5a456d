"""The page of demo/ in a real browser: files go in by its button, masks come from its canvas.

A harness beside the sites holds each of them in a frame, does what a user would, and posts what it
saw to the server, which also keeps every request.
"""

import contextlib
import dataclasses
import functools
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[1] / 'demo'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))), None)
_ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}
# The page's own policy as a header too: what is in the page alone does not bind its worker.
_POLICY = re.findall('content="(default-src [^"]*)"', (DEMO / 'index.html').read_text('utf-8'))[0]
_HARNESS = """\
<!doctype html><iframe style="position:fixed;inset:0;width:100%;height:100%;border:0"></iframe>
<script type="module">
const frame = document.querySelector('iframe');
const page = () => frame.contentDocument;
async function reached(...states) {
  const there = () => states.includes(page().body?.dataset.state);
  while (!there()) await new Promise((on) => setTimeout(on, 20));
}
function pixels(number) {  // red, green, blue and alpha of one of the canvases
  const canvas = page().querySelectorAll('canvas')[number];
  const context = canvas.getContext('2d');
  return [canvas.width, context.getImageData(0, 0, canvas.width, canvas.height).data];
}
function classes() {  // of the slice that is shown, by the colours of the legend
  const swatches = [...page().querySelectorAll('#classes span')];
  const colours = swatches.map((one) => getComputedStyle(one).backgroundColor);
  const [width, data] = pixels(1);
  const found = [];
  for (let i = 0; i < data.length; i += 4) {
    const colour = `rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`;
    found.push(data[i + 3] ? colours.indexOf(colour) + 1 || 255 : 0);
  }
  return { width, found };
}
async function contentOf(address) {  // in base64
  const content = await (await fetch(address)).arrayBuffer();
  return btoa(String.fromCharCode(...new Uint8Array(content)));
}
async function give({ file, files, folder, drop, sample }) {
  if (sample) return page().getElementById('sample').click();
  const { File, DataTransfer, Event, DragEvent } = frame.contentWindow;
  const given = new DataTransfer();
  const made = [];
  for (const path of files ?? [file]) {
    const name = path.split('/').at(-1);
    made.push(new File([await (await fetch(path)).blob()], name));
    // As the browser has it of a folder that was chosen.
    const value = folder ? `${folder}/${name}` : '';
    Object.defineProperty(made.at(-1), 'webkitRelativePath', { value });
    given.items.add(made.at(-1));
  }
  if (drop) {
    const event = new DragEvent('drop', { dataTransfer: given, bubbles: true, cancelable: true });
    return page().body.dispatchEvent(event);
  }
  const input = page().getElementById(folder ? 'folder' : 'file');
  input.files = given.files;
  input.dispatchEvent(new Event('change'));
}
function set(id, value) {
  const slider = page().getElementById(id);
  slider.value = value;
  slider.dispatchEvent(new frame.contentWindow.Event('input'));
}
function greys() {  // what is shown in another window, and after going back
  const shown = () => ({ picture: [...pixels(0)[1]], classes: classes().found });
  const [low, high] = ['centre', 'width'].map((id) => Number(page().getElementById(id).value));
  const saw = [shown()];
  set('centre', low + high);
  set('width', high / 2);
  saw.push(shown());
  page().getElementById('reset').click();
  saw.push(shown());
  return { window: [low, high], saw };
}
async function result(job) {
  frame.src = `${job.site}/index.html`;
  await new Promise((on) => frame.addEventListener('load', on, { once: true }));
  await reached('ready', 'error');
  page().body.dataset.state = 'asked'; // until the page says another
  await give(job);
  await reached('done', 'error');
  const text = (id) => page().getElementById(id).textContent;
  const saw = { state: page().body.dataset.state, status: text('status'), time: text('time'),
    isolated: crossOriginIsolated, mask: [] };
  if (saw.state === 'done') {
    const slider = page().getElementById('slice');
    const shown = slider.value;
    for (let d = 0; d <= Number(slider.max); d++) {
      set('slice', d);
      saw.mask.push(classes());
    }
    set('slice', shown);
    saw.shown = [...pixels(0)[1]];
    if (job.greys) saw.greys = greys();
    const link = page().getElementById('save');
    saw.saved = link.hidden ? null : { name: link.download, content: await contentOf(link.href) };
  }
  return saw;
}
const saw = [];
for (const job of await (await fetch('jobs')).json()) saw.push(await result(job));
await fetch('saw', { method: 'POST', body: JSON.stringify(saw) });
</script>
"""


@dataclasses.dataclass(eq=False)
class Session:
  """What the server was asked, and what the harness saw."""

  jobs: Sequence[dict[str, Any]]
  isolated: bool
  requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # method, path
  saw: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  finished: threading.Event = dataclasses.field(default_factory=threading.Event)


class _Handler(http.server.SimpleHTTPRequestHandler):
  def __init__(self, *arguments: Any, session: Session, **settings: Any):
    self.session = session
    super().__init__(*arguments, **settings)

  def end_headers(self) -> None:
    for name, value in _ISOLATION.items() if self.session.isolated else ():
      self.send_header(name, value)
    if not self.path.startswith('/harness'):
      self.send_header('Content-Security-Policy', _POLICY)
    super().end_headers()

  def log_message(self, format: str, *values: Any) -> None:
    pass

  def do_GET(self) -> None:
    self.session.requests.append(('GET', self.path))
    made = {'/harness.html': _HARNESS, '/jobs': json.dumps(self.session.jobs)}
    if self.path not in made:
      return super().do_GET()
    self._answer(made[self.path].encode())

  def do_POST(self) -> None:
    self.session.requests.append(('POST', self.path))
    body = self.rfile.read(int(self.headers['Content-Length']))
    self._answer(b'')
    if self.path == '/saw':
      self.session.saw = json.loads(body)
      self.session.finished.set()

  def _answer(self, content: bytes) -> None:
    self.send_response(200)
    self.send_header('Content-Type', 'text/html')
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)


@contextlib.contextmanager
def served(folder: Path, session: Session) -> Generator[str]:
  """The folder and the harness on a free port of this machine; gives the harness' address."""
  handler = functools.partial(_Handler, session=session, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f'http://127.0.0.1:{server.server_port}/harness.html'
    finally:
      server.shutdown()
      thread.join()


def visit(folder: Path, jobs: Sequence[dict[str, Any]], *, isolated: bool = False) -> Session:
  """Opens a site with a file, for each job {site, file}, both paths below the folder.

  A job may have more: files, paths of several; folder, whose they are; drop, to drop them; sample,
  to click on the site's own; greys, to look at another window of greys too.

  Args:
    folder: Holds sites and files.
    jobs: What to do, in this order.
    isolated: Whether the server allows threads that share memory.
  """
  session = Session(jobs, isolated)
  assert CHROMIUM
  with (
    tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    served(folder, session) as address,
  ):
    flags = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--mute-audio')
    own = (f'--user-data-dir={profile}', '--remote-debugging-port=0', '--disable-extensions')
    quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    process = subprocess.Popen([CHROMIUM, *flags, *own, address], **quiet)
    try:
      assert session.finished.wait(120), f'the browser did not end; {session.requests[-5:]}'
    finally:
      process.terminate()
      process.wait(20)
  return session
