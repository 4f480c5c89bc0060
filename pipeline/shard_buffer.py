"""Between results that come in windows and stores that take whole shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.artifacts import StoreWriter


class ShardBuffer:
    """Collects frames of several arrays and writes them as soon as they fill a shard.

    It holds less than one shard plus what is added. Call `flush` after the last frame.
    """

    def __init__(self, writer: StoreWriter, shard: int) -> None:
        self._writer = writer
        self._shard = shard
        self._start = 0
        self._pending: dict[str, list[np.ndarray]] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append frames (f, ...) of every array; the same f for all."""
        for name, values in arrays.items():
            self._pending.setdefault(name, []).append(values)
        held = {name: np.concatenate(parts) for name, parts in self._pending.items()}
        frames = len(next(iter(held.values())))
        whole = frames - frames % self._shard
        self._write({name: values[:whole] for name, values in held.items()})
        self._pending = {name: [values[whole:]] for name, values in held.items()}

    def flush(self) -> None:
        """Write the last, partial shard."""
        self._write({name: np.concatenate(parts) for name, parts in self._pending.items()})
        self._pending = {}

    def _write(self, arrays: Mapping[str, np.ndarray]) -> None:
        frames = max((len(values) for values in arrays.values()), default=0)
        if frames:
            for name, values in arrays.items():
                self._writer.write(name, self._start, values)
            self._start += frames
