"""Work that goes on in other threads while its results are used: in order, so many at a time, and none left behind.

Reading, compressing, drawing and encoding leave Python's lock while they compute, so that two of them take the time
of one. Waiting threads sleep. Who may stop early closes the iterator (`contextlib.closing`): after an error, its
traceback would keep it, and with it the threads, until after files have been cleared away.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

#: More threads than this gain little, and each holds a frame.
MOST_THREADS = 4


def ahead(items: Iterable[Made], most: int = 2) -> Generator[Made, None, None]:
    """The items, made one after the other by a thread that is up to `most` items ahead.

    What making one raises is raised where it would be used. Who stops early, or is interrupted, does not wait for the
    item that is being made: the thread is stopped as Ctrl-C stops Python, between two steps. The iterator is closed
    then, if it can be.
    """
    source = iter(items)
    room, stopped = threading.Semaphore(most), threading.Event()
    made: SimpleQueue[Made | _Ended] = SimpleQueue()

    def make() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                made.put(next(source))
        except StopIteration:
            made.put(_Ended(None))
        except BaseException as error:
            made.put(_Ended(error))

    # A daemon: a second interruption, while the first waits below for a call of a library, ends the process.
    thread = threading.Thread(target=make, name="ahead", daemon=True)
    finished = False
    try:
        thread.start()
        while True:
            item = made.get()
            if isinstance(item, _Ended):
                finished = True
                break
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()
        if thread.ident is not None:
            if not finished and thread.is_alive():
                _stop(thread.ident)
            thread.join()
        if hasattr(source, "close"):
            source.close()


class _Ended:
    """There are no more items; `error` says why, if it was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _stop(thread: int) -> None:
    """Raise SystemExit in a thread, wherever its Python code is: it ends without a word."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))


def mapped(work: Callable[[Given], Made], given: Iterable[Given]) -> Generator[Made, None, None]:
    """What `work` makes of each, in order; on as many threads as there are cores, within `MOST_THREADS`.

    Beside the result that is used, one for each thread is held at most. `work` may be called for several at the same
    time; what it raises is raised where the result would be used. Who stops early waits for those that are being made:
    they may be files.
    """
    threads = min(cores(), MOST_THREADS)
    waiting: deque[Future[Made]] = deque()
    coming = iter(given)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            waiting.extend(pool.submit(work, one) for one in islice(coming, threads))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(work, one) for one in islice(coming, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


def cores() -> int:
    """How many this process may use: those that the system gives it, or `OMP_NUM_THREADS`, if that is fewer."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number for each level of nesting
    return min(there, int(asked)) if asked.isdecimal() and int(asked) > 0 else there
