"""Jobs for the executors of a race instead of trainings; this module is light to import."""

import dataclasses
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from thrifty_jax import lock, stopping
from thrifty_jax.errors import InputError
from thrifty_jax.racing import executors

STEPS = 6


@dataclasses.dataclass(frozen=True)
class Stand:
  """A job in a folder; a race's jobs have this field too."""

  place: str


def read(place: Path, name: str) -> list[int]:
  """Returns the numbers in a file of a job's folder; [] if there is none."""
  path = place / name
  return [*map(int, path.read_text().split())] if path.exists() else []


def wait_for(place: Path, name: str, seconds: float = 60) -> int:
  """Waits until a job has written a whole line to a file, and returns the first number in it."""
  ends = time.monotonic() + seconds
  while time.monotonic() < ends:
    if (place / name).exists() and '\n' in (place / name).read_text():
      return read(place, name)[0]
    time.sleep(0.02)
  raise TimeoutError(place / name)


def _write(job: Stand, name: str, number: int) -> None:
  place = Path(job.place)
  place.mkdir(parents=True, exist_ok=True)
  with (place / name).open('a') as file:
    file.write(f'{number}\n')


def save_once_asked(job: Stand) -> None:
  """Works until it is asked to stop, in steps of C++'s kind that no signal interrupts."""
  with stopping.handle(), stopping.defer():
    executors.refuse_to_begin()
    _write(job, 'cores', len(os.sched_getaffinity(0)))
    _write(job, 'core', min(os.sched_getaffinity(0)))
    _write(job, 'begun', os.getpid())
    ends = time.monotonic() + 60
    while not stopping.requested():
      assert time.monotonic() < ends, 'nothing asked it to stop'
      hashlib.pbkdf2_hmac('sha256', b'1', b'2', 1_500_000)  # above half a second
    _write(job, 'saved', os.getpid())
  raise stopping.Stopped(stopping.requested())


def refuse(job: Stand) -> None:
  """Meets bad input."""
  raise InputError(f'{job.place}: is bad')


def end_by_itself(job: Stand) -> None:
  """Ends its process, as the system does where memory runs out."""
  os.kill(os.getpid(), signal.SIGKILL)


def go_on(job: Stand) -> None:
  """Takes STEPS steps, goes on after those that are done, and leaves their sum."""
  sums = read(Path(job.place), 'sums')
  total = sums[-1] if sums else 0
  for number in range(len(sums), STEPS):
    total = 31 * total + number + len(Path(job.place).name)
    _write(job, 'sums', total)
    _write(job, 'process', os.getpid())
    time.sleep(0.2)


def go_on_alone(job: Stand) -> None:
  """Goes on as a training does: as the only one in its folder."""
  with lock.hold(Path(job.place), wait=True):
    go_on(job)


if __name__ == '__main__':  # a race whose process is killed
  from thrifty_jax import config as configs

  with executors.start(configs.default(), 2) as executor:
    for found in [executor.submit(save_once_asked, Stand(place)) for place in sys.argv[1:]]:
      found.result()
