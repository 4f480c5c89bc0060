from __future__ import annotations

import numpy as np
import pytest

from pipeline.stores.shard_buffer import ShardBuffer


class Recorder:
    """Stands for a StoreWriter: keeps what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int, np.ndarray]] = []

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        self.written.append((name, start, values))


@pytest.mark.parametrize(
    ("added", "ranges"),
    [
        ([1, 1, 1, 1, 1], [(0, 3), (3, 5)]),
        ([3, 3], [(0, 3), (3, 6)]),
        ([2, 6, 1], [(0, 6), (6, 9)]),
        ([7], [(0, 6), (6, 7)]),
        ([0, 2], [(0, 2)]),
        ([], []),
    ],
)
def test_whole_shards_are_written_as_soon_as_they_are_full(added: list[int], ranges: list[tuple[int, int]]) -> None:
    frames = np.arange(2 * sum(added)).reshape(-1, 2)
    recorder = Recorder()
    buffer = ShardBuffer(recorder, 3)  # type: ignore[arg-type]
    start = 0
    for count in added:
        part = frames[start : start + count]
        buffer.add({"a": part, "b": -part})
        start += count
        held = start - max((first + len(values) for _, first, values in recorder.written), default=0)
        assert held < 3
    buffer.flush()
    for name, expected in (("a", frames), ("b", -frames)):
        mine = [(first, values) for written, first, values in recorder.written if written == name]
        assert [(first, first + len(values)) for first, values in mine] == ranges
        assert all(np.array_equal(values, expected[first : first + len(values)]) for first, values in mine)


def test_frames_are_joined_once_per_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame by frame, the work grows with the frames and not with their square."""
    joined: list[int] = []
    concatenate = np.concatenate

    def counted(parts: list[np.ndarray]) -> np.ndarray:
        joined.append(sum(map(len, parts)))
        return concatenate(parts)

    monkeypatch.setattr(np, "concatenate", counted)
    buffer = ShardBuffer(Recorder(), 8)  # type: ignore[arg-type]
    for _ in range(16):
        buffer.add({"a": np.zeros((1, 2))})
    buffer.flush()
    assert joined == [8, 8]
