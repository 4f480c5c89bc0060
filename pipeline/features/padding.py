"""Mirrored margins around a frame: networks mark the borders of what they see, and K-Means finds that mark."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pipeline.errors import UsageError
from pipeline.parameters import ExtractParams

#: Margins of such widths leave a frame's sides multiples of 64, and hold whole tokens of every block.
MULTIPLE = 32


def margin_of(params: ExtractParams) -> int:
    """Pixels that are added on each side; 0 = none.

    Raises:
        UsageError: they hold no whole number of tokens.
    """
    if params.padding_pixels % MULTIPLE:
        raise UsageError(f"extract.padding_pixels must be a multiple of {MULTIPLE}, not {params.padding_pixels}")
    return 0 if params.padding == "none" else params.padding_pixels


def padded(frames: np.ndarray, margin: int) -> np.ndarray:
    """Frames (f, H, W, 3) with mirrored margins: (f, H + 2 margin, W + 2 margin, 3)."""
    if not margin:
        return frames
    return np.pad(frames, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")


def inner(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The middle (..., h, w) of maps (..., h', w') that have a margin of equal width on opposite sides."""
    (height, width), (outer_height, outer_width) = shape, values.shape[-2:]
    top, left = (outer_height - height) // 2, (outer_width - width) // 2
    return values[..., top : top + height, left : left + width]


def inner_tokens(tokens: Tensor, outer: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """The tokens (f, n, c) of the middle grid (h, w) of tokens (f, n', c) on an outer grid (h', w')."""
    if outer == grid:
        return tokens
    return inner(tokens.unflatten(1, outer).movedim(-1, 1), grid).flatten(2).transpose(1, 2)
