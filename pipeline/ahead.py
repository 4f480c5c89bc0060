"""Work that goes on in other threads while its results are used: in order, so many at a time, and none left behind.

Reading, compressing, drawing and encoding leave Python's lock while they compute, so that two of them take the time
of one. Waiting threads sleep.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice, repeat
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

#: More threads than this gain little, and each holds a frame.
MOST_THREADS = 4
_END = object()


def ahead(items: Iterable[Made], most: int = 2) -> Iterator[Made]:
    """The items, made one after the other by a thread that is up to `most` items ahead.

    What making one raises is raised where it would be used. Who stops early waits for the item that is being made; the
    iterator is closed then, if it can be.
    """
    source = iter(items)
    made = _in_order(repeat(partial(next, source, _END)), threads=1, most=most)
    try:
        for item in made:
            if item is _END:
                break
            yield item
    finally:
        made.close()
        if hasattr(source, "close"):
            source.close()


def mapped(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """What `work` makes of each, in order; on as many threads as there are cores, within `MOST_THREADS`.

    Two results for each thread are held at most. `work` may be called for several at the same time; what it raises is
    raised where the result would be used. Who stops early waits for those that are being made.
    """
    threads = min(cores(), MOST_THREADS)
    yield from _in_order((partial(work, one) for one in given), threads, most=2 * threads)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(calls: Iterable[Callable[[], Made]], threads: int, most: int) -> Generator[Made, None, None]:
    """What the calls give, in order, of which up to `most` are made before they are asked for."""
    waiting: deque[Future[Made]] = deque()
    coming = iter(calls)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            waiting.extend(pool.submit(call) for call in islice(coming, most))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(call) for call in islice(coming, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()
