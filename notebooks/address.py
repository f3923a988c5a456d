"""Writes the project's address into all notebooks: `python -m notebooks.address`.

It stands in pyproject.toml. A notebook that was opened on Colab has no other file of the project,
and gets the rest from there.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_GITHUB = 'https://github.com/'
_BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
_OPEN = 'https://colab.research.google.com/github/'
_LINE = re.compile(r"ADDRESS = '[^']*'")


def find() -> str:
  """Returns the address of the project's git repository."""
  with (FOLDER.parent / 'pyproject.toml').open('rb') as file:
    return tomllib.load(file)['project']['urls']['Repository']


def insert(notebook: dict[str, Any], name: str, address: str) -> None:
  """Sets the address in the cell that gets the project, and in the badge above the title.

  Args:
    notebook: Content of a notebook, which is changed; its first cell begins with the badge.
    name: Name of its file.
    address: Address of a git repository; Colab opens notebooks of GitHub alone.
  """
  if not address.startswith(_GITHUB):
    raise ValueError(f'{address}: Colab opens notebooks of {_GITHUB} alone')
  place = f'{address.removeprefix(_GITHUB)}/blob/main/notebooks/{name}'
  notebook['cells'][0]['source'][0] = f'[![Open in Colab]({_BADGE})]({_OPEN}{place})\n'
  for cell in notebook['cells']:
    if cell['cell_type'] == 'code':
      cell['source'] = [_LINE.sub(f"ADDRESS = '{address}'", line) for line in cell['source']]


def write(path: Path, notebook: dict[str, Any]) -> None:
  """Writes a notebook as Jupyter does."""
  path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def main() -> None:
  """The command."""
  for path in sorted(FOLDER.glob('*.ipynb')):
    notebook = json.loads(path.read_text(encoding='utf-8'))
    insert(notebook, path.name, find())
    write(path, notebook)


if __name__ == '__main__':
  main()
