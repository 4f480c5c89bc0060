"""Recorded cases as jobs of worker processes: one thread per process is the best use of few cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.reference.cases import Tally, within

Jobs = Mapping[str, Callable[[Path], Tally]]


@contextmanager
def under_way(request: pytest.FixtureRequest, jobs: Jobs) -> Iterator[Mapping[str, Future[Tally]]]:
    """The jobs of the selected tests of the requesting module, by the tests' names, all under way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        yield {
            item.name: pool.submit(jobs[item.originalname], item.callspec.params["path"])
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.path == request.path and item.originalname in jobs
        }
        pool.shutdown(cancel_futures=True)


def report_clip(
    title: str,
    recorded: Mapping[str, np.ndarray],
    computed: Mapping[str, np.ndarray],
    bounds: Mapping[str, float],
    inputs: Mapping[str, str],
) -> None:
    """Compare every recorded array of the clip; the test fails on a name that no rule knows.

    Args:
        bounds: array -> how far it may be off.
        inputs: arrays that others are computed from -> one that is, and stands for them.
    """
    tally = Tally(title, len(recorded))
    complaints = {name: within(bound)(computed[name], recorded[name]) for name, bound in bounds.items()}
    for name in recorded:
        known = inputs.get(name, name)
        tally.add(name, complaints.get(known, "no rule knows this name"))
    tally.report()
