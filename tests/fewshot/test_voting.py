"""Equations 3 and 4 of SMITE: temporal voting along tracks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import DataError, UsageError
from pipeline.fewshot.voting import Ends, vote, vote_labels
from pipeline.tracking.tracks import FrameTracks, Tracks, grid_points, window_of

GRID = (3, 4)
POINTS = 12
SEGMENTS = 3


def random_tracks(frames: int, window: int, seed: int = 0, seen: float = 0.7) -> Tracks:
    """Positions anywhere in the grid, some of them invisible and outside it; the own frame may be unseen too."""
    rng = np.random.default_rng(seed)
    listed = []
    for frame in range(frames):
        span = window_of(frame, frames, window)
        yx = rng.integers(0, GRID, (len(span), POINTS, 2)).astype(np.int16)
        visible = rng.random((len(span), POINTS)) < seen
        yx[~visible] = 99
        listed.append(FrameTracks(yx, visible, span.start))
    return Tracks.of(listed)


def identity(frames: int, window: int) -> Tracks:
    spans = [window_of(frame, frames, window) for frame in range(frames)]
    points = grid_points(GRID)
    return Tracks.of(
        FrameTracks(np.repeat(points[None], len(span), axis=0), np.ones((len(span), POINTS), bool), span.start)
        for span in spans
    )


def random_maps(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(frames, SEGMENTS, *GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def literal(maps: Tensor, tracks: Tracks, window: int, ends: Ends, first: int = 0) -> Tensor:
    """Algorithm 1 as it is written, a point at a time."""
    frames = len(maps)
    result = maps.clone()
    for frame in range(frames):
        if ends == "shifted":
            span = window_of(frame, frames, window)
        else:
            span = range(max(0, frame - window // 2), min(frames, frame + window // 2 + 1))
        for point in range(POINTS):
            said = []
            for target in span:
                row = first + target - int(tracks.start[frame])
                if 0 <= row < tracks.yx.shape[1] and tracks.visible[frame, row, point]:
                    y, x = tracks.yx[frame, row, point].tolist()
                    said.append(maps[target, :, y, x])
            if said:
                labels = [int(vector.argmax()) for vector in said]
                counts = Counter(labels)
                winner = min(label for label in counts if counts[label] == max(counts.values()))
                mean = torch.stack([v for v, label in zip(said, labels, strict=True) if label == winner]).mean(dim=0)
                result[frame, :, point // GRID[1], point % GRID[1]] = mean
    return result


@pytest.mark.parametrize("ends", ["shifted", "truncated"])
@pytest.mark.parametrize("frames", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("window", [1, 3, 7, 15])
def test_equation_4_equals_a_literal_loop(frames: int, window: int, ends: Ends) -> None:
    maps = random_maps(frames)
    for width in {window, 15}:  # tracks of wider windows than what votes
        tracks = random_tracks(frames, width, seed=frames + width)
        torch.testing.assert_close(vote(maps, tracks, window, ends), literal(maps, tracks, window, ends))


@pytest.mark.parametrize("ends", ["shifted", "truncated"])
def test_a_part_of_a_clip_votes_by_the_tracks_of_the_clip(ends: Ends) -> None:
    """A chunk: frames beyond its ends do not vote, nor do those that the tracks do not reach."""
    maps, tracks = random_maps(6), random_tracks(20, 5)
    chunk = Tracks(tracks.yx[9:15], tracks.visible[9:15], tracks.start[9:15])
    torch.testing.assert_close(vote(maps, chunk, 5, ends, first=9), literal(maps, chunk, 5, ends, first=9))


def test_consistent_maps_are_a_fixed_point() -> None:
    maps = random_maps(1).expand(7, -1, -1, -1)
    torch.testing.assert_close(vote(maps, identity(7, 7), 7), maps)


def test_a_flipped_frame_is_repaired() -> None:
    """One of 7 says something else: it gets the mean of the six others."""
    maps = random_maps(1).repeat(7, 1, 1, 1) + 0.01 * random_maps(7, seed=1)
    maps[:, 0] = maps[:, 1:].amax(dim=1) + 1
    maps[3, 2] = maps[3].amax(dim=0) + 5
    repaired = vote(maps, identity(7, 7), 7)
    others = torch.cat([maps[:3], maps[4:]]).mean(dim=0)
    torch.testing.assert_close(repaired[3], others)


def test_invisible_frames_do_not_vote() -> None:
    maps, tracks = random_maps(5), identity(5, 5)
    tracks.visible[2, [0, 1, 4]] = False
    expected = vote(maps[2:4], identity(2, 3), 3)[0]
    torch.testing.assert_close(vote(maps, tracks, 5)[2], expected)


def test_a_point_that_is_visible_nowhere_keeps_its_map() -> None:
    maps, tracks = random_maps(5), identity(5, 5)
    tracks.visible[2, :, 7] = False
    assert torch.equal(vote(maps, tracks, 5)[2, :, 1, 3], maps[2, :, 1, 3])


def test_the_smallest_id_wins_ties() -> None:
    maps = torch.zeros(2, SEGMENTS, *GRID)
    maps[0, 2] = 1
    maps[1, 1] = 3
    voted = vote(maps, identity(2, 3), 3)
    assert torch.equal(voted, maps[1:].expand(2, -1, -1, -1))


def test_no_gradient_flows_through_the_vote() -> None:
    assert not vote(random_maps(3).requires_grad_(), identity(3, 3), 3).requires_grad


@pytest.mark.parametrize(
    ("maps", "window", "error", "message"),
    [
        (random_maps(5), 4, UsageError, "guidance.vote.window must be odd, not 4"),
        (
            random_maps(4),
            5,
            DataError,
            "tracks of 5 frames with 12 points do not fit maps of 4 frames on a grid of 3x4",
        ),
        (torch.zeros(5, 2, 3, 3), 5, DataError, "on a grid of 3x3; run `vidseg track` on this clip"),
    ],
)
def test_what_is_refused(maps: Tensor, window: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vote(maps, identity(5, 5), window)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_a_vote_on_labels_of_the_grid_elects_what_a_literal_count_elects(window: int) -> None:
    """A pixel for each cell; invisible frames do not vote, and a point that no frame sees keeps its label."""
    labels, tracks = random_maps(6).argmax(dim=1).to(torch.uint8), random_tracks(6, 5)
    voted = vote_labels(labels, SEGMENTS, tracks, GRID, window)
    for frame in range(6):
        for point in range(POINTS):
            place = point // GRID[1], point % GRID[1]
            counts = Counter[int]()
            for target in window_of(frame, 6, window):
                row = target - int(tracks.start[frame])
                if 0 <= row < 5 and tracks.visible[frame, row, point]:
                    counts[int(labels[target][tuple(tracks.yx[frame, row, point])])] += 1
            expected = min(counts, key=lambda label: (-counts[label], label)) if counts else labels[frame][place]
            assert voted[frame][place] == expected


def test_pixels_keep_their_place_in_a_cell_that_moves() -> None:
    """Cells of 2 x 3 pixels; the whole picture moves one cell to the right in each frame."""
    size = (2 * GRID[0], 3 * GRID[1])
    still = torch.randint(0, SEGMENTS, size, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.stack([still.roll(3 * frame, 1) for frame in range(3)])
    flipped = labels.clone()
    flipped[1, 3, 5] = (flipped[1, 3, 5] + 1) % SEGMENTS
    tracks = identity(3, 3)
    for frame in range(3):
        tracks.yx[frame, :, :, 1] += np.arange(3, dtype=np.int16)[:, None] - frame
    inside = (tracks.yx[..., 1] >= 0) & (tracks.yx[..., 1] < GRID[1])
    moving = Tracks(tracks.yx, inside, tracks.start)
    assert torch.equal(vote_labels(flipped, SEGMENTS, moving, GRID, 3)[1], labels[1])
