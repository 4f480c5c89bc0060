"""Chunks of a long clip, and groups of their frames."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.errors import UsageError
from pipeline.fewshot.chunks import chunks, groups


@pytest.mark.parametrize(
    ("frames", "size", "overlap", "expected"),
    [
        (1, 16, 8, [(0, 1, 0, (0, 1))]),
        (16, 16, 8, [(0, 16, 0, (0, 16))]),
        (17, 16, 8, [(0, 16, 0, (0, 1)), (1, 17, 15, (1, 17))]),
        (21, 16, 8, [(0, 16, 0, (0, 5)), (5, 21, 11, (5, 21))]),
        (24, 16, 8, [(0, 16, 0, (0, 8)), (8, 24, 8, (8, 24))]),
        (19, 18, 0, [(0, 18, 0, (0, 1)), (1, 19, 17, (1, 19))]),
        (36, 18, 0, [(0, 18, 0, (0, 18)), (18, 36, 0, (18, 36))]),
    ],
)
def test_chunks(frames: int, size: int, overlap: int, expected: list[tuple[int, int, int, tuple[int, int]]]) -> None:
    found = chunks(frames, size, overlap)
    assert [(c.frames.start, c.frames.stop, c.carried, (c.taken.start, c.taken.stop)) for c in found] == expected


@pytest.mark.parametrize(("size", "overlap"), [(16, 8), (18, 0), (10, 9), (1, 0), (3, 2)])
def test_every_frame_is_taken_once(size: int, overlap: int) -> None:
    for frames in range(1, 60):
        found = chunks(frames, size, overlap)
        assert [frame for chunk in found for frame in chunk.taken] == list(range(frames))
        assert all(len(chunk.frames) == min(size, frames) for chunk in found)
        for before, chunk in pairwise(found):
            assert list(chunk.frames[: chunk.carried]) == sorted(set(before.frames) & set(chunk.frames))


def test_groups() -> None:
    assert groups(10, 4) == (range(0, 4), range(4, 8), range(8, 10))
    assert groups(1, 4) == (range(0, 1),)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"apply.overlap must be at least 0 and below apply.chunk \(8\), not 8"):
        chunks(20, 8, 8)
    with pytest.raises(UsageError, match="guidance.group must be at least 1 frame, not 0"):
        groups(4, 0)
