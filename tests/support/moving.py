"""Textured pictures in known motion, for trackers: where each point goes is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

#: Where a point of the first frame, (..., 2) in (y, x) pixels, lies in frame j.
Path = Callable[[np.ndarray, int], np.ndarray]


def texture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) u8 noise with detail at several scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((*size, 3), np.float32)
    for cell in (4, 8, 16, 32):
        coarse = rng.normal(size=(-(-size[0] // cell) + 1, -(-size[1] // cell) + 1, 3)).astype(np.float32)
        total += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 40 * total, 0, 255).astype(np.uint8)


def translation(dy: float, dx: float) -> Path:
    return lambda yx, frame: yx + np.array([dy, dx]) * frame


def zoom(factor: float, size: tuple[int, int]) -> Path:
    centre = np.array(size) / 2
    return lambda yx, frame: (yx - centre) * factor**frame + centre


def film(path: Path, size: tuple[int, int], frames: int, margin: int = 64) -> np.ndarray:
    """(f, H, W, 3) u8: a large texture seen through motion `path`, which is affine in the point."""
    world = texture((size[0] + 2 * margin, size[1] + 2 * margin))
    pictures = []
    for frame in range(frames):
        origin, down, right = (path(np.array(yx, float), frame) for yx in ((0, 0), (1, 0), (0, 1)))
        forward = np.stack([down - origin, right - origin], axis=1)  # y, x of the picture = forward @ point + origin
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        points = (np.stack([y, x], axis=-1) - origin) @ np.linalg.inv(forward).T + margin - 0.5
        sampled = cv2.remap(
            world, points[..., 1].astype(np.float32), points[..., 0].astype(np.float32), cv2.INTER_CUBIC
        )
        pictures.append(sampled)
    return np.stack(pictures)


def patch_features(frames: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(f, n, c): what a patient network might say of each token, the blurred colours in and around it."""
    height, width = frames.shape[1:3]
    step = height // grid[0], width // grid[1]
    described: list[np.ndarray] = []
    for frame in frames:
        small = cv2.resize(frame, (grid[1] * 4, grid[0] * 4), interpolation=cv2.INTER_AREA).astype(np.float32) - 128
        reach = np.pad(small, ((4, 4), (4, 4), (0, 0)), mode="edge")
        shifts: Sequence[tuple[int, int]] = [(dy, dx) for dy in range(12) for dx in range(12)]
        parts = [reach[dy : dy + grid[0] * 4 : 4, dx : dx + grid[1] * 4 : 4] for dy, dx in shifts]
        described.append(np.concatenate([part.reshape(grid[0] * grid[1], 3) for part in parts], axis=1))
    assert step[0] == step[1]
    return np.stack(described)
