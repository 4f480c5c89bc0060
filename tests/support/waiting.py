"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from subprocess import Popen


def wait_until(happened: Callable[[], bool], *processes: Popen[str]) -> None:
    """Wait for something that processes do; fails the test when one of them ends before."""
    while not happened():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def output_of(process: Popen[str], check: int = 0) -> str:
    """What a process prints up to its end; fails the test unless its exit code is `check`."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == check, output
    return output
