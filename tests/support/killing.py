"""Real processes that are killed at a chosen moment of their writing."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import ENVIRONMENT, heed_interrupts

#: Imported once, in a process that the others are forked from: importing the networks takes longer than a tiny stage.
PRELOADED = ("tests.support.preloaded", "tests.support.killing")
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


@dataclass(frozen=True)
class Kill:
    """A signal just before the n-th change below a folder (counted from 1), or some seconds after that moment.

    Attributes:
        among: counts only changes of paths that have this in them.
    """

    operation: int
    delay: float = 0.0
    signal: signal.Signals = signal.SIGKILL
    among: str = ""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (-9 = killed), what it printed, and its changes in order (none if killed).

    Attributes:
        moments: when each change began, in seconds.
    """

    code: int
    output: str
    changes: list[str]
    moments: list[float]

    @property
    def until_the_final_rename(self) -> int:
        """How many changes there are up to the last one that puts something at its final place."""
        return max(number for number, change in enumerate(self.changes, 1) if change == "os.rename")

    def seconds_left(self, operation: int) -> float:
        """From the n-th change (counted from 1) to the final rename."""
        return self.moments[self.until_the_final_rename - 1] - self.moments[operation - 1]


def run(arguments: list[str], out: Path, log: Path, kill: Kill | None = None) -> Ended:
    """Run `vidseg ...` in a process of its own, which counts what it changes below `out`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_main, args=(arguments, str(out), str(log), kill))
    process.start()
    process.join(timeout=240)
    assert process.exitcode is not None, "does not end"
    changes = log.with_suffix(".changes")
    # Only a process that ended by itself has written its list whole: a delayed signal may come in the middle of that.
    listed = json.loads(changes.read_text()) if process.exitcode >= 0 else []
    changes.unlink(missing_ok=True)
    return Ended(process.exitcode, log.read_text(), [name for name, _ in listed], [moment for _, moment in listed])


def _main(arguments: list[str], out: str, log: str, kill: Kill | None) -> None:
    import torch

    from stages.main import main

    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    heed_interrupts()
    with open(log, "w") as stream:  # noqa: PTH123
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    changes: list[tuple[str, float]] = []
    counter = itertools.count(1)

    def watch(event: str, details: tuple[object, ...]) -> None:
        if _changes(event, details, out):
            changes.append((event, time.monotonic()))
            if kill is not None and kill.among in str(details[0]) and next(counter) == kill.operation:
                _die(kill)

    sys.addaudithook(watch)
    sys.argv = ["vidseg", *arguments]
    try:
        main()
    finally:
        Path(log).with_suffix(".changes").write_text(json.dumps(changes))


def _changes(event: str, details: tuple[object, ...], out: str) -> bool:
    """Whether an audit event is about to change something below a folder."""
    writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
    return bool(event in _CHANGES or writes) and str(details[0]).startswith(out)


def _die(kill: Kill) -> None:
    if kill.delay:
        threading.Timer(kill.delay, os.kill, (os.getpid(), kill.signal)).start()
    else:
        os.kill(os.getpid(), kill.signal)
