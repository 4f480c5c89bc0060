"""Waiting for DVC's queue of experiments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.errors import DataError, ResourceError
from stages.tables import dvc_queue

RUNNING, DONE, GONE = {"a": "Running"}, {"a": "Success"}, dict[str, str]()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], int]]:
    """What DVC says at each look: states of experiments, and how many workers there are; the last one for ever."""
    looks: list[tuple[dict[str, str], int]] = []

    def status() -> tuple[dict[str, str], int]:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    monkeypatch.setattr(dvc_queue, "_status", status)
    monkeypatch.setattr(dvc_queue.time, "sleep", lambda seconds: None)
    return looks


@pytest.mark.parametrize(
    ("looks", "left"),
    [
        pytest.param([(RUNNING, 1), (DONE, 1)], 1, id="runs, then ends"),
        pytest.param([({"a": "Queued"}, 1), (GONE, 1), (RUNNING, 1), (DONE, 1)], 1, id="not listed while it is taken"),
        pytest.param([(RUNNING, 1), (GONE, 1)], 1, id="never listed again"),
        pytest.param([(RUNNING, 1), ({"a": "Failed"}, 1)], 1, id="fails"),
    ],
)
def test_an_experiment_is_waited_for(
    listed: list[tuple[dict[str, str], int]], looks: list[tuple[dict[str, str], int]], left: int
) -> None:
    listed += looks
    found: Iterator[set[str]] = dvc_queue.watch({"a"}, lambda names: pytest.fail("queued again"))
    assert list(found) == [{"a"}]
    assert len(listed) == left


def test_an_experiment_that_lost_its_worker_is_queued_once_more(listed: list[tuple[dict[str, str], int]]) -> None:
    listed.append((RUNNING, 0))
    again = list[set[str]]()
    with pytest.raises(ResourceError, match="the worker of DVC's queue has ended"):
        list(dvc_queue.watch({"a"}, again.append))
    assert again == [{"a"}]


def test_no_log_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*command: str) -> str:
        raise DataError("No output logs found for experiment 'a'")

    monkeypatch.setattr(dvc_queue, "dvc", fails)
    assert dvc_queue.reason("a") == "no log"
