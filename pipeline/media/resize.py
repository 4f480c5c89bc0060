"""Sizes and resizing: frames to what the backbone takes, label maps back to the source's size."""

from __future__ import annotations

import math
import re

import numpy as np
from PIL import Image

from pipeline.errors import UsageError

#: The autoencoder divides by 8 and the denoiser by another 8.
MULTIPLE = 64
#: The most pixels of a side at model size; what is larger is a slip of the pen and would fill the memory.
MOST = 16384


def model_size(height: int, width: int, size: str | int) -> tuple[int, int]:
    """The size (H, W) at which a frame of (height, width) pixels is processed: multiples of 64, at least 64.

    Args:
        size: "native" (each side down to a multiple of 64, as the authors do), the short side in pixels
            (rounded to a multiple of 64; the long side follows the aspect ratio), exactly "HxW", or "1/N": one
            pixel for N of the source, so each side divided by sqrt(N), then as "native".

    Raises:
        UsageError: `size` is none of these, "HxW" is not made of multiples of 64, or a side is above `MOST`.
    """
    sides = _sides(height, width, size)
    if max(sides) > MOST:
        raise UsageError(f"ingest.size: {size} makes frames of {sides[1]}x{sides[0]}; no side may be above {MOST}")
    return sides


def _sides(height: int, width: int, size: str | int) -> tuple[int, int]:
    text = str(size).strip().lower()
    if text == "native":
        return max(MULTIPLE, height // MULTIPLE * MULTIPLE), max(MULTIPLE, width // MULTIPLE * MULTIPLE)
    if exact := re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text):
        sides = int(exact[1]), int(exact[2])
        if any(side % MULTIPLE or side == 0 for side in sides):
            nearest = "x".join(str(_nearest_multiple(side)) for side in sides)
            raise UsageError(f"ingest.size: {size} is not in multiples of {MULTIPLE}; the nearest is {nearest}")
        return sides
    if part := re.fullmatch(r"1/([1-9][0-9]{0,8})", text):
        factor = math.sqrt(int(part[1]))
        return _sides(round(height / factor), round(width / factor), "native")
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise UsageError(f"ingest.size must be native, a short side in pixels, HxW (256x448) or 1/N, not {size!r}")
    short = _nearest_multiple(int(text))
    long = _nearest_multiple(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def resize_frame(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame u8 (h, w, 3) at `size` (H, W), by Pillow's bicubic filter (antialiased), as the authors do."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def resize_nearest(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Labels (h, w) or colours (h, w, c) at `size` (H, W): each output pixel takes the value under its centre.

    Output row i looks at input row floor((i + 1/2) h / H); no value is ever invented.
    """
    rows, columns = (
        (2 * np.arange(target) + 1) * source // (2 * target)
        for source, target in zip(values.shape[:2], size, strict=True)
    )
    if size[0] < len(values):  # the axis first that leaves less for the other
        return values.take(rows, axis=0).take(columns, axis=1)
    return values.take(columns, axis=1).take(rows, axis=0)


def _nearest_multiple(side: float) -> int:
    return max(MULTIPLE, int(side / MULTIPLE + 0.5) * MULTIPLE)
