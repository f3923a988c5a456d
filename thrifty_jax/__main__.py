"""All commands in one: `thrifty-jax run --config=brain`, or `python -m thrifty_jax run ...`."""

import importlib
import re
import sys
from collections.abc import Sequence

import thrifty_jax
from thrifty_jax import stopping
from thrifty_jax.errors import InputError
from thrifty_jax.running import command_line

# Module of each command, which has a `main` and its help in USAGE; what it does, in a line.
COMMANDS = {
  'run': ('thrifty_jax.main', 'from scans with masks to a trained network and a report'),
  'predict': ('thrifty_jax.predict', 'masks of scans by a trained network'),
  'evaluate': ('thrifty_jax.evaluate', 'scores of masks, of any program, by truths'),
  'export': ('thrifty_jax.export', 'a trained network for programs without JAX'),
  'push': ('thrifty_jax.push', 'a trained network on the Hugging Face Hub'),
  'draw': ('thrifty_jax.draw', 'a searched network as a picture'),
  'cost': ('thrifty_jax.cost.__main__', 'milliseconds of networks on this processor'),
}
LINES = '\n'.join(f'  {name:<11}{does}' for name, (_, does) in COMMANDS.items())
USAGE = f"""\
usage: thrifty-jax COMMAND [options]
   or: python -m thrifty_jax COMMAND [options]

{LINES}
  completion print what completes these words in bash and zsh:
             eval "$(thrifty-jax completion)"

thrifty-jax COMMAND --help lists the options of a command, thrifty-jax --version is this release.
{thrifty_jax.RESEARCH_USE}
"""
# The shell takes what follows a = for a word of its own, and completes files there.
_COMPLETION = """\
[ -n "${{ZSH_VERSION-}}" ] && autoload -Uz bashcompinit && bashcompinit
_thrifty_jax() {{
  local words="{names}"
  [ "$COMP_CWORD" -gt 1 ] && case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -o nospace -F _thrifty_jax thrifty-jax
"""


def start() -> None:
  """Runs the command of the process and ends it with its exit status."""
  stopping.leave(main())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command and returns its exit status; None uses the arguments of the process."""
  name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ['--help']
  if name in COMMANDS:
    return importlib.import_module(COMMANDS[name][0]).main(arguments)
  return command_line.start([name, *arguments], USAGE, _answer)


def _answer(arguments: Sequence[str]) -> None:
  """Prints the version or the completion; anything else is no command."""
  match arguments:
    case ['--version']:
      print(thrifty_jax.__version__)
    case ['completion']:
      print(complete(), end='')
    case ['--version' | 'completion' as name, *_]:
      raise InputError(f'{name} takes no options')
    case [name, *_]:
      names = [*COMMANDS, 'completion']
      near = command_line.nearest(name, names)
      raise InputError(f'{name!r:.80} is no command; the commands are {", ".join(names)}{near}')


def complete() -> str:
  """Returns the lines of a shell that complete the commands and their options."""
  cases = []
  for name, (module, _) in COMMANDS.items():
    usage = importlib.import_module(module).USAGE
    options = ' '.join(dict.fromkeys(re.findall(r'^  (--[\w.]+=?)', usage, re.MULTILINE)))
    cases.append(f'    {name}) words="{options} --help" ;;')
  names = ' '.join([*COMMANDS, 'completion', '--help', '--version'])
  return _COMPLETION.format(names=names, cases='\n'.join(cases))


if __name__ == '__main__':
  start()
