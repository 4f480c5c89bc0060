"""Label maps of a clip's annotated frames, one at a time: from a store or from another system's PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import label_maps
from pipeline.stores.store import Store
from pipeline.truth.class_list import ClassList


class StoredFrames:
    """Frames of a store's array, (H, W) each, read when they are asked for.

    Args:
        store, array: the store and the name of an array (F, H, W) in it.
        positions: which of its frames, in the order in which they are numbered here; None = all.
    """

    def __init__(self, store: Store, array: str, positions: Sequence[int] | None = None) -> None:
        total = store.frames(array)
        self._store, self._array = store, array
        self._positions = range(total) if positions is None else positions
        outside = [position for position in self._positions if not 0 <= position < total]
        if outside:
            raise DataError(
                f"{store.path}: has {total} frames, but frame {outside[0]} is annotated; "
                "the labels and the ground truth are of different clips or frame ranges"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self._store.size(self._array)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        position = self._positions[frame]
        return self._store.read(self._array, position, position + 1)[0]


class PredictionFolder:
    """Label PNGs named like the clip's frames.

    Args:
        folder: holds one PNG per annotated frame; others are left out.
        names: names of the annotated frames, with or without a suffix.
        size: (H, W) that every PNG must have.
        listed: the ground truth's class list: predictions are stored as its label maps are, or in its colours.

    Raises:
        DataError: no folder, no PNG in it, two for one frame, or an annotated frame without one.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        size: tuple[int, int],
        listed: ClassList,
    ) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of predictions")
        found = label_maps(folder)
        if not found:
            raise DataError(f"{folder}: holds no PNG; expected one label PNG per frame, named like the frame")
        paths = [found.get(name) or found.get(Path(name).stem) for name in names]
        missing = [name for name, path in zip(names, paths, strict=True) if path is None]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(names)} annotated frames have no prediction "
                f"(first: {missing[0]}); name the PNGs like the frames (the first here is {min(found)}.png)"
            )
        self.size = size
        self._paths = [path for path in paths if path is not None]
        self._listed = listed

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        path = self._paths[frame]
        labels = self._listed.read(path)
        if labels.shape != self.size:
            raise DataError(
                f"{path}: {labels.shape[1]}x{labels.shape[0]} pixels, the ground truth has "
                f"{self.size[1]}x{self.size[0]}; predictions must have the source's size"
            )
        return labels
