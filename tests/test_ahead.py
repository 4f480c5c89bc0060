"""pipeline/ahead.py: results in order, so many at a time, and no thread left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from pipeline import ahead as module
from pipeline.ahead import ahead, mapped
from tests.support.commands import heed_interrupts

#: The first item is never finished.
ENDLESS = """
from pipeline.ahead import ahead

def items():
    try:
        print("begun", flush=True)
        while True:
            sum(range(1000))
    finally:
        print("ended")
    yield

try:
    next(ahead(items()))
except KeyboardInterrupt:
    print("interrupted")
"""

Run = Callable[[Callable[[int], int], Iterable[int]], Iterator[int]]


def items(work: Callable[[int], int], given: Iterable[int]) -> Iterator[int]:
    """`ahead` of an iterator that computes."""
    return ahead(map(work, given))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


both = pytest.mark.parametrize("run", [items, mapped])


@both
def test_in_order_whatever_takes_longer(run: Run) -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(run(slow_at_first, range(20))) == list(range(20)) and threads() == []
    assert list(run(slow_at_first, [])) == []


@both
def test_what_is_raised_comes_at_its_place(run: Run) -> None:
    def broken_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("frame 3")
        return number

    found = run(broken_at_three, range(20))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="frame 3"):
        next(found)
    assert threads() == []


@both
def test_no_more_is_made_than_is_held_and_who_stops_leaves_no_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_THREADS", 1)
    made: list[int] = []

    def noted(number: int) -> int:
        made.append(number)
        return number

    found = run(noted, iter(range(1000)))
    assert next(found) == 0
    time.sleep(0.05)
    assert len(made) <= 3  # one is used, two wait
    found.close()  # type: ignore[attr-defined]
    assert threads() == [] and len(made) <= 3


def test_an_iterator_that_is_not_used_up_is_closed() -> None:
    closed = []

    def opened() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    found = ahead(opened())
    next(found)
    found.close()
    assert closed == [True]


def test_an_item_that_is_being_made_is_not_waited_for() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        while True:
            time.sleep(0.001)

    found = ahead(items())
    assert next(found) == 1 and begun.wait(60)
    found.close()
    assert threads() == []


def test_an_interruption_does_not_wait_either() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0].splitlines() == ["ended", "interrupted"]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("asked", "threads"),
    [(None, 4), ("", 4), ("1", 1), ("2,4", 2), (" 3 ", 3), ("64", 4), ("0", 4), ("-1", 4), ("many", 4)],
)
def test_as_many_cores_as_there_are_or_are_asked_for(
    asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert module.cores() == threads


def test_two_are_made_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)
    meeting = threading.Barrier(2, timeout=10)
    assert len(list(mapped(lambda _: meeting.wait(), range(2)))) == 2
