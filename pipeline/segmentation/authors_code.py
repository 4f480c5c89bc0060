"""Passes and correspondence-based refinement as the authors' code has them; kept for comparison only.

Their refinement departs from equations 3-5: trajectories start in the first frame only, matches are mixed
with the similarity to the first frame and not limited in distance, a trajectory that once jumps is dropped as
a whole, and the winning label is written to the whole trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.segmentation.correspondence import Grid, unit_tokens

Similarity = Literal["mixed", "plain"]
Moves = Literal["positive", "symmetric"]


@dataclass(frozen=True)
class Trajectories:
    """The trajectories that start at the n tokens of the first frame.

    Attributes:
        tokens: (f, n) int32, where each trajectory is in each frame; row 0 is 0..n-1.
        margin: (f-1, n) float32, best minus second-best similarity of each trajectory's step.
    """

    tokens: np.ndarray
    margin: np.ndarray


def authors_passes(frames: int, batch: int) -> list[range]:
    """The frames of each pass over a clip, in order; the last result of a frame counts.

    Where the clip's length is a multiple of the batch the last batch is processed twice; otherwise the last
    pass is moved back to end with the clip and overlaps the one before. A clip shorter than a batch is one
    pass.
    """
    if frames < batch:
        return [range(frames)]
    starts = [*range(0, frames - batch + 1, batch), frames - batch]
    return [range(start, start + batch) for start in starts]


def authors_trajectories(features: np.ndarray, similarity: Similarity) -> Trajectories:
    """Follow every token of the first frame through the batch, without limit on the distance.

    Args:
        features: (f, n, c) floats of the matching block.
        similarity: `mixed`, from frame j to j+1 the match of p maximises
            j/(j+1) cos(F_j[p], F_{j+1}[q]) + 1/(j+1) cos(F_j[p], F_0[q]), hence the first step is the
            identity; `plain`, cos(F_j[p], F_{j+1}[q]) alone.
    """
    unit = unit_tokens(features)
    frames, tokens, _ = unit.shape
    track = np.arange(tokens)
    visited, margins = [track], []
    for frame in range(frames - 1):
        scores = unit[frame] @ unit[frame + 1].T
        if similarity == "mixed":
            scores = (frame * scores + unit[frame] @ unit[0].T) / np.float32(frame + 1)
        best_two = np.partition(scores, -2, axis=1)[:, -2:] if tokens > 1 else np.repeat(scores, 2, axis=1)
        margins.append((best_two[:, 1] - best_two[:, 0])[track])
        track = scores.argmax(axis=1)[track]
        visited.append(track)
    return Trajectories(
        tokens=np.stack(visited).astype(np.int32),
        margin=np.stack(margins) if margins else np.empty((0, tokens), np.float32),
    )


def authors_kept(trajectories: Trajectories, grid: Grid, moves: Moves) -> np.ndarray:
    """Which trajectories never move by more than one token per axis and step: (n,) bool.

    `positive` tests moves down and right only, as the authors' code does; `symmetric` all four directions.
    """
    steps = np.stack(np.unravel_index(trajectories.tokens, grid))  # (2, f, n)
    moved = np.diff(steps, axis=1)
    if moves == "symmetric":
        moved = np.abs(moved)
    return np.asarray((moved <= 1).all(axis=(0, 1)))


def authors_vote(labels: np.ndarray, trajectories: Trajectories, keep: np.ndarray) -> np.ndarray:
    """Write the most frequent label of each kept trajectory (the earliest on ties) to all tokens it visits.

    Trajectories are taken in token order, later ones overwrite earlier ones; tokens on none keep their label.

    Args:
        labels: (f, n) integers.
        keep: (n,) bool.
    """
    frames = np.arange(len(labels))[:, None]
    along = labels[frames, trajectories.tokens]  # (f, n)
    votes = (along[:, None, :] == along[None, :, :]).sum(axis=1)  # (f, n): how often each frame's label is seen
    winners = along[votes.argmax(axis=0), np.arange(along.shape[1])]
    refined = labels.copy()
    for start in np.flatnonzero(keep):
        refined[frames[:, 0], trajectories.tokens[:, start]] = winners[start]
    return refined
