"""The low frequencies of maps: what regularisation keeps from drifting (SMITE, Eq. 6).

The maps of each segment are transformed by the orthonormal cosine transform (DCT-II) over frames, rows and columns; the
lower part of the coefficients is kept.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def cosine_matrix(length: int) -> Tensor:
    """The orthonormal DCT-II as a matrix (length, length) float64: coefficients = matrix @ values."""
    places = torch.arange(length, dtype=torch.float64)
    matrix = torch.cos(math.pi / length * (places[None] + 0.5) * places[:, None]) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix


def kept(length: int, threshold: float) -> int:
    """How many of `length` frequencies lie below the threshold (0, 1]: their share, rounded down, at least one."""
    return max(1, int(threshold * length))


def low_frequencies(maps: Tensor, threshold: float, temporal: bool = False) -> Tensor:
    """The kept coefficients of maps (f, k, h, w): (f', k, h', w').

    Args:
        threshold: share of the frequencies that is kept along an axis: h' = `kept(h, threshold)`.
        temporal: whether frequencies over frames are cut as well; else f' = f.
    """
    frames, _, height, width = maps.shape
    over_frames = _rows(maps, frames, kept(frames, threshold) if temporal else frames)
    down = _rows(maps, height, kept(height, threshold))
    across = _rows(maps, width, kept(width, threshold))
    spatial = down @ maps @ across.T
    return torch.einsum("ef,fkhw->ekhw", over_frames, spatial)


def low_pass(maps: Tensor, threshold: float, temporal: bool = False) -> Tensor:
    """Maps (f, k, h, w) without their high frequencies; arguments as for `low_frequencies`."""
    coefficients = low_frequencies(maps, threshold, temporal)
    frames, _, height, width = maps.shape
    over_frames = _rows(maps, frames, len(coefficients))
    down, across = _rows(maps, height, coefficients.shape[2]), _rows(maps, width, coefficients.shape[3])
    return torch.einsum("ef,ekhw->fkhw", over_frames, down.T @ coefficients @ across)


def _rows(maps: Tensor, length: int, count: int) -> Tensor:
    return cosine_matrix(length)[:count].to(maps)
