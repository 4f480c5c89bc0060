"""Masks of a frame: which of their labels are too small to be carried through the video."""

from __future__ import annotations

import numpy as np

from pipeline.media.pictures import VOID
from pipeline.media.resize import MULTIPLE, model_size, resize_nearest

#: Pixels of model size per token of decoder blocks 6 to 8.
TOKEN = 16
#: A label needs so many tokens.
FEW = 4
#: The largest short side that is proposed.
LARGEST = 2048


def lost_labels(mask: np.ndarray, size: tuple[int, int]) -> list[int]:
    """The ids of a mask that fewer than `FEW` tokens would have: each token takes the value at its centre.

    A label of one token loses every vote among its neighbours.

    Args:
        mask: (H0, W0) u8 or u16; `VOID` is no label, but in masks of two values.
        size: (H, W) of the frames at model size.
    """
    grid = size[0] // TOKEN, size[1] // TOKEN
    found = np.unique(mask)
    kept, tokens = np.unique(resize_nearest(mask, grid), return_counts=True)
    lost = set(found.tolist()) - set(kept[tokens >= FEW].tolist())
    return sorted(lost - ({VOID} if len(found) > 2 else set()))


def size_that_keeps(mask: np.ndarray, size: tuple[int, int]) -> int | None:
    """The smallest short side (`ingest.size`) above a model size at which no label of the mask is lost.

    None: even at `LARGEST` one is.
    """
    height, width = mask.shape
    short = min(size)
    for side in range(short + MULTIPLE, LARGEST + 1, MULTIPLE):
        if not lost_labels(mask, model_size(height, width, side)):
            return side
    return None


def lost_labels_warning(mask: np.ndarray, size: tuple[int, int]) -> str | None:
    """One line on the labels of a mask that may be in no frame, and what would keep them; None = there are none."""
    lost = lost_labels(mask, size)
    if not lost:
        return None
    named = f"label {lost[0]} covers" if len(lost) == 1 else f"labels {', '.join(map(str, lost))} cover"
    keeps = size_that_keeps(mask, size)
    remedy = f"ingest.size={keeps} gives every label as many" if keeps else "crop the video around what is so small"
    return (
        f"{named} fewer than {FEW} tokens (of {TOKEN} pixels, at {size[0]}x{size[1]}) and may be in no frame; {remedy}"
    )
