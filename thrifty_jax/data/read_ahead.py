"""Items computed ahead of their use."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def read_ahead(items: Iterable[Any], *, depth: int) -> Generator[Any]:
  """Yields the same items, computed by a thread at most `depth` items ahead; 0 uses no thread.

  An exception of the thread is raised here in place of its item. When the consumer stops early, the
  thread ends before this generator does.
  """
  if depth < 1:
    yield from items
    return
  iterator, end = iter(items), object()
  thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='read_ahead')
  try:
    made = deque(thread.submit(next, iterator, end) for _ in range(depth))
    while (item := made.popleft().result()) is not end:
      made.append(thread.submit(next, iterator, end))
      yield item
  finally:
    thread.shutdown(cancel_futures=True)
