"""Shares a model: `python -m thrifty_jax.push --model=DIR --to=OWNER/NAME`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import thrifty_jax
from thrifty_jax import hub
from thrifty_jax.errors import InputError
from thrifty_jax.logbook import say
from thrifty_jax.running import command_line

USAGE = f"""\
usage: thrifty-jax push --model=FOLDER --to=OWNER/NAME [options]
   or: python -m thrifty_jax.push, the same

Makes a trained model a repository of the Hugging Face Hub, from which
thrifty-jax predict --model=hf://OWNER/NAME takes it. It sends the weights, the genotype, what the
network expects, the scores of the test patients and a card: no scan, no name of a patient, no path.

  --model=FOLDER       a model folder, or a run (its model/)
  --to=OWNER/NAME      the repository, which is made if it is missing
  --private            only you and those you name can read it
  --export=FOLDER      also the network for programs without JAX, as thrifty-jax export wrote it
  --license=LICENSE    of the weights, as the Hub names it, such as cc-by-4.0; without it the card
                       says that the terms of the training data decide
  --revision=BRANCH    a branch (default: main), which is made if it is missing
  --dry_run            list what would be sent, and send nothing

It needs the packages of thrifty_jax[hub], and a token that may write: hf auth login, or HF_TOKEN.

Exit status: 0 done, 2 bad input or usage, or the Hub refused or cannot be reached, 1 a fault.
{thrifty_jax.RESEARCH_USE}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status; None uses the arguments of the process."""
  return command_line.start(argv, USAGE, run)


def run(arguments: Sequence[str]) -> None:
  """Parses the command; lists and sends the files."""
  values = command_line.read(
    arguments, USAGE, required={'model': 'runs/brain/model', 'to': 'OWNER/NAME'}
  )
  if not hub.is_repository(values.to):
    raise InputError(f'--to={values.to}: expected OWNER/NAME; a branch is --revision=BRANCH')
  place = hub.Place(values.to, values.revision or None)
  hub.require_package('thrifty-jax push')
  if not values.dry_run:
    hub.require_token()
  # JAX takes a second to import, so mistakes in the command are reported first.
  from thrifty_jax.predicting import segment
  from thrifty_jax.sharing import package

  folder = segment.find_model(values.model, 'model')
  export = Path(values.export) if values.export else None
  contents = package.collect(folder, place=place, export=export, licence=values.license)
  say(f'thrifty_jax {thrifty_jax.__version__}  research use only, not a medical device')
  say('to', f'{place}{", private" if values.private else ""}')
  for name, content in contents.items():
    say('', f'{len(content):>12,} bytes  {name}')
  if values.dry_run:
    say('dry run', 'nothing was sent')
    return
  say('sent', hub.send(place, contents, private=values.private, message=_describe(contents)))
  say('use', f'thrifty-jax predict --model={place} --input=SCANS --output=MASKS')


def _describe(contents: dict[str, bytes]) -> str:
  """Returns the message of the commit."""
  exported = any(name.startswith(f'{hub.EXPORT}/') for name in contents)
  return f'Model by thrifty_jax {thrifty_jax.__version__}{" with its export" if exported else ""}'


if __name__ == '__main__':
  sys.exit(main())
