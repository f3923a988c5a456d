"""One run by several processes: the first runs the command, the others train with it.

The first process runs the command as if it were alone. When it trains it calls the others, which do
the same steps and write a stage's files to a temporary folder. They wait between trainings.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from thrifty_jax import config as configs
from thrifty_jax import device, files, jax_internals, logbook, stopping
from thrifty_jax.data import mesh
from thrifty_jax.errors import NotFinite
from thrifty_jax.running import command_line
from thrifty_jax.searching.search import search
from thrifty_jax.settings import SETTINGS
from thrifty_jax.training import hosts
from thrifty_jax.training.retrain import retrain

_TRAIN = {'search': search, 'retrain': retrain}


def run(config: ConfigDict, lead: Callable[[], None]) -> int:
  """Joins the other processes, runs the command with them and returns the exit status.

  The first process does `lead`. The status is the same in every process if they end together.
  """
  mesh.start(config)

  def work() -> int | None:
    device.prepare(config)
    return lead() if hosts.is_first() else _follow(config)

  status = command_line.exit_status(work)  # it handles SIGTERM again, which JAX has taken over
  hosts.leave(status)
  return status


def _follow(config: ConfigDict) -> int:
  """Trains with the first process until it ends the run; returns its exit status."""
  mine = jax_internals.process_index()
  logbook.say(f'process {mine} trains with process 0, which prints the progress')
  try:
    with stopping.defer():
      while True:
        told = hosts.share_first()
        # The first process reports what all meet together: a non-finite loss or a signal.
        with contextlib.suppress(NotFinite, stopping.Stopped):
          _train(config, **told)
  except hosts.Ended as ended:
    return ended.status
  except BaseException as error:
    hosts.announce_end(2, str(error) or type(error).__name__)
    raise


def _train(own: ConfigDict, *, stage: str, config: dict[str, Any], texts: dict[str, str]) -> None:
  """Runs a training that the first process has called, with its config but own fields."""
  settings = own.copy_and_resolve_references()
  fields = {
    name: value
    for name, value in configs.flatten(configs.from_json(config)).items()
    if not SETTINGS[name].own
  }
  settings.update_from_flattened_dict(fields)
  settings.genotype = ''  # it is among the texts
  with tempfile.TemporaryDirectory() as name, open(os.devnull, 'w') as nowhere:
    folder = Path(name)
    for path, text in texts.items():
      files.write_text(folder / path, text)
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
      _TRAIN[stage](settings, folder)
