"""DVC's queue of experiments, by their names: put in, start, wait, stop."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.errors import DataError, ResourceError
from stages.common import cli
from stages.common.programs import dvc

#: States of experiments that are still to end.
OPEN = ("Queued", "Running")
#: And of those that did.
ENDED = ("Failed", "Success")
#: How often in a row DVC may not list an experiment before it counts as ended: while a worker takes one, it lists none.
UNLISTED = 5


def add(commands: Mapping[str, list[str]]) -> None:
    """Queue what is not queued or running; leftovers of failed and killed runs are removed first.

    Args:
        commands: name of an experiment -> the command that queues it.
    """
    states, workers = _status()
    for name, command in commands.items():
        state = states.get(name)
        if state == "Running" and not workers:
            dvc("queue", "kill", name)
            state = "Failed"
        if state in OPEN:
            continue
        if state is not None:
            dvc("queue", "remove", name)
        cli.note(shlex.join(command))
        dvc(*command[1:])


def start(jobs: int, environment: Mapping[str, str]) -> None:
    """Make sure that as many workers run; they get these variables beside the present ones."""
    dvc("queue", "start", "--jobs", str(jobs), environment={**os.environ, **environment})


def watch(names: set[str], again: Callable[[set[str]], None]) -> Iterator[set[str]]:
    """Wait until none is queued or running; yields those that are new among the finished.

    Args:
        again: queues these names anew. A worker ends when it finds the queue empty, and loses an experiment that is
            queued at that moment; so the first time that no worker is left this is called.

    Raises:
        ResourceError: no worker is left a second time, but experiments are.
    """
    pause, waiting, lonely, is_first = 1.0, set(names), 0, True
    unlisted = Counter[str]()
    while waiting:
        time.sleep(pause)
        states, workers = _status()
        lonely = 0 if workers else lonely + 1
        unlisted = Counter({name: unlisted[name] + 1 for name in waiting if name not in states})
        if done := {name for name in waiting if states.get(name) in ENDED or unlisted[name] > UNLISTED}:
            yield done
            waiting, pause = waiting - done, 1.0
        elif lonely > 5 and is_first:
            again(waiting)
            pause, lonely, is_first = 1.0, 0, False
        elif lonely > 5:
            raise ResourceError(
                "the worker of DVC's queue has ended (out of memory?); run the same command to continue"
            )
        elif not unlisted:
            pause = min(pause * 1.5, 20.0)


def stop(names: set[str]) -> None:
    """Take these out of the queue, and end those that run."""
    states, _ = _status()
    for state, command in (("Queued", "remove"), ("Running", "kill")):
        if found := [name for name in names if states.get(name) == state]:
            dvc("queue", command, *found)


def reason(name: str) -> str:
    """Why an experiment failed: the last line of its log that tells."""
    try:
        lines = [line for line in dvc("queue", "logs", name).splitlines() if line.strip()]
    except DataError:  # it ended before it wrote any
        lines = []
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no log"])[-1]


def _is_alive() -> bool:
    """Whether a worker's process runs: on a busy machine it answers too late to be counted by `dvc queue status`."""
    import psutil

    for file in Path(".dvc/tmp/exps/celery").glob("dvc-exp-worker-*.pid"):
        with suppress(OSError, ValueError, psutil.Error):
            if "queue-worker" in psutil.Process(int(file.read_text())).cmdline():
                return True
    return False


def _status() -> tuple[dict[str, str], int]:
    """State of each experiment of the queue by name, and the number of live workers, at least."""
    lines = dvc("queue", "status").splitlines()
    rows = [line.split() for line in lines if line.strip()]
    states = {row[1]: row[-1] for row in rows if row[-1] in (*OPEN, *ENDED)}
    workers = next((row for row in rows if row[:2] == ["Worker", "status:"]), None)
    return states, (int(workers[2]) + int(workers[4]) if workers else 0) or int(_is_alive())
