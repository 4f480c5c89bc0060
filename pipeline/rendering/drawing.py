"""Labels, rows and maps as pictures for people. All pictures are u8 (H, W, 3), RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

#: Colour of the lines that mark a row and cuts.
MARK = (255, 32, 32)

#: Height or width, in pixels, above which label outlines become two pixels wide.
_THICKER_ABOVE = 750


def paint(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Label maps (..., H, W) as colours (..., H, W, 3); label l has colour l modulo the number of colours."""
    return colours.take(labels, axis=0, mode="wrap")


def boundaries(labels: np.ndarray, thickness: int) -> np.ndarray:
    """Where labels (H, W) meet: bool (H, W), lines of about `thickness` pixels."""
    meets = np.zeros(labels.shape, bool)
    meets[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    meets[:-1] |= labels[:-1] != labels[1:]
    if thickness == 1:
        return meets
    return cv2.dilate(meets.astype(np.uint8), np.ones((thickness, thickness), np.uint8)).astype(bool)


def overlay(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, opacity: float, void: int | None = None
) -> np.ndarray:
    """Labels (H, W) over a picture (H, W, 3): their colours at an opacity of 0..1, outlined by thin lines.

    The more opaque the labels, the paler the picture below, so that a label keeps the hue of its legend. Where the
    labels are `void`, the picture stays as it is.
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    paler = cv2.addWeighted(grey, opacity, image, 1 - opacity, 0)
    blended = cv2.addWeighted(paint(labels, colours), opacity, paler, 1 - opacity, 0)
    if void is not None:
        blended[labels == void] = image[labels == void]
    lines = boundaries(labels, 1 if min(labels.shape) <= _THICKER_ABOVE else 2)
    # Half-way to white: seen on dark and on bright colours, and not mistaken for a label.
    blended[lines] = blended[lines] // 2 + 128
    return blended


def heat(values: np.ndarray, highest: float | None = None) -> np.ndarray:
    """A map (H, W) of values >= 0 as colours, black (0) to bright yellow (`highest`; None = its maximum)."""
    scale = 255 / max(float(values.max()) if highest is None else highest, 1e-12)
    levels = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def resized(image: np.ndarray, width: int) -> np.ndarray:
    """A picture at another width, its aspect kept: averaged when it shrinks, smooth when it grows."""
    if width == image.shape[1]:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def width_within(size: tuple[int, ...], side: int) -> int:
    """The width at which a picture of (H, W) has a longer side of `side` pixels."""
    return max(1, round(size[1] * side / max(size)))


def mark_row(image: np.ndarray, row: int) -> np.ndarray:
    """A copy of a picture with a red line over one row."""
    marked = image.copy()
    half = max(1, image.shape[0] // 240)
    marked[max(0, row - half) : row + half] = MARK
    return marked


def row_of(image: np.ndarray, position: float) -> int:
    """The row of a picture at a position from 0 (top) to 1 (bottom)."""
    return round(position * (image.shape[0] - 1))


def xt_slice(rows: np.ndarray, height: int, cuts: Sequence[int] = ()) -> np.ndarray:
    """One image row over time: rows (f, W, 3) stacked downwards, repeated to fill about `height` pixels.

    Args:
        cuts: of which rows the upper edge is marked by a line.
    """
    repeats = max(1, round(height / len(rows)))
    picture = np.repeat(rows, repeats, axis=0)
    for row in cuts:
        picture[max(0, row * repeats - 1) : row * repeats + 1] = MARK
    return picture
