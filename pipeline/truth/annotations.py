"""Ground truth from a folder of label PNGs, matched to a clip's frames by file stem."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import label_maps, label_size
from pipeline.truth.class_list import ClassList, classes_of_ids


@dataclass(frozen=True)
class Annotations:
    """The checked files of a ground truth, read one at a time by those who cannot hold all of it.

    Attributes:
        files, indices: the label PNGs and the clip positions of their frames, ascending.
        size: (H0, W0).
        dtype: "uint8" or "uint16", whichever holds the largest id.
        listed: what the ids mean and how the files store them.
        digest: SHA-256 (hex) of the ids.
    """

    files: tuple[Path, ...]
    indices: tuple[int, ...]
    size: tuple[int, int]
    dtype: str
    listed: ClassList
    digest: str = ""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Label maps start..stop, (a, H0, W0)."""
        maps = [self.listed.read(file).astype(self.dtype) for file in self.files[start:stop]]
        return np.stack(maps) if maps else np.zeros((0, *self.size), self.dtype)


def no_annotations(size: tuple[int, int]) -> Annotations:
    """The ground truth of a video that has none."""
    return Annotations((), (), size, "uint8", ClassList(()))


def find_annotations(
    folder: Path, names: Sequence[str], size: tuple[int, int], classes: ClassList | None = None
) -> Annotations:
    """Match the PNGs of a folder to frame names, and check each of those used.

    Args:
        names: the clip's frame names; frames without a PNG are simply not annotated, PNGs of frames outside
            the clip are left alone.
        size: (H0, W0) of the source's frames.
        classes: None makes a class of every id found but 255, which is ignored (in masks of 0 and 255 alone,
            255 is the foreground class).

    Raises:
        DataError: no such folder, no PNG named like a frame, another size than the frames', or a value that
            is neither a class nor ignored.
    """
    files, indices = _match(Path(folder), names)
    found: set[int] = set()
    digest = hashlib.sha256()
    for file in files:
        labels = read_checked(file, size, classes)
        found |= set(np.unique(labels).tolist())
        digest.update(labels.astype(np.uint16).tobytes())
    return Annotations(
        tuple(files),
        tuple(indices),
        (size[0], size[1]),
        "uint16" if max(found, default=0) > 255 else "uint8",
        classes or classes_of_ids(found),
        digest.hexdigest(),
    )


def read_checked(file: Path, size: tuple[int, int], classes: ClassList | None = None) -> np.ndarray:
    """One label map (H0, W0) as ids.

    Args:
        classes: None lets every value pass.

    Raises:
        DataError: unreadable, of another size, or with a value that is neither a class nor ignored.
    """
    labels, unknown = _read(file, size, classes)
    if unknown:
        raise DataError(
            f"{file}: holds the value {min(unknown)}, which is neither a class nor ignored; "
            "add it to the class list (`classes`, `ignore` or `values`)"
        )
    return labels


def unknown_values(file: Path, size: tuple[int, int], classes: ClassList | None) -> frozenset[int]:
    """The stored values of a label map that its class list does not explain; raises as `read_checked` otherwise."""
    return _read(file, size, classes)[1]


def _read(file: Path, size: tuple[int, int], classes: ClassList | None) -> tuple[np.ndarray, frozenset[int]]:
    reader = classes or ClassList(())
    height, width = label_size(file)
    if (height, width) != tuple(size):
        raise DataError(f"{file}: the label map is {width}x{height} pixels, the frames are {size[1]}x{size[0]}")
    stored = reader.read_stored(file)
    labels = reader.decode(stored)
    if classes is None:
        return labels, frozenset()
    unknown = ~np.isin(labels, list(classes.ids))
    return labels, frozenset(np.unique(stored[unknown]).tolist())


def is_placeholder(folder: Path) -> bool:
    """Whether a folder stands for "there is no ground truth": it holds a README and nothing else."""
    entries = [path for path in Path(folder).iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return bool(entries) and all(path.stem.upper() == "README" for path in entries)


def _match(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of ground truth")
    pngs = label_maps(folder)
    if not pngs:
        raise DataError(f"{folder}: no label PNGs in this folder")
    matches = [(pngs[name], index) for index, name in enumerate(names) if name in pngs]
    if not matches:
        raise DataError(
            f"{folder}: none of its {len(pngs)} PNGs has the name of a frame; "
            f"frames are named like '{names[0]}', PNGs like '{next(iter(pngs))}'"
        )
    return [file for file, _ in matches], [index for _, index in matches]
