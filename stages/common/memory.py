"""How the C library manages this process's memory."""

from __future__ import annotations

import os
import sys

#: mallopt's numbers for them, and the values: no block is mapped by itself, up to 2 GB at the top are kept, and all
#: threads share them, or each would keep its own.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_KEPT = 2**31 - 1
#: Setting, its value, and the variables by one of which a person has decided it. GLIBC_TUNABLES has the same names.
_SETTINGS = (
    (_M_MMAP_MAX, 0, ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")),
    (_M_ARENA_MAX, 1, ("MALLOC_ARENA_MAX",)),
    (_M_TRIM_THRESHOLD, _KEPT, ("MALLOC_TRIM_THRESHOLD_",)),
)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that is freed, for the next tensor of the size; elsewhere nothing is done.

    By itself it maps each large block anew and hands it back when it is freed. Networks on a CPU free one every
    millisecond, and the kernel then fills a page of zeros for each 4 kB: a fifth of the time of `vidseg run`.
    What a person has set by a variable of glibc's stays.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    for setting, value, variables in _SETTINGS:
        if not any(map(_is_set, variables)):
            mallopt(setting, value)


def _is_set(variable: str) -> bool:
    """Whether a setting of glibc's is decided by its variable, or in `GLIBC_TUNABLES`: glibc.malloc.mmap_max=..."""
    tunable = variable.removesuffix("_").lower().replace("malloc_", "glibc.malloc.")
    return variable in os.environ or f"{tunable}=" in os.environ.get("GLIBC_TUNABLES", "")
