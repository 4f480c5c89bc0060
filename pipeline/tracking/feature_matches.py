"""The tracker `features`: matches of a diffusion model's features between neighbouring frames (as `correspond` finds
them, VidSeg's Eq. 3), in both directions, chained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.finite import require_finite
from pipeline.segmentation.correspondence import match_pair, unit_tokens
from pipeline.tracking.chain import Motion, Tolerance, chained
from pipeline.tracking.tracks import Clip, FeatureMaps, FrameTracks, Grid

#: A point is lost when there and back miss by more than this many cells of the features' grid.
MOST_MISSED = 1.5


@dataclass(frozen=True)
class FeatureTracker:
    """Follows points along the most similar features of the next frame.

    Attributes:
        max_squared_distance: how far a token may move between neighbouring frames, squared, in cells of the features'
            grid.
    """

    max_squared_distance: float
    name: str = "features"
    needs_features: bool = True

    def stream(self, clip: Clip, asked: Sequence[int]) -> Iterator[FrameTracks]:
        """The tracks of the points of these frames.

        Raises:
            DataError: the clip has no features, or they do not fit their grid or are not finite.
        """
        features = clip.features
        if features is None:
            raise DataError("the tracker `features` needs features; give it features.zarr, or set track.method=flow")
        tolerance = Tolerance(relative=0, absolute=MOST_MISSED**2)
        return chained(clip, asked, lambda pair: self._motion(features, pair), tolerance)

    def _motion(self, features: FeatureMaps, pair: int) -> Motion:
        earlier, later = (_tokens(features, frame) for frame in (pair, pair + 1))
        return Motion(
            matched(earlier, later, features.grid, self.max_squared_distance),
            matched(later, earlier, features.grid, self.max_squared_distance),
        )


def matched(source: np.ndarray, target: np.ndarray, grid: Grid, max_squared_distance: float) -> np.ndarray:
    """Where each token of one frame goes in another: (h, w, 2) float32 displacements (y, x) in cells.

    The most similar token within reach, then the mean of it and its eight neighbours, weighted by the square of how
    much more similar each is than the least similar of them: steps smaller than a cell add up along a track.

    Args:
        source, target: (n, c) float32 tokens of length 1.
    """
    following, _ = match_pair(source, target, grid, max_squared_distance, "constrained")
    height, width = grid
    best = np.stack(np.divmod(following, width), axis=-1)  # (n, 2)
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(9, 2)
    around = best[:, None] + offsets
    exists = ((around >= 0) & (around < (height, width))).all(axis=-1)
    # A side that lies outside the picture is left out with the opposite one, or the mean would be drawn inwards.
    exists &= exists[:, ::-1]
    y, x = np.where(exists[..., None], around, 0).transpose(2, 0, 1)
    similarity = np.stack([(source * target[y[:, k] * width + x[:, k]]).sum(axis=-1) for k in range(9)], axis=1)
    similarity = np.where(exists, similarity, np.inf)
    weights = np.where(exists, similarity - similarity.min(axis=1, keepdims=True), 0) ** 2
    weights[:, 4] = np.maximum(weights[:, 4], np.finfo(np.float32).tiny)  # a token alone, or among equals
    finer = best + (weights[..., None] * offsets).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    own = np.stack(np.divmod(np.arange(height * width), width), axis=-1)
    return (finer - own).reshape(height, width, 2).astype(np.float32)


def _tokens(features: FeatureMaps, frame: int) -> np.ndarray:
    values = np.asarray(features.values[frame])
    height, width = features.grid
    if values.ndim != 2 or len(values) != height * width:
        raise DataError(
            f"features of frame {frame} have shape {values.shape}, which does not fit a grid of {height}x{width}; "
            "run `vidseg extract` again"
        )
    require_finite(values[None], "matching features", frame)
    return unit_tokens(values)
