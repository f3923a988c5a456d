"""How to install the packages that only some commands need."""

from pathlib import Path


def how_to_install(*extras: str) -> str:
  """Returns the command that installs extras: from their files in a checkout, else by name."""
  project = Path(__file__).parents[1]
  names = [f'requirements-{extra}.txt' for extra in extras]
  if all((project / name).is_file() for name in names):
    return ' '.join(['pip install', *(f'-r {name}' for name in names)])
  return f'pip install "thrifty_jax[{",".join(extras)}]"'
