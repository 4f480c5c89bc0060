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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize(("setting", "kept"), [(None, True), *((name, False) for name in memory._SETTINGS)])
def test_a_freed_block_is_used_again_unless_a_person_has_decided(setting: str | None, kept: bool) -> None:
    values = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536", "MALLOC_MMAP_MAX_": "100"}
    unset = {name: value for name, value in os.environ.items() if name not in memory._SETTINGS}
    environment = unset | ({setting: values.get(setting, "65536")} if setting else {})
    done = subprocess.run([sys.executable, "-c", FILL], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 100) == kept


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("asked the C library"))
    memory.keep_freed_memory()
