"""Frames of a store, read one at a time when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.stores.store import Store


@dataclass(frozen=True)
class Frames:
    """A sequence of frames that no memory need hold.

    Attributes:
        count: how many there are.
        read: frames start..stop as an array (f, ...).
    """

    count: int
    read: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frame: int, /) -> np.ndarray:
        return self.read(frame, frame + 1)[0]


def frames_of(store: Store, array: str) -> Frames:
    """The frames of a store's array."""
    return Frames(store.frames(array), lambda start, stop: store.read(array, start, stop))
