"""Matches between consecutive frames: trajectory step T of equation 3 (paper section 4.2).

Tokens are row-major over the (h, w) grid; distances between tokens are squared and in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.finite import require_finite
from pipeline.parameters import CorrespondParams, choices

Grid = tuple[int, int]
MATCH_RULES = choices(CorrespondParams, "parity.rule")
NO_MATCH = -1


@dataclass(frozen=True)
class Matches:
    """Where each token goes in the next frame.

    Attributes:
        next: (f-1, n) int32, token of frame j+1 that token p of frame j moves to; -1 = no match.
        similarity: (f-1, n) float32, cosine similarity of the best match, also where it was rejected; 0 where the
            video is cut.
    """

    next: np.ndarray
    similarity: np.ndarray


def next_tokens(
    features: np.ndarray,
    grid: Grid,
    max_squared_distance: float,
    rule: str,
    first_frame: int = 0,
    cuts: Collection[int] = (),
) -> Matches:
    """Match every token of every frame with the following frame (equation 3).

    Args:
        features: (f, n, c) floats of the matching block, any scale.
        grid: (h, w) with h * w = n.
        max_squared_distance: the threshold T on ||p - q||^2.
        rule: `constrained`, the most similar token within the threshold (the paper's argmax);
            `reject`, the most similar token anywhere, and -1 when it lies beyond the threshold.
        first_frame: position of `features[0]` in its clip, for error messages and for `cuts`.
        cuts: positions in the clip of frames that begin a shot: nothing is matched with them.

    Raises:
        DataError: features are not finite or do not fit the grid.
        UsageError: unknown rule or a negative threshold.
    """
    pairs = list(stream_matches(features, grid, max_squared_distance, rule, first_frame))
    tokens = grid[0] * grid[1]
    following = [following for following, _ in pairs]
    similarity = [similarity for _, similarity in pairs]
    matches = Matches(
        next=np.stack(following) if pairs else np.empty((0, tokens), np.int32),
        similarity=np.stack(similarity) if pairs else np.empty((0, tokens), np.float32),
    )
    cut = np.isin(np.arange(len(pairs)) + first_frame + 1, list(cuts))
    matches.next[cut], matches.similarity[cut] = NO_MATCH, 0
    return matches


def stream_matches(
    frames: Iterable[np.ndarray], grid: Grid, max_squared_distance: float, rule: str, first_frame: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Like `next_tokens`, frame by frame: takes (n, c) features, yields next (n,) and similarity (n,).

    Two frames are held at a time.
    """
    unit_frames = (unit_tokens(_checked(frame, grid, first_frame + index)) for index, frame in enumerate(frames))
    for source, target in pairwise(unit_frames):
        yield match_pair(source, target, grid, max_squared_distance, rule)


def match_pair(
    source: np.ndarray, target: np.ndarray, grid: Grid, max_squared_distance: float, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Match the tokens of one frame with those of the next (equation 3); lowest token index on ties.

    Exact: one grid row of `source` at a time is compared with the rows of `target` within reach, so memory
    is w * n similarities at most.

    Args:
        source, target: (n, c) float32 tokens of length 1 (`unit_tokens`).

    Returns:
        next (n,) int32 and similarity (n,) float32.
    """
    if rule not in MATCH_RULES:
        raise UsageError(f"correspond.parity.rule must be one of {', '.join(MATCH_RULES)}, not '{rule}'")
    if not max_squared_distance >= 0:
        raise UsageError(f"correspond.max_squared_distance must be at least 0, not {max_squared_distance}")
    height, width = grid
    reach = height if rule == "reject" else min(height, math.isqrt(math.floor(max_squared_distance)))
    columns = np.arange(width)
    across = (columns[None, :] - columns[:, None]) ** 2  # (w, w) squared horizontal distance
    following = np.empty(height * width, np.int32)
    similarity = np.empty(height * width, np.float32)
    for row in range(height):
        top, bottom = max(0, row - reach), min(height, row + reach + 1)
        tokens = slice(row * width, (row + 1) * width)
        scores = source[tokens] @ target[top * width : bottom * width].T  # (w, rows * w)
        down = (np.arange(top, bottom) - row) ** 2
        squared = (across[:, None, :] + down[None, :, None]).reshape(width, -1)
        near = squared <= max_squared_distance
        if rule == "constrained":
            scores[~near] = -np.inf
        best = scores.argmax(axis=1)  # the first of equals, and tokens ascend
        similarity[tokens] = scores[columns, best]
        following[tokens] = np.where(near[columns, best], top * width + best, NO_MATCH)
    return following, similarity


def unit_tokens(features: np.ndarray) -> np.ndarray:
    """Scale every token (..., c) to length 1, as float32; an all-zero token stays zero (similar to
    nothing)."""
    values = np.asarray(features, np.float32)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.maximum(lengths, np.finfo(np.float32).tiny)


def _checked(frame: np.ndarray, grid: Grid, index: int) -> np.ndarray:
    if frame.ndim != 2 or len(frame) != grid[0] * grid[1]:
        raise DataError(
            f"features of frame {index} have shape {frame.shape}, which does not fit a grid of "
            f"{grid[0]}x{grid[1]}; run `vidseg extract` again"
        )
    require_finite(frame[None], "matching features", index)
    return frame
