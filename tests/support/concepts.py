"""A tiny concept and what it is applied to: for tests of `learn` and `apply`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.parameters import ApplyParams, GuidanceParams, LearnAugment, LearnParams, TrackParams
from tests.support.commands import write_frames, write_labels

#: Seconds rather than minutes.
LEARN = LearnParams(
    size=64, epochs=3, phase1_iterations=3, lr_weights=1e-3, augment=LearnAugment(dropout=0, zoom_out=0)
)
GUIDANCE = GuidanceParams(iterations=2, group=2)
APPLY = ApplyParams(timesteps=(100, 99), chunk=3, overlap=1)
TRACK = TrackParams(window=5)


def halves(frames: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (f, H, W, 3) u8 that are bright on the left and dark on the right, and their labels (f, H, W) u8."""
    images = np.random.default_rng(seed).integers(128, 256, (frames, *size, 3), dtype=np.uint8)
    labels = np.zeros((frames, *size), np.uint8)
    labels[:, :, size[1] // 2 :] = 1
    images[labels == 1] //= 4
    return images, labels


def write_references(folder: Path, count: int = 2) -> Path:
    """Annotated images of two segments."""
    images, labels = halves(count)
    write_frames(folder / "images", images)
    write_labels(folder / "labels", labels)
    return folder
