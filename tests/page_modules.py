"""Calls functions of the page's modules in Node, where there is one, as the page's worker does."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.packages import ITK_WASM

DEMO = Path(__file__).resolve().parents[1] / 'demo'
NODE = shutil.which('node')
_CALLS = """
import { readFileSync } from 'node:fs';
import { gunzipSync, inflateRawSync } from 'node:zlib';
// As browsers have it: they refuse what lies behind the first member, where Node's own goes on.
const Own = DecompressionStream;
globalThis.DecompressionStream = class extends TransformStream {
  constructor(format) {
    if (format !== 'gzip') return new Own(format);
    const parts = [];
    super({
      transform: (chunk) => { parts.push(chunk); },
      flush: (controller) => {
        const bytes = Buffer.concat(parts);
        const start = bytes[3] & 8 ? bytes.indexOf(0, 10) + 1 : 10; // behind a name
        const { engine } = inflateRawSync(bytes.subarray(start), { info: true });
        if (start + engine.bytesWritten + 8 !== bytes.length) throw new Error('more behind it');
        controller.enqueue(gunzipSync(bytes));
      },
    });
  }
};
const { module, call, inputs } = JSON.parse(readFileSync(0, 'utf8'));
const functions = await import(module);
const made = new Function('functions', 'input', `return ${call}`);
const found = [];
for (const input of inputs) {
  try {
    found.push(await made(functions, input));
  } catch (error) {
    found.push({ error: error.message || error.name });
  }
}
console.log(JSON.stringify(found)); // behind what a library may have printed
process.exitCode = 0; // GDCM sets another one where it refuses
"""


def decoder() -> dict[str, bytes]:
  """Files that decompress DICOM, for `beside`; skips a test where there are none."""
  archive = Path('~/.cache/thrifty_jax').expanduser() / ITK_WASM.archive
  if not archive.exists():
    pytest.skip(f'{archive} is not there; python -m demo.build fetches it')
  return ITK_WASM.read(archive)


def call(
  module: str, expression: str, inputs: Sequence[Any], *, beside: Mapping[str, bytes] | None = None
) -> list[Any]:
  """Values of an expression of `functions`, those of a module, and `input`, for each input.

  A promise is waited for. Where one throws, the value is {'error': its message}. `beside` are
  further files that lie beside the modules.
  """
  assert NODE
  with tempfile.TemporaryDirectory() as folder:
    for path in DEMO.glob('*.js'):
      shutil.copy(path, folder)
    for name, content in (beside or {}).items():
      Path(folder, name).parent.mkdir(exist_ok=True)
      Path(folder, name).write_bytes(content)
    # Without it a version of Node may take a .js file for something else than a module.
    Path(folder, 'package.json').write_text('{"type": "module"}')
    asked = json.dumps({'module': f'{folder}/{module}', 'call': expression, 'inputs': inputs})
    command = [NODE, '--input-type=module', '--eval', _CALLS]
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60)
  assert ended.returncode == 0, ended.stderr
  return json.loads(ended.stdout.strip().split('\n')[-1])


def series(given: Sequence[Mapping[str, bytes]], **settings: Any) -> list[Any]:
  """What the page has of the slices of each series, files by name: {voxels, shape, affine}.

  An error has the name of its file before it.
  """
  inputs = [
    [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    for files in given
  ]
  expression = """functions.readSeries(input.map(([name, content]) =>
    ({ name, bytes: new Uint8Array(Buffer.from(content, 'base64')) })))
    .then(({ voxels, ...more }) => ({ voxels: [...voxels], ...more }))
    .catch(({ message, name, file }) => ({ error: message || name, file }))"""
  return call('dicom.js', expression, inputs, **settings)


def read(module: str, reader: str, contents: Sequence[bytes]) -> list[Any]:
  """What the page's worker has of each file before slices are drawn: {voxels, shape, affine}.

  Errors are those of the reader in a module, or of the geometry.
  """
  expression = "functions.BYTES(Uint8Array.from(Buffer.from(input, 'base64')))"
  found = call(
    module,
    f'(({{ voxels, ...more }}) => ({{ ...more, voxels: [...voxels] }}))'
    f'({expression.replace("BYTES", reader)})',
    [base64.b64encode(content).decode() for content in contents],
  )
  return _turned(found)


def read_dicom(contents: Sequence[bytes]) -> list[Any]:
  """As `read`, of single files of DICOM."""
  return _turned(series([{'a.dcm': content} for content in contents]))


def _turned(found: Sequence[Any]) -> list[Any]:
  placed = call('orient.js', "input.error ? input : functions.turned(input, 'axial') && {}", found)
  return [scan | more for scan, more in zip(found, placed, strict=True)]
