"""Functions for notebook cells: commands that stop the notebook if they fail, and pictures.

Only the standard library is used, as this is imported before anything is installed.
"""

import base64
import dataclasses
import html
import importlib.metadata
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

SHOWN = ('jax', 'jaxlib', 'flax', 'numpy')  # versions that a notebook may come with
_SVG = 'image/svg+xml'
_COLOURS = (  # of a report's page in light
  'background: #fdfdfc; --ink: #1d2126; --muted: #656c75; --line: #dddfe2; --accent: #1f6fb2; '
  '--second: #b9772a; --font: system-ui, sans-serif'
)


def run(module: str, *arguments: str) -> None:
  """Runs `python -m MODULE ARGUMENTS` in a process of its own and shows its output.

  The button that stops a cell asks the process to save its state and end, and waits for that.

  Args:
    module: Name of a module that is a program: 'pip', 'thrifty_jax.main'.
    *arguments: Options of the program, one each.

  Raises:
    RuntimeError: If its exit status is not 0. After a failed `!command` the next cells would run.
  """
  print('$', shlex.join(['python', '-m', module, *arguments]), flush=True)
  with subprocess.Popen(
    [sys.executable, '-m', module, *arguments],
    env=_environment(),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    encoding='utf-8',
    errors='replace',
    start_new_session=True,  # else the button signals it as well, and a second signal kills it
  ) as process:
    assert process.stdout
    try:
      _show_lines(process.stdout)
    except KeyboardInterrupt:
      process.send_signal(signal.SIGINT)
      _show_lines(process.stdout)
      raise
  if process.returncode:
    raise RuntimeError(f'{module} ended with status {process.returncode}; its last lines say why')


def install(*arguments: str) -> None:
  """Runs `pip install ARGUMENTS` and shows the resulting versions.

  Raises:
    RuntimeError: If it fails, or replaced the JAX that came with the notebook, which is the one
      for its GPU or TPU.
  """
  before = versions()
  run('pip', 'install', '--quiet', '--disable-pip-version-check', *arguments)
  after = versions()
  for name in SHOWN:
    print(f'{name:<8}{before.get(name, "not installed"):<16}-> {after.get(name, "not installed")}')
  require_same_jax(before, after)


def require_same_jax(before: Mapping[str, str], after: Mapping[str, str]) -> None:
  """Refuses another JAX than the previous one.

  Args:
    before: Versions by name before the installation; without JAX any version is accepted.
    after: Versions by name after it.
  """
  changed = [name for name in ('jax', 'jaxlib') if name in before and before[name] != after[name]]
  if changed:
    raise RuntimeError(
      f'pip replaced {" and ".join(changed)}, which came with this machine and fits its '
      'accelerator: start again on a new one, and see which requirement asked for it'
    )


def versions() -> dict[str, str]:
  """Returns the versions of the installed packages of SHOWN, as a new process finds them."""
  importlib.invalidate_caches()
  found = {}
  for name in SHOWN:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


@dataclasses.dataclass(frozen=True)
class Shown:
  """What a notebook shows if it is the last value of a cell, by its MIME type."""

  content: Mapping[str, str] = dataclasses.field(repr=False)  # megabytes, wanted only once

  def _repr_mimebundle_(self, **_: object) -> Mapping[str, str]:
    return self.content


def show(what: str | os.PathLike[str], *, height: int = 800) -> Shown:
  """Returns a page or picture to show below the cell, embedded in the notebook.

  Args:
    what: File .html, .svg or .png; or a picture of a report, '<svg ...', in which the colours of
      the report's page are put.
    height: Height of a page, in pixels.
  """
  if str(what).startswith('<svg'):
    return Shown({_SVG: str(what).replace('<svg', f'<svg style="{_COLOURS}"', 1)})
  path = Path(what)
  if path.suffix == '.html':
    page = html.escape(path.read_text(encoding='utf-8'))
    # A frame of its own, as the style of the page must not affect the notebook.
    frame = f'<iframe srcdoc="{page}" width="100%" height="{height}" frameborder="0"></iframe>'
    return Shown({'text/html': f'<div>{frame}</div>'})
  if path.suffix == '.svg':
    return Shown({_SVG: path.read_text(encoding='utf-8')})
  return Shown({'image/png': base64.b64encode(path.read_bytes()).decode('ascii')})


def _environment() -> dict[str, str]:
  """Returns this process's environment with unbuffered output and no notebook backend."""
  environment = os.environ | {'PYTHONUNBUFFERED': '1', 'PYTHONIOENCODING': 'utf-8'}
  environment.pop('MPLBACKEND', None)
  return environment


def _show_lines(lines: Iterable[str]) -> None:
  for line in lines:
    print(line, end='', flush=True)
