"""Between results that come in windows and stores that take whole shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.stores.writer import StoreWriter


class ShardBuffer:
    """Collects frames of several arrays and writes them as soon as they fill a shard.

    It holds less than one shard plus what is added. Call `flush` after the last frame.
    """

    def __init__(self, writer: StoreWriter, shard: int) -> None:
        self._writer = writer
        self._shard = shard
        self._start = 0
        self._frames = 0
        self._pending: dict[str, list[np.ndarray]] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append frames (f, ...) of every array; the same f for all. They are kept as they are until written."""
        for name, values in arrays.items():
            self._pending.setdefault(name, []).append(values)
        self._frames += len(next(iter(arrays.values())))
        if self._frames >= self._shard:
            self._write(self._frames - self._frames % self._shard)

    def flush(self) -> None:
        """Write the last, partial shard."""
        if self._frames:
            self._write(self._frames)

    def _write(self, frames: int) -> None:
        for name, parts in self._pending.items():
            held = np.concatenate(parts)
            self._writer.write(name, self._start, held[:frames])
            self._pending[name] = [held[frames:].copy()]  # a view would keep what is written in memory
        self._start += frames
        self._frames -= frames
