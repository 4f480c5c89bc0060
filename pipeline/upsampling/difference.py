"""Difference maps and the full-resolution argmax (paper section 3.2, Eq. 7)."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

#: Added to a map's maximum before dividing by it, as in the authors' code (maps are in grey levels).
EPSILON = 1e-5


def squared_difference(difference: np.ndarray) -> np.ndarray:
    """D = ||I+ - I-||^2 per pixel (section 3.2): (H, W, c) float, e.g. grey levels -> (H, W) float32."""
    # Plane by plane: a sum over a last axis of three is ten times slower, and adds in the same order.
    total, *others = np.square(np.moveaxis(difference, -1, 0), dtype=np.float32)
    for plane in others:
        total += plane
    return total


def root_difference(difference: np.ndarray) -> np.ndarray:
    """||I+ - I-|| per pixel: (H, W, 3) float grey levels -> (H, W) float32."""
    return np.sqrt(squared_difference(difference))


def blur(values: np.ndarray) -> np.ndarray:
    """5x5 Gaussian blur with sigma 3 of a float map (H, W); the paper has none, the authors' code does."""
    return cv2.GaussianBlur(values, (5, 5), 3)


def normalize(values: np.ndarray) -> np.ndarray:
    """A map (H, W) divided by its own maximum (+ 1e-5); 8-bit maps give float64, so that near ties keep their order."""
    return values / (values.max() + EPSILON)


def filtered(values: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    """Eq. 7: D~ = D M + s D (1 - M), with M (H, W) in [0, 1] at the map's size and s = `strength`."""
    outside = strength * values
    outside *= 1 - mask
    outside += values * mask
    return outside


def resize_mask(mask: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """A coarse 0/1 mask (h, w) at (H, W): float32 in [0, 1], by `bilinear` (paper) or `lanczos` (authors' code)."""
    if method == "lanczos":
        return released_mask(mask, size)
    return cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_planes(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Like `resize_image`, of an image (3, H, W) that lies plane by plane."""
    return planes if planes.shape[1:] == tuple(size) else np.stack([resize_image(plane, size) for plane in planes])


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A float32 or uint8 image (H, W) or (H, W, 3) at another size, bilinear with half-pixel centres."""
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def released_image(decoded: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The authors' image: decoder output (3, H, W) in [-1, 1] clipped, truncated to uint8, resized -> (H0, W0, 3)."""
    clipped = np.clip((decoded.transpose(1, 2, 0) + 1) / 2, 0, 1)
    return resize_image(np.ascontiguousarray((clipped * 255).astype(np.uint8)), size)


def released_difference(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """The authors' map of uint8 images (H, W, 3): differences and squares modulo 256, summed, root, blurred."""
    wrapped = plus - minus
    return blur(np.sqrt((wrapped * wrapped).sum(axis=-1).astype(np.float32)))


def released_stored(values: np.ndarray) -> np.ndarray:
    """A map (H, W) truncated to 8 bits, JPEG-compressed and read back (uint8), as the authors keep it on disk."""
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, format="JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def released_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A 0/1 mask (h, w) enlarged by Lanczos in 8 bits, as the authors' filter does: (H, W) float32 in [0, 1]."""
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS), np.float32) / 255


@dataclass
class RunningArgmax:
    """Argmax over labels of maps that arrive one by one, ascending; the lowest label wins ties.

    Attributes:
        best: (H, W) float64, the largest value so far.
        labels: (H, W) int, the label that has it.
    """

    best: np.ndarray
    labels: np.ndarray

    @classmethod
    def empty(cls, size: tuple[int, int]) -> RunningArgmax:
        return cls(np.full(size, -np.inf), np.zeros(size, np.int64))

    def add(self, label: int | np.ndarray, values: np.ndarray) -> None:
        """Let a label compete with its map (H, W), or at each pixel the label (H, W) that the map shows there."""
        better = values > self.best
        np.copyto(self.labels, label, where=better)
        np.copyto(self.best, values, where=better)


@dataclass(frozen=True)
class MapSettings:
    """From two images to a competing map; names are those of params.yaml, section `upsample`.

    Attributes:
        difference: `squared` (paper), `root`, or `wrapped` (the authors' 8-bit arithmetic and storage).
        blur, normalize: 5x5 Gaussian, division by the map's own maximum.
        filter: s of Eq. 7.
        filter_resize: how M_l is enlarged in Eq. 7.
    """

    difference: str = "squared"
    blur: bool = True
    normalize: bool = True
    filter: float = 0.7
    filter_resize: str = "bilinear"


def difference_map(plus: np.ndarray, minus: np.ndarray, size: tuple[int, int], settings: MapSettings) -> np.ndarray:
    """D_l (H0, W0) of two decoder outputs (3, H, W), resized to the source before the difference."""
    if settings.difference == "wrapped":
        released = released_difference(released_image(plus, size), released_image(minus, size))
        values = released_stored(released)
    else:
        # Resizing is linear: one resize of the difference equals the difference of two resizes. Not clipped,
        # and in float: with a weak response the differences are below one grey level.
        grey_levels = (plus - minus) * np.float32(127.5)
        resized = np.moveaxis(resize_planes(grey_levels, size), 0, -1)
        kind = squared_difference if settings.difference == "squared" else root_difference
        values = blur(kind(resized)) if settings.blur else kind(resized)
    return normalize(values) if settings.normalize else values.astype(np.float32)
