"""Segments drawn one per picture: a mask for each part. (An I/O module.)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.media.pictures import label_maps, read_image

#: A mask holds what is brighter.
THRESHOLD = 127.5


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key by which `part10` comes after `part9`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def masks_of_folder(folder: Path) -> dict[str, Path]:
    """The masks of a folder by part, in natural order: its PNGs, or those of its only sub-folder.

    Raises:
        DataError: neither is there.
    """
    found = label_maps(folder)
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not found and len(inner) == 1:
        found = label_maps(inner[0])
    if not found:
        raise DataError(f"{folder}: holds no mask; expected one PNG per part, here or in one sub-folder")
    return {part: found[part] for part in sorted(found, key=natural_order)}


def read_mask(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A mask (H, W) bool: what is brighter than `THRESHOLD` in any colour, or 1 where there is nothing but 0 and 1.

    Args:
        size: (H, W) that it must have.

    Raises:
        DataError: unreadable, or of another size.
    """
    brightness = read_image(path).max(axis=-1)
    if size is not None and brightness.shape != size:
        raise DataError(
            f"{path}: the mask is {brightness.shape[1]}x{brightness.shape[0]} pixels, its image {size[1]}x{size[0]}"
        )
    return brightness > (THRESHOLD if brightness.max() > 1 else 0)


def combined(masks: Mapping[int, np.ndarray], size: tuple[int, int], elsewhere: int) -> np.ndarray:
    """One label map (H, W) u8 or u16 of masks (H, W) by id: where they overlap the smaller one wins.

    Args:
        elsewhere: the id of pixels without a mask.
    """
    order = sorted(masks, key=lambda number: (-np.count_nonzero(masks[number]), -number))
    labels = np.full(size, elsewhere, np.uint8 if max(elsewhere, *masks) <= 255 else np.uint16)
    for number in order:
        labels[masks[number]] = number
    return labels
