"""References changed at random before each look at them (SMITE's released training; its paper says nothing of it).

In this order: a smaller picture on a black canvas, blur, black holes, mirroring, a crop that holds the segment whose
turn it is, rotation. What shows nothing of the picture has no label (`learn.augment.fill`).
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.fewshot.segments import IGNORE
from pipeline.media.resize import resize_frame, resize_nearest
from pipeline.parameters import LearnAugment

#: How often a crop is drawn anew before the picture is left as it is.
ATTEMPTS = 50

Sample = tuple[np.ndarray, np.ndarray]


def generator(seed: int, iteration: int) -> np.random.Generator:
    """The random numbers of one iteration: they depend on nothing else, so learning may be continued anywhere."""
    return np.random.default_rng([seed, iteration])


def augmented(
    image: np.ndarray,
    numbers: np.ndarray,
    size: tuple[int, int],
    params: LearnAugment,
    rng: np.random.Generator,
    turn: int = 0,
) -> Sample:
    """An image and its segments, changed.

    Args:
        image: (h, w, 3) u8.
        numbers: (h, w) u8, segments 0..k-1, `IGNORE` where there is no label.
        size: (H, W) of what is returned.
        turn: which of the segments that the image shows a crop is made for, counted around.

    Returns:
        (H, W, 3) u8 and (H, W) u8; the given arrays are not changed.
    """
    fill = IGNORE if params.fill == "ignore" else 0
    sample = image, numbers
    if rng.random() < params.zoom_out:
        sample = zoomed_out(sample, rng.uniform(params.zoom_smallest, params.zoom_largest), rng, fill)
    sample = _at_size(sample, size)
    if rng.random() < params.blur:
        sample = blurred(sample[0], int(rng.integers(1, (params.blur_kernel + 1) // 2 + 1))), sample[1]
    if rng.random() < params.dropout:
        sample = with_holes(sample, params, rng, fill)
    if rng.random() < params.flip:
        sample = sample[0][:, ::-1], sample[1][:, ::-1]
    sample = _at_size(cropped(sample, params, rng, turn), size)
    if rng.random() < params.rotation:
        sample = rotated(sample, rng.uniform(-params.rotate, params.rotate), fill)
    return np.ascontiguousarray(sample[0]), np.ascontiguousarray(sample[1])


def zoomed_out(sample: Sample, scale: float, rng: np.random.Generator, fill: int) -> Sample:
    """The picture at `scale` of its size, somewhere on a black canvas of its size."""
    image, numbers = sample
    height, width = numbers.shape
    small = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip((height, width), small, strict=True))
    place = slice(top, top + small[0]), slice(left, left + small[1])
    canvas, labels = np.zeros_like(image), np.full_like(numbers, fill)
    canvas[place], labels[place] = resize_frame(image, small), resize_nearest(numbers, small)
    return canvas, labels


def blurred(image: np.ndarray, radius: int) -> np.ndarray:
    """The image under a Gaussian of 2 radius - 1 pixels; radius 1 changes nothing."""
    kernel = 2 * radius - 1
    return np.asarray(cv2.GaussianBlur(image, (kernel, kernel), 0), np.uint8)


def with_holes(sample: Sample, params: LearnAugment, rng: np.random.Generator, fill: int) -> Sample:
    """Black rectangles, which may overlap."""
    image, numbers = sample[0].copy(), sample[1].copy()
    height, width = numbers.shape
    short = min(height, width)
    for _ in range(int(rng.integers(1, params.holes + 1))):
        sides = rng.uniform(params.smallest_hole, params.largest_hole, 2) * short
        down, across = (max(1, round(float(side))) for side in sides)
        top, left = int(rng.integers(0, height - down + 1)), int(rng.integers(0, width - across + 1))
        image[top : top + down, left : left + across] = 0
        numbers[top : top + down, left : left + across] = fill
    return image, numbers


def cropped(sample: Sample, params: LearnAugment, rng: np.random.Generator, turn: int) -> Sample:
    """A random part of the picture, of its shape, that holds enough of the segment whose turn it is."""
    image, numbers = sample
    shown = np.unique(numbers[numbers != IGNORE])
    if params.min_crop == 1 or not len(shown):
        return sample
    wanted = numbers == shown[turn % len(shown)]
    least = params.least_part * np.count_nonzero(wanted)
    height, width = numbers.shape
    for _ in range(ATTEMPTS):
        ratio = rng.uniform(params.min_crop, 1)
        down, across = max(1, round(ratio * height)), max(1, round(ratio * width))
        top, left = int(rng.integers(0, height - down + 1)), int(rng.integers(0, width - across + 1))
        place = slice(top, top + down), slice(left, left + across)
        if np.count_nonzero(wanted[place]) > least:
            return image[place], numbers[place]
    return sample


def rotated(sample: Sample, degrees: float, fill: int) -> Sample:
    """The picture turned around its middle; the corners are black."""
    image, numbers = (np.ascontiguousarray(part) for part in sample)
    height, width = numbers.shape
    turned = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    seen = cv2.warpAffine(image, turned, (width, height), flags=cv2.INTER_LINEAR)
    labels = cv2.warpAffine(numbers, turned, (width, height), flags=cv2.INTER_NEAREST, borderValue=fill)
    return np.asarray(seen, np.uint8), np.asarray(labels, np.uint8)


def _at_size(sample: Sample, size: tuple[int, int]) -> Sample:
    image, numbers = sample
    return resize_frame(image, size), resize_nearest(numbers, size)
