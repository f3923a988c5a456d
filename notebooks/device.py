"""Which device the commands would get: `python -m notebooks.device tpu`.

Prints what there is, and ends with status 2 where it is not what is expected. A process of its own,
as a TPU serves one at a time: a notebook that started JAX itself would keep it from the commands.
"""

import sys

from thrifty_jax import config as configs
from thrifty_jax import device
from thrifty_jax.running import command_line


def main() -> int:
  """Looks for the device that is named, as `--config.device` names it."""

  def look() -> None:
    config = configs.default()
    config.device = sys.argv[1]
    configs.validate(config)
    device.prepare(config)
    print('device:', device.describe())

  return command_line.exit_status(look)


if __name__ == '__main__':
  sys.exit(main())
