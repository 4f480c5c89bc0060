"""Difference maps (paper section 3.2, Eq. 7): from two images to how strongly each pixel answers."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from pipeline.parameters import UpsampleParity

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


def normalize(values: np.ndarray, largest: np.ndarray | float) -> np.ndarray:
    """A map (H, W) divided by its largest value (+ 1e-5), in the map's own precision."""
    return values / (largest + values.dtype.type(EPSILON))


def filtered(values: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    """Eq. 7: D~ = D M + s D (1 - M), with M (H, W) in [0, 1] at the map's size and s = `strength`."""
    outside = strength * values
    outside *= 1 - mask
    outside += values * mask
    return outside


def resize_mask(mask: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """A coarse 0/1 mask (h, w) at (H, W): float32 in [0, 1], by `bilinear` (paper) or `lanczos` (authors' code)."""
    if method == "lanczos":
        return lanczos_mask(mask, size)
    return cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_planes(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Like `resize_image`, of an image (3, H, W) that lies plane by plane."""
    return planes if planes.shape[1:] == tuple(size) else np.stack([resize_image(plane, size) for plane in planes])


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A float32 or uint8 image (H, W) or (H, W, 3) at another size, bilinear with half-pixel centres."""
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def image_in_8_bits(decoded: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The authors' image: decoder output (3, H, W) in [-1, 1] clipped, truncated to uint8, resized -> (H0, W0, 3)."""
    clipped = np.clip((decoded.transpose(1, 2, 0) + 1) / 2, 0, 1)
    return resize_image(np.ascontiguousarray((clipped * 255).astype(np.uint8)), size)


def wrapped_difference(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """The authors' map of uint8 images (H, W, 3): differences and squares modulo 256, summed, root, blurred."""
    wrapped = plus - minus
    return blur(np.sqrt((wrapped * wrapped).sum(axis=-1).astype(np.float32)))


def jpeg_stored(values: np.ndarray) -> np.ndarray:
    """A map (H, W) truncated to 8 bits, JPEG-compressed and read back (uint8), as the authors keep it on disk."""
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, format="JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def lanczos_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A 0/1 mask (h, w) enlarged by Lanczos in 8 bits, as the authors' filter does: (H, W) float32 in [0, 1]."""
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS), np.float32) / 255


def difference_map(plus: np.ndarray, minus: np.ndarray, size: tuple[int, int], parity: UpsampleParity) -> np.ndarray:
    """D_l (H0, W0) of two images (3, H, W), resized to the source before the difference.

    float32; float64 where `difference` is `wrapped`, whose maps have 8 bits, so that near ties keep their order.
    """
    if parity.difference == "wrapped":
        wrapped = wrapped_difference(image_in_8_bits(plus, size), image_in_8_bits(minus, size))
        return jpeg_stored(wrapped).astype(np.float64)
    # Resizing is linear: one resize of the difference equals the difference of two resizes. Not clipped,
    # and in float: with a weak response the differences are below one grey level.
    grey_levels = (plus - minus) * np.float32(127.5)
    resized = np.moveaxis(resize_planes(grey_levels, size), 0, -1)
    kind = squared_difference if parity.difference == "squared" else root_difference
    values = blur(kind(resized)) if parity.blur else kind(resized)
    return values.astype(np.float32)
