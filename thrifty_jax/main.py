"""From raw scans to a report: `python -m thrifty_jax.main --config=configs/brain.py`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from thrifty_jax import config as configs
from thrifty_jax import stages, stopping
from thrifty_jax.running import command_line, sequence
from thrifty_jax.stages import Stage


def _list(listed: Sequence[Stage]) -> str:
  """Lists the stages for the help, one per line."""
  return '\n'.join(f'      {stage.name:<8}  {stage.does}' for stage in listed)


USAGE = f"""\
usage: thrifty-jax run --config=NAME[:VARIANT,...] [options]
   or: python -m thrifty_jax.main, the same

Searches a small segmentation network for your scans, trains it from scratch, scores it on patients
it never saw, and writes a report. The same command goes on where it stopped.

  --config=NAME[:VARIANT,...]  what comes with this: {', '.join(configs.NAMES)};
                               or a file like those in configs/; after a colon, its variants:
                               for example brain  promise12:small,unet  configs/promise12.py:unet
      small                    sizes for a laptop's CPU
      paper                    the authors' settings (chaos and promise12)
      lean                     race lean networks for a budget of milliseconds (folder does)
      thrifty                  search cells as the paper does (the others do)
      unoriented               of folder: all flips and quarter turns
      unet, unet_plus_plus     train a baseline instead; nothing is searched
      batch                    batch norms for cells and baselines, as lean networks have them
  --config.FIELD=VALUE         sets one field: --config.search.epochs=30, --config.device=cpu
                               all fields: docs/settings.md, or python -m thrifty_jax.settings
  --workdir=FOLDER             where the run is kept (default: runs/<name of the config file>)
  --folds=all | 0,2,...        these folds one after another, each in WORKDIR/fold_<n>; WORKDIR has
                               their scores as one set of patients
  --stage=STAGE                all (default: what is not done yet, in this order), or one of
{_list(stages.STAGES)}
                               or, only when named,
{_list(stages.NAMED)}

In the workdir: check.html, config.json, environment.json, data.json (where the prepared slices lie:
in $TFDS_DATA_DIR or ~/tensorflow_datasets), splits.json (who trains, validates and tests; one of
yours counts), search/, retrain/, model/ (the network, ready to use), evaluate/ (scores.csv,
summary.json) and report.html.

Exit status: 0 done, 2 bad input or usage, 1 a fault. Research use only, not a medical device.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> int | None:
  """Parses the command and runs its stages."""
  command = command_line.parse(arguments, stages=sequence.NAMES)
  return sequence.run(command, f'{_program()} {shlex.join(arguments)}')


def _program() -> str:
  """Returns how this command was called, as a person types it."""
  called = Path(sys.argv[0])
  if called.stem == 'thrifty-jax':
    return 'thrifty-jax run'
  if called.parts[-2:] == ('thrifty_jax', '__main__.py'):
    return 'python -m thrifty_jax run'
  return 'python -m thrifty_jax.main'


if __name__ == '__main__':
  stopping.leave(main())
