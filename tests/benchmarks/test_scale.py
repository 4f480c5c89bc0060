"""The measuring of benchmarks/scale.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.scale import measure


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_that_of_the_process_alone(tmp_path: Path) -> None:
    """This process, with torch loaded, is larger than a bare Python; a large array counts, also when it is freed."""
    small = measure([sys.executable, "-S", "-c", "import time; time.sleep(0.3)"], tmp_path)
    large = measure([sys.executable, "-S", "-c", "import time; bytearray(10**8); time.sleep(0.3)"], tmp_path)
    assert small.megabytes < 60
    assert 90 < large.megabytes - small.megabytes < 110
    assert small.seconds >= 0.3


def test_a_failing_command_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
