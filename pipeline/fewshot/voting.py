"""Temporal voting: what the frames around say of a point, by the tracks through it (SMITE, Eq. 3 and 4, Algorithm 1).

All votes are read from the maps as they are given; nothing depends on what was decided for another point or frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parameters import check_odd
from pipeline.tracking.tracks import Tracks, window_of

Ends = Literal["shifted", "truncated"]
Grid = tuple[int, int]


@dataclass(frozen=True)
class _Ballot:
    """The places that the n points of a frame have in the frames of their window.

    Attributes:
        frames: those of the window, as positions in the maps.
        index: (m, n) int64, token of each point in each of them; 0 where it is not visible.
        visible: (m, n) bool.
    """

    frames: slice
    index: Tensor
    visible: Tensor


def vote(maps: Tensor, tracks: Tracks, window: int, ends: Ends = "shifted", first: int = 0) -> Tensor:
    """The mean of what the winning side says: S_tracked (Eq. 4).

    Point p of frame i is followed through the window around i. Each frame in which it is visible votes for its largest
    map there; the segment with most votes wins, the smallest id of equals; the result is the mean of the maps of the
    frames that voted for it. A point that is visible nowhere keeps what it has.

    Args:
        maps: (f, k, h, w) of consecutive frames; gradients do not flow through the vote.
        tracks: of the points of these f frames on the grid (h, w). Frames that a track's window lacks do not vote.
        window: frames that vote, odd; more than f is all of them.
        ends: at the ends of the f frames the window is `shifted` inwards (as the authors' code does), or `truncated`.
        first: number of the first of these frames, as `tracks.start` counts them.

    Returns:
        (f, k, h, w), of the maps' dtype and device.

    Raises:
        DataError: the tracks are of other frames, or on another grid.
        UsageError: an even window.
    """
    values = maps.detach().flatten(2)
    labels = values.argmax(dim=1)
    tracked = values.clone()
    for frame in range(len(maps)):
        ballot = _ballot(frame, len(maps), (maps.shape[-2], maps.shape[-1]), tracks, window, ends, first, maps.device)
        votes = labels[ballot.frames].gather(1, ballot.index)
        winner, _ = _elected(votes, ballot.visible, maps.shape[1])
        agrees = (ballot.visible & (votes == winner))[:, None]
        said = values[ballot.frames].gather(2, ballot.index[:, None].expand(-1, maps.shape[1], -1))
        supporters = agrees.sum(dim=0)
        mean = (said * agrees).sum(dim=0) / supporters.clamp(min=1)
        tracked[frame] = torch.where(supporters > 0, mean, values[frame])
    return tracked.view_as(maps)


def vote_labels(
    labels: Tensor, segments: int, tracks: Tracks, grid: Grid, window: int, ends: Ends = "shifted", first: int = 0
) -> Tensor:
    """The label that most frames of its window give to a pixel: tracking in pixel space (baseline II of section 5).

    A pixel moves as the cell of the grid that it lies in, and keeps its place in the cell. The smallest id of equals
    wins; a pixel that is visible nowhere keeps its label.

    Args:
        labels: (f, H, W) uint8 of consecutive frames.
        segments: how many there are.
        tracks, window, ends, first: as for `vote`.
        grid: (h, w) of the tracks.

    Returns:
        (f, H, W) uint8.

    Raises:
        DataError, UsageError: as `vote`.
    """
    frames, height, width = labels.shape
    down, right = (torch.arange(side, device=labels.device) for side in (height, width))
    row, column = down * grid[0] // height, right * grid[1] // width
    cell = (row[:, None] * grid[1] + column).flatten()
    flat = labels.flatten(1).long()
    voted = labels.clone()
    for frame in range(frames):
        ballot = _ballot(frame, frames, grid, tracks, window, ends, first, labels.device)
        index, visible = ballot.index[:, cell], ballot.visible[:, cell]
        moved_y = (index // grid[1] - cell // grid[1]) * height // grid[0]
        moved_x = (index % grid[1] - cell % grid[1]) * width // grid[1]
        y = (down.repeat_interleave(width) + moved_y).clamp(0, height - 1)
        x = (right.repeat(height) + moved_x).clamp(0, width - 1)
        winner, most = _elected(flat[ballot.frames].gather(1, y * width + x), visible, segments)
        voted[frame] = torch.where(most > 0, winner, flat[frame]).view(height, width).to(voted)
    return voted


def _elected(votes: Tensor, visible: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """The most frequent of the visible votes (m, n): winner (n,) and its number of votes (n,)."""
    counts = torch.zeros(votes.shape[1], segments, dtype=torch.int32, device=votes.device)
    counts.scatter_add_(1, votes.T, visible.T.to(torch.int32))
    most, winner = counts.max(dim=1)
    smallest = (counts == most[:, None]).to(torch.uint8).argmax(dim=1)  # `max` promises no order among equals
    return smallest, counts.gather(1, winner[:, None])[:, 0]


def _ballot(
    frame: int,
    frames: int,
    grid: Grid,
    tracks: Tracks,
    window: int,
    ends: Ends,
    first: int,
    device: torch.device,
) -> _Ballot:
    height, width = grid
    check_odd("guidance.vote.window", window)
    if len(tracks) != frames or tracks.yx.shape[2] != height * width:
        raise DataError(
            f"tracks of {len(tracks)} frames with {tracks.yx.shape[2]} points do not fit maps of {frames} frames on a "
            f"grid of {height}x{width}; run `vidseg track` on this clip"
        )
    start = int(tracks.start[frame])
    voters = _voters(first + frame, range(first, first + frames), window, ends)
    low, high = max(voters.start, start), min(voters.stop, start + tracks.yx.shape[1])
    rows = slice(low - start, high - start)
    visible = tracks.visible[frame, rows]
    yx = tracks.yx[frame, rows].astype(np.int64)
    index = np.where(visible, yx[..., 0] * width + yx[..., 1], 0)
    return _Ballot(
        slice(low - first, high - first),
        torch.from_numpy(index).to(device),
        torch.from_numpy(visible.copy()).to(device),
    )


def _voters(frame: int, part: range, window: int, ends: Ends) -> range:
    if ends == "shifted":
        return window_of(frame, len(part), window, part.start)
    return range(max(frame - window // 2, part.start), min(frame + window // 2 + 1, part.stop))
