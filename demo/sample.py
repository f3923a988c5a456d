"""A scan that lies beside the page, once the page's own reader could open it."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from thrifty_jax.errors import InputError

_SCRIPT = 'check_sample.js'  # not part of the page


def find(place: Path) -> list[Path]:
  """Finds the files of a sample: itself, or those of a folder but for hidden ones.

  Raises:
    InputError: If there is none.
  """
  if place.is_file():
    return [place]
  found = sorted(place.iterdir()) if place.is_dir() else []
  found = [path for path in found if path.is_file() and not path.name.startswith('.')]
  if not found:
    raise InputError(
      f'--sample={place}: no such file, and no folder with files; expected a scan as the page '
      'reads it, or the folder of a DICOM series'
    )
  return found


def require_readable(place: Path, page: Mapping[str, bytes]) -> None:
  """Refuses a sample that the page, of these contents by file name, cannot read for its network.

  Node.js runs the page's own reader.
  """
  node = shutil.which('node')
  if not node:
    raise InputError(
      f'--sample={place}: Node.js, in which the page looks at it, is not installed; install it, or '
      'leave out --sample'
    )
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for path, content in page.items():
      (folder / path).parent.mkdir(exist_ok=True)
      (folder / path).write_bytes(content)
    (folder / _SCRIPT).write_bytes(Path(__file__).with_name(_SCRIPT).read_bytes())
    (folder / 'package.json').write_text('{"type": "module"}')  # or .js may be something else
    paths = [str(path.resolve()) for path in find(place)]
    ended = subprocess.run(
      [node, folder / _SCRIPT],
      input=json.dumps(paths),
      capture_output=True,
      text=True,
      check=False,
      cwd=folder,
    )
  *_, answer = ended.stdout.strip().splitlines() or ['']  # GDCM may print before
  problem = json.loads(answer) if answer and not ended.returncode else f'{ended.stderr:.200}'
  if problem:
    raise InputError(f'--sample={place}: the page cannot read it: {" ".join(problem.split())}')
