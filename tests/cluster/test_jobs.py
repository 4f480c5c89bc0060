"""Jobs that are given back, without a batch system."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from stages.cluster import jobs
from stages.cluster.command import interrupted_by_sigterm
from stages.cluster.jobs import Job, Jobs, _Submitted


class Cluster:
    """As much of Dask's as `Jobs` asks for: two jobs, the second one with nothing to do."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.workers = {"job-0": self._job("7"), "job-1": self._job("8")}
        self.worker_spec: dict[str, Any] = {"job-0": {}, "job-1": {}}
        workers = {name: SimpleNamespace(name=name, processing=name == "job-0") for name in self.workers}
        self.scheduler = SimpleNamespace(workers=workers, retire_workers=self._retire)

    def _job(self, number: str) -> Any:
        async def close() -> None:
            self.ended.append(number)

        return SimpleNamespace(close=close)

    async def _retire(self, names: list[str], close_workers: bool) -> None:
        assert close_workers

    def sync(self, call: Any, *arguments: Any, **options: Any) -> Any:
        return asyncio.run(call(*arguments, **options))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `squeue` says, and a clock that nobody may wait for."""
    states = {"7": "RUNNING", "8": "RUNNING"}
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the run stands still"))
    monkeypatch.setattr(
        jobs.programs, "run", lambda *_: "\n".join(f"{number}|{state}|None" for number, state in states.items())
    )
    return states


def two_jobs(cluster: Cluster) -> Jobs:
    made = Jobs(cluster, "slurm", Job(1, None, None, None, False, (), "vidseg", Path()), 3)  # type: ignore[arg-type]
    made._known = {"job-0": _Submitted("7"), "job-1": _Submitted("8")}
    return made


@pytest.mark.parametrize("ends", ["COMPLETED", "in time", "never"])
def test_a_run_goes_on_while_a_job_that_is_given_back_ends(
    queue: dict[str, str], ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    run = two_jobs(cluster)
    if ends == "never":
        monkeypatch.setattr(jobs, "END_WITHIN", -1.0)
    run.look(1)
    if ends == "never":
        assert cluster.ended == ["8"]
        return
    assert cluster.ended == [] and list(cluster.workers) == ["job-0"]
    if ends == "COMPLETED":
        queue["8"] = ends
        run.look(1)
    else:
        run.end()  # the run was interrupted
    assert cluster.ended == ["8"]


def test_all_jobs_are_awaited_at_the_end(queue: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        queue.update({"7": "COMPLETED"} if len(waits) == 1 else {"8": "COMPLETED"})

    monkeypatch.setattr(time, "sleep", sleep)
    two_jobs(cluster).close()
    assert cluster.ended == ["7", "8"] and waits == [jobs.LOOK_AT_ENDS_EVERY] * 2


def test_sigterm_is_what_it_was_after_a_run() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    with interrupted_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is earlier
    seen: list[object] = []

    def in_a_thread() -> None:
        with interrupted_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen == [earlier]
