"""Calls functions of the page's modules in Node, where there is one, as the page's worker does."""

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[1] / 'demo'
NODE = shutil.which('node')
# A module of its own text is one whatever the version of Node takes a .js file for.
_CALLS = """
import { readFileSync } from 'node:fs';
const { module, call, inputs } = JSON.parse(readFileSync(0, 'utf8'));
const functions = await import(`data:text/javascript;base64,${module}`);
const made = new Function('functions', 'input', `return ${call}`);
console.log(JSON.stringify(inputs.map((input) => {
  try {
    return made(functions, input);
  } catch (error) {
    return { error: error.message };
  }
})));
"""


def call(module: str, expression: str, inputs: Sequence[Any]) -> list[Any]:
  """Values of an expression of `functions`, those of a module, and `input`, for each input.

  Where it throws, the value is {'error': its message}.
  """
  assert NODE
  content = base64.b64encode((DEMO / module).read_bytes()).decode()
  asked = json.dumps({'module': content, 'call': expression, 'inputs': inputs})
  command = [NODE, '--input-type=module', '--eval', _CALLS]
  ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60)
  assert ended.returncode == 0, ended.stderr
  return json.loads(ended.stdout)
