"""Checks which device the commands get: `python -m notebooks.device tpu`.

Prints the devices, and ends with status 2 if they are not the expected ones. It is a process of its
own, as a TPU serves one at a time: a notebook that started JAX itself would block the commands.
"""

import sys

from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.running import command_line


def main() -> int:
  """Looks for the device of the argument, named as in `--config.device`."""

  def look() -> None:
    config = configs.default()
    config.device = sys.argv[1]
    configs.validate(config)
    device.prepare(config)
    print('device:', device.describe())

  return command_line.exit_status(look)


if __name__ == '__main__':
  sys.exit(main())
