"""Records of scored videos, as evaluate makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.scoring.assignment import IDENTITY
from pipeline.scoring.scores import ScoredClasses, score_video

WINDOWS = (2, 3)


def noisy_video(seed: int, share_right: float = 0.7, names: tuple[str, ...] = ("sky", "road", "car")) -> dict[str, Any]:
    """Six frames of a still scene, of which about this share of pixels is labelled right."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, len(names), (1, 5, 6)), 6, axis=0).astype(np.uint8)
    labels = np.where(rng.random(truth.shape) < share_right, truth, rng.integers(0, len(names), truth.shape))
    return video(truth, labels.astype(np.uint8), names)


def video(truth: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """The record of labels (f, H, W) against ground truth of the same shape; class values are 0, 1, ..."""
    classes = ScoredClasses(dict(enumerate(names)), (255,))
    scored = score_video(truth, labels, range(len(truth)), classes, classes.protocol("strict"), IDENTITY, WINDOWS)
    return {
        "name": "v",
        "ground_truth": True,
        "frames": len(truth),
        "scored_frames": len(truth),
        "height": truth.shape[1],
        "width": truth.shape[2],
        "classes": [{"value": value, "name": name} for value, name in enumerate(names)],
        "oracle_assignment": False,
        "davis": None,
        **scored,
    }
