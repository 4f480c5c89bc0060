"""How the C library manages this process's memory."""

from __future__ import annotations

import os
import sys

#: mallopt's numbers for them, and the values: no block is mapped by itself, up to 2 GB at the top are kept, and all
#: threads share them, or each would keep its own.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_KEPT = 2**31 - 1
#: A person who sets one of these has decided.
_SETTINGS = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that is freed, for the next tensor of the size; elsewhere nothing is done.

    By itself it maps each large block anew and hands it back when it is freed. Networks on a CPU free one every
    millisecond, and the kernel then fills a page of zeros for each 4 kB: a fifth of the time of `vidseg run`.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _SETTINGS):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
