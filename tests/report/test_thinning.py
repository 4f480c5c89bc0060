from __future__ import annotations

import pytest

from pipeline.report.thinning import Thinning, sampled, thinning


@pytest.mark.parametrize(
    ("total", "step", "side"),
    [(1, 1, 960), (100, 1, 960), (101, 1, 640), (200, 1, 640), (201, 2, 640), (1000, 5, 640)],
)
def test_smaller_pictures_first_then_fewer_frames(total: int, step: int, side: int) -> None:
    """At 960 pixels a frame takes 10 bytes, at 640 it takes 5; 1000 fit."""
    assert thinning(total, lambda side: 10 if side == 960 else 5, limit=1000) == Thinning(total, step, side)


def test_shown_frames_begin_with_the_first() -> None:
    plan = Thinning(10, 3, 640)
    assert list(plan.shown) == [0, 3, 6, 9]
    assert list(plan.coarser().shown) == [0, 6]


@pytest.mark.parametrize(("total", "expected"), [(1, [0]), (2, [0, 1]), (9, [0, 2, 4, 6, 8])])
def test_the_frames_that_are_measured(total: int, expected: list[int]) -> None:
    assert sampled(total) == expected
