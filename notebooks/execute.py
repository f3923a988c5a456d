"""Runs a notebook as *Run all* does, in this process and without Jupyter; can store its outputs.

  python notebooks/execute.py notebooks/quickstart.ipynb --store
  python notebooks/execute.py notebooks/quickstart.ipynb --result=FILE --values='{"RUN": "runs/a"}'

The cells are plain Python. The values stand for those of the cell with the tag `parameters`. An
exception ends it, with status 1, as it ends *Run all*.

With --store the notebook gets what its cells printed and showed, without folders of this machine.
Pictures are reduced to a few colours; in place of a page that is too large there is a line. What
goes to stderr, such as progress, is left out. What a run has done already it does not print again:
remove the notebook's folder of results first.

The result, JSON, has what cells showed, by their ids and MIME types; the id of the cell that
raised, or ''; and the folder in which the notebook ended.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST = 150_000  # letters of a stored picture; a page, of which web sites show nothing, has fewer
_COLOURS = 64  # of a stored picture


class _Copy(io.StringIO):
  """Keeps what is printed, and prints it."""

  def write(self, text: str) -> int:
    sys.__stdout__.write(text)  # pyrefly: ignore[missing-attribute]
    return super().write(text)

  def flush(self) -> None:
    sys.__stdout__.flush()  # pyrefly: ignore[missing-attribute]


def run_all(
  cells: Sequence[dict[str, Any]],
  values: dict[str, Any],
  *,
  without: Sequence[str] = (),
  until: str = '',
) -> tuple[dict[str, tuple[str, dict[str, str]]], str]:
  """Runs the cells in one namespace.

  Args:
    cells: Cells of the notebook.
    values: Values of parameters, by their names.
    without: Tags of cells that are left out.
    until: Id of the last cell that is run; '' runs all.

  Returns:
    What cells printed, and what they showed by its MIME type, by the ids of the cells; and the id
    of the cell that raised, or ''.
  """
  outputs, names = {}, {'__name__': '__main__'}
  for cell in cells:
    tags = cell['metadata'].get('tags', [])
    if cell['cell_type'] != 'code' or {*tags} & {*without}:
      continue
    printed = _Copy()
    try:
      with contextlib.redirect_stdout(printed):
        last = _run(''.join(cell['source']), cell['id'], names)
    except BaseException:
      traceback.print_exc()
      return outputs, cell['id']
    if 'parameters' in tags:
      if unknown := values.keys() - names.keys():
        raise KeyError(f'{sorted(unknown)} are no parameters')
      names |= values
    shown = dict(last._repr_mimebundle_()) if hasattr(last, '_repr_mimebundle_') else {}
    outputs[cell['id']] = printed.getvalue(), shown
    if cell['id'] == until:
      break
  return outputs, ''


def store(notebook: dict[str, Any], outputs: dict[str, tuple[str, dict[str, str]]]) -> None:
  """Puts outputs into a notebook, and the digest of the cells that they are of."""
  for number, cell in enumerate(_code_of(notebook), start=1):
    printed, shown = outputs[cell['id']]
    cell['execution_count'], cell['outputs'] = number, []
    if printed:
      text = _anonymous(printed).splitlines(keepends=True)
      cell['outputs'].append({'name': 'stdout', 'output_type': 'stream', 'text': text})
    if shown:
      data = dict(_reduce(*item) for item in shown.items())
      result = {'data': data, 'execution_count': number, 'metadata': {}}
      cell['outputs'].append(result | {'output_type': 'execute_result'})
  notebook['metadata']['stored_of'] = digest(notebook)


def digest(notebook: dict[str, Any]) -> str:
  """Returns the SHA-256 of all code cells, by which it is known whether outputs are theirs."""
  sources = [cell['source'] for cell in _code_of(notebook)]
  return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _code_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
  return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']


def _anonymous(text: str) -> str:
  """Returns a text without folders of this machine, times of day and the progress of commands."""
  for place, name in ((os.getcwd(), '.'), (sys.prefix, 'PYTHON'), (str(Path.home()), '~')):
    text = text.replace(place, name)
  text = re.sub(r'^.*: \d+ of \d+.* \[\d\d:\d\d.*\n', '', text, flags=re.M)
  return re.sub(r', at \d\d:\d\d\b', '', text)


def _reduce(kind: str, content: str) -> tuple[str, Any]:
  """Returns the MIME type and the content under which an output is stored."""
  if kind == 'image/png':
    content = _reduce_colours(content)
  page = kind == 'text/html'
  if len(content) > (LARGEST // 3 if page else LARGEST):
    what = 'a page' if page else 'a picture'
    return 'text/plain', [f'({what} of {len(content) / 1e6:.1f} MB: run the cell to see it)']
  return kind, content if kind == 'image/png' else _anonymous(content).splitlines(keepends=True)


def _reduce_colours(content: str) -> str:
  """Returns a PNG, as base64, with few colours."""
  from PIL import Image

  small = io.BytesIO()
  with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
    few = picture.convert('RGB').quantize(_COLOURS, dither=Image.Dither.NONE)
  few.save(small, format='PNG', optimize=True)
  return base64.b64encode(small.getvalue()).decode('ascii')


def _run(source: str, name: str, names: dict[str, Any]) -> Any:
  """Runs a cell; the value of its last line, if that has one."""
  tree = ast.parse(source, filename=name)
  if not tree.body or not isinstance(last := tree.body.pop(), ast.Expr):
    exec(compile(source, name, 'exec'), names)
    return None
  exec(compile(tree, name, 'exec'), names)
  return eval(compile(ast.Expression(last.value), name, 'eval'), names)


def main() -> int:
  """The command."""
  parser = argparse.ArgumentParser()
  parser.add_argument('notebook', type=Path)
  parser.add_argument('--result', type=Path)
  parser.add_argument('--store', action='store_true', help='write the outputs into the notebook')
  parser.add_argument('--values', type=ast.literal_eval, default={}, help='a dictionary in Python')
  parser.add_argument('--without', action='append', default=[], help='a tag')
  parser.add_argument('--until', default='', help='the id of a cell')
  asked = parser.parse_args()
  if asked.store and (asked.values or asked.without or asked.until):
    parser.error('--store is of a notebook as it stands: leave out the other options')
  # The notebook changes the folder; files named from here must still be found at the end.
  place, result = asked.notebook.absolute(), asked.result and asked.result.absolute()
  notebook = json.loads(place.read_text(encoding='utf-8'))
  outputs, stopped_at = run_all(
    notebook['cells'], asked.values, without=asked.without, until=asked.until
  )
  if result:
    shown = {name: shown for name, (_, shown) in outputs.items() if shown}
    content = {'shown': shown, 'stopped_at': stopped_at, 'folder': os.getcwd()}
    result.write_text(json.dumps(content), encoding='utf-8')
  if asked.store and not stopped_at:
    store(notebook, outputs)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'
    place.write_text(text, encoding='utf-8')
  return 1 if stopped_at else 0


if __name__ == '__main__':
  raise SystemExit(main())
