"""Several processes, one scratch store: which shards this process writes.

Each shard has a lock in the scratch folder, on a file system that all processes share. A killed process loses its
locks, so what it left is written by another one. The locks save work; correctness does not need them, because equal
fingerprints mean equal bytes and each file appears by one rename.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.stores.writer import StoreWriter

EVERY = slice(None)


def lacking(writers: Sequence[StoreWriter], shards: slice = EVERY) -> list[range]:
    """Frame ranges of the shards that at least one of the stores lacks, in order; none of stores that are finished.

    Args:
        writers: stores of one scratch folder, with one shard length.
        shards: only those, by number.
    """
    # A finished store lacks nothing, also where a kill came between it and the next one: its scratch is gone.
    missing = {shard for writer in writers if not writer.is_complete() for shard in writer.missing()}
    return [shard for shard in writers[0].shards()[shards] if shard in missing]


def claimed(writers: Sequence[StoreWriter], shards: slice = EVERY) -> Iterator[range]:
    """Shards to write, one at a time, each locked until the next one is asked for.

    First those that nobody works on; then, after waiting, those that another process began and did not finish.
    """
    for wait in (False, True):
        for shard in lacking(writers, shards):
            with writers[0].claim(shard, wait) as ours:
                if ours and shard in lacking(writers):
                    yield shard
