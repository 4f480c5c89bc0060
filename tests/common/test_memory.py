"""stages/common/memory.py, in a process of its own: what it sets cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stages.common import memory

#: Page faults of filling 32 MB five times; a page has 4 kB or more.
FILL = """
import ctypes, resource
from stages.common.memory import keep_freed_memory
keep_freed_memory()
for _ in range(6):
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.create_string_buffer(2**25)
    ctypes.memset(block, 1, 2**25)
    del block
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun
print(faults)
"""


#: How many arenas three threads use that allocate one after the other, all alive.
SHARE = """
import ctypes, threading
from stages.common.memory import keep_freed_memory
keep_freed_memory()
libc, done = ctypes.CDLL(None), threading.Event()
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
for _ in range(3):
    begun = threading.Event()
    threading.Thread(target=lambda: (libc.malloc(1000), begun.set(), done.wait())).start()
    begun.wait()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
done.set()
"""


def printed(script: str, settings: dict[str, str]) -> str:
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=unset | settings, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),  # many images of containers set it
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.pthread.rseq=0"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}, False),
        ({"MALLOC_MMAP_MAX_": "100"}, False),
        ({"MALLOC_MMAP_THRESHOLD_": "65536"}, False),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, False),
    ],
)
def test_a_freed_block_is_used_again_unless_a_person_has_decided(settings: dict[str, str], kept: bool) -> None:
    assert (int(printed(FILL, settings)) < 100) == kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize(
    ("settings", "arenas"),
    [
        ({}, 1),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, 1),
        ({"MALLOC_ARENA_MAX": "2"}, 2),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, 2),
    ],
)
def test_threads_share_what_was_freed_unless_a_person_has_decided(settings: dict[str, str], arenas: int) -> None:
    assert printed(SHARE, settings).count("<heap nr=") == arenas


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("asked the C library"))
    memory.keep_freed_memory()
