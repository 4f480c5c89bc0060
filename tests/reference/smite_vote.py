"""vote.npz: temporal voting on given tracks, and a tracker's pixels as cells of a grid."""

from __future__ import annotations

import re

import numpy as np
import torch

from pipeline.fewshot.voting import Ends, vote
from pipeline.tracking.tracks import Tracks, is_inside, to_cells, window_of
from tests.reference.cases import within
from tests.reference.smite import Arrays, Recorded, Rule

#: What the authors' tracker sees, and its grid.
SIZE, GRID = (512, 512), (64, 64)


def whole_clip(arrays: Arrays, frames: int) -> Tracks:
    """The recorded tracks, in which every frame's window is the clip."""
    yx = arrays["tracks_xy"][:frames, :frames, :, ::-1].astype(np.int16)
    return Tracks(yx, arrays["visible"][:frames, :frames], np.zeros(frames, np.int32))


def tracked(arrays: Arrays, frames: int, window: int, ends: Ends = "shifted") -> np.ndarray:
    maps = torch.from_numpy(arrays["S"][:frames].astype(np.float32))
    return vote(maps, whole_clip(arrays, frames), window, ends).numpy()


def of_all(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return tracked(arrays, len(arrays["S"]), int(match[1]), "truncated" if match[2] else "shifted")


def of_some(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return tracked(arrays, int(match[1]), int(match[2]))


def windows(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    frames = len(arrays["S"])
    found = [window_of(frame, frames, int(match[1])) for frame in range(frames)]
    return np.array([(window.start, window.stop) for window in found])


def cells_xy(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return to_cells(arrays["pixel_tracks"][..., ::-1], SIZE, GRID)[..., ::-1]


def cells_visible(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
    return arrays["pixel_visible"] & is_inside(to_cells(arrays["pixel_tracks"][..., ::-1], SIZE, GRID), GRID)


EXACT = within(0)
VOTE = Recorded(
    "vote.npz",
    (
        Rule(r"windows_w(\d+)", windows, EXACT),
        Rule(r"tracked_w(\d+)(_truncated|)", of_all, within(1e-5)),
        Rule(r"short(\d+)_tracked_w(\d+)", of_some, within(1e-5)),
        Rule(r"pixel_grid_xy", cells_xy, EXACT),
        Rule(r"pixel_grid_visible", cells_visible, EXACT),
    ),
    {"S|tracks_xy|visible": "tracked_w7", "pixel_tracks": "pixel_grid_xy", "pixel_visible": "pixel_grid_visible"},
)
