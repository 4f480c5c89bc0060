"""The first three principal components of features as colours (the paper's figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError

#: Shares of the fitted tokens, in percent, that become colour values 0 and 255.
_PERCENTILES = (1.0, 99.0)


#: The most frames, and (but for rounding per frame) tokens, that axes are fitted on.
_FRAMES, _TOKENS = 48, 16384


@dataclass(frozen=True)
class PCA:
    """A projection of tokens to colours.

    Attributes:
        mean: (c,) float64.
        axes: (c, 3) float64, orthonormal, in the order of falling variance; each one's entry of largest
            absolute value is positive, so that colours do not depend on a solver's choice of sign.
        low, high: (3,) projections that become 0 and 255.
        explained: (3,) share of the variance along each axis.
    """

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    explained: np.ndarray

    def colours(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (..., c) as colours (..., 3) u8; what lies outside low..high is clipped."""
        projected = (tokens - self.mean) @ self.axes
        scaled = (projected - self.low) / np.where(self.high > self.low, self.high - self.low, 1)
        return np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)


def sample(read: Callable[[int], np.ndarray], frames: int) -> np.ndarray:
    """Tokens (n, c) to fit on, evenly taken over a clip: at most 48 frames, about 16000 tokens.

    Args:
        read: gives the tokens (n, c) of a frame.
    """
    chosen = np.unique(np.linspace(0, frames - 1, min(frames, _FRAMES)).round().astype(int)).tolist()
    parts = [read(frame) for frame in chosen]
    step = -(-sum(map(len, parts)) // _TOKENS)
    return np.concatenate([part[::step] for part in parts])


def fit(tokens: np.ndarray) -> PCA:
    """The principal components of tokens (n, c), n >= 1, c >= 3.

    Raises:
        DataError: fewer than three channels, or values that are not finite.
    """
    if tokens.shape[1] < 3:
        raise DataError(f"features of {tokens.shape[1]} channels have no three principal components")
    if not np.isfinite(tokens).all():
        raise DataError("features hold NaN or infinite values; run `vidseg extract` again")
    values = tokens.astype(np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(values))
    axes = vectors[:, -3:][:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
    low, high = np.percentile(centred @ axes, _PERCENTILES, axis=0)
    total = max(float(variances.clip(0).sum()), np.finfo(np.float64).tiny)
    return PCA(mean, axes, low, high, variances[-3:][::-1].clip(0) / total)
