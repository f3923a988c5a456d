"""Calls functions of the page's modules in Node, where there is one, as the page's worker does."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
const found = inputs.map(async (input) => {
  try {
    return await made(functions, input);
  } catch (error) {
    return { error: error.message || error.name };
  }
});
console.log(JSON.stringify(await Promise.all(found)));
"""


def call(module: str, expression: str, inputs: Sequence[Any]) -> list[Any]:
  """Values of an expression of `functions`, those of a module, and `input`, for each input.

  A promise is waited for. Where one throws, the value is {'error': its message}.
  """
  assert NODE
  with tempfile.TemporaryDirectory() as folder:
    for path in DEMO.glob('*.js'):
      shutil.copy(path, folder)
    # Without it a version of Node may take a .js file for something else than a module.
    Path(folder, 'package.json').write_text('{"type": "module"}')
    asked = json.dumps({'module': f'{folder}/{module}', 'call': expression, 'inputs': inputs})
    command = [NODE, '--input-type=module', '--eval', _CALLS]
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60)
  assert ended.returncode == 0, ended.stderr
  return json.loads(ended.stdout)


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
  placed = call('orient.js', "input.error ? input : functions.turned(input, 'axial') && {}", found)
  return [scan | more for scan, more in zip(found, placed, strict=True)]
