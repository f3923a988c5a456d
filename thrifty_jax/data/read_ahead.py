"""A thread that computes items ahead of their use."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any


def read_ahead(items: Iterable[Any], *, depth: int) -> Generator[Any]:
  """Yields the same items, computed by a thread at most `depth` items ahead; 0 uses no thread.

  An exception of the thread is raised here in place of its item. When the consumer stops early, the
  thread ends before this generator does.
  """
  if depth < 1:
    yield from items
    return
  made: queue.Queue = queue.Queue(maxsize=depth)
  stop = threading.Event()

  def put(entry: tuple[str, Any]) -> None:
    # Once stop is set, at most one entry is still put: the emptied queue always has room for it.
    if not stop.is_set():
      made.put(entry)

  def work() -> None:
    try:
      for item in items:
        if stop.is_set():
          return
        put(('item', item))
      put(('end', None))
    except BaseException as error:  # The consumer must see it, whatever it is.
      put(('error', error))

  thread = threading.Thread(target=work, name='read_ahead', daemon=True)
  thread.start()
  try:
    while True:
      kind, value = made.get()
      if kind == 'end':
        return
      if kind == 'error':
        raise value
      yield value
  finally:
    stop.set()
    while not made.empty():
      made.get_nowait()
    thread.join()
