"""How unlike tokens are to what was near their place in the frames before: what enters a picture is unlike it.

Not in the paper. Tokens are compared with those within reach alone: a second car is like the first one, but not
like the road where it drives in.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.segmentation.correspondence import Grid


def distances_nearby(
    features: np.ndarray,
    before: np.ndarray,
    grid: Grid,
    reach: int,
    frames: int,
    *,
    own: Sequence[int] | None = None,
) -> np.ndarray:
    """How far each token is from what other frames have near its place.

    In each of these frames the nearest token within reach counts, and of the frames the `frames` nearest: what only one
    of them shows does not make a token known.

    Args:
        features: (f, n, c) float32.
        before: (b, n, c) float32, the frames that are searched.
        grid: (h, w) with h * w = n.
        reach: how far a token may lie from the place, in tokens (Euclidean).
        frames: how many frames count; where fewer are searched, these do.
        own: where in `before` each of the f frames is itself: it is not searched for its own tokens.

    Returns:
        (f, n) float32, the mean of the Euclidean distances.
    """
    height, width = grid
    total, _, channels = features.shape
    queries = np.ascontiguousarray(features, np.float32).reshape(total, height, width, channels)
    searched = np.ascontiguousarray(before, np.float32).reshape(-1, height, width, channels)
    lengths = np.einsum("bhwc,bhwc->bhw", searched, searched)
    nearest = np.empty((len(searched), total, height, width), np.float32)
    step = 2 * reach + 1  # columns at a time: of larger pieces more lies beyond reach, smaller ones are slow
    for row, column in itertools.product(range(height), range(0, width, step)):
        columns = np.arange(column, min(column + step, width))
        rows = slice(max(0, row - reach), row + reach + 1)
        around = slice(max(0, column - reach), column + step + reach)
        down = np.arange(height)[rows] - row
        across = np.arange(width)[around] - columns[:, None]
        beyond = (down[:, None] ** 2 + across[:, None, :] ** 2).reshape(len(columns), -1) > reach**2
        penalty = np.where(beyond, np.float32(np.inf), np.float32(0))
        tokens = queries[:, row, columns].reshape(-1, channels)
        squares = np.einsum("nc,nc->n", tokens, tokens).reshape(total, -1)
        for frame in range(len(searched)):
            squared = tokens @ searched[frame, rows, around].reshape(-1, channels).T
            squared *= -2
            squared += lengths[frame, rows, around].reshape(-1)
            by_place = squared.reshape(total, len(columns), -1)
            by_place += penalty
            nearest[frame, :, row, columns] = (by_place.min(axis=2) + squares).T
    if own is not None:
        nearest[own, np.arange(total)] = np.inf
    count = min(frames, len(searched) - (own is not None))
    smallest = nearest if count == len(nearest) else np.partition(nearest, count - 1, axis=0)[:count]
    return np.sqrt(np.maximum(smallest, 0)).mean(axis=0).reshape(total, -1)
