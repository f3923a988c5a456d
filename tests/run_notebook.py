"""Runs a notebook as *Run all* does, in this process and without Jupyter.

  python tests/run_notebook.py notebooks/quickstart.ipynb --result=FILE --values='{"RUN": "runs/a"}'

The cells are plain Python. The values stand for those of the cell with the tag `parameters`. An
exception ends it, with status 1, as it ends *Run all*. The result, JSON, has what cells showed, the
HTML of their last values by their ids, and the id of the cell that raised, or ''.
"""

import argparse
import ast
import json
import traceback
from pathlib import Path
from typing import Any


def run_all(
  cells: list[dict[str, Any]],
  values: dict[str, Any],
  *,
  without: tuple[str, ...] = (),
  until: str = '',
) -> tuple[dict[str, str], str]:
  """Runs the cells in one namespace.

  Args:
    cells: Of the notebook.
    values: Of parameters, by their names.
    without: Tags of cells that are left out.
    until: The id of the last cell that is run; '' runs all.

  Returns:
    What was shown, by the ids of the cells; and the id of the cell that raised, or ''.
  """
  shown, names = {}, {'__name__': '__main__'}
  for cell in cells:
    tags = cell['metadata'].get('tags', [])
    if cell['cell_type'] != 'code' or {*tags} & {*without}:
      continue
    try:
      last = _run(''.join(cell['source']), cell['id'], names)
    except BaseException:
      traceback.print_exc()
      return shown, cell['id']
    if 'parameters' in tags:
      if unknown := values.keys() - names.keys():
        raise KeyError(f'{sorted(unknown)} are no parameters')
      names |= values
    if hasattr(last, '_repr_html_'):
      shown[cell['id']] = last._repr_html_()
    if cell['id'] == until:
      break
  return shown, ''


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
  parser.add_argument('--result', type=Path, required=True)
  parser.add_argument('--values', type=json.loads, default={}, help='a JSON object')
  parser.add_argument('--without', action='append', default=[], help='a tag')
  parser.add_argument('--until', default='', help='the id of a cell')
  asked = parser.parse_args()
  cells = json.loads(asked.notebook.read_text(encoding='utf-8'))['cells']
  # The notebook changes the folder; a file named from here must still be found at the end.
  result = asked.result.absolute()
  without = tuple(asked.without)
  shown, stopped_at = run_all(cells, asked.values, without=without, until=asked.until)
  result.write_text(json.dumps({'shown': shown, 'stopped_at': stopped_at}), encoding='utf-8')
  return 1 if stopped_at else 0


if __name__ == '__main__':
  raise SystemExit(main())
