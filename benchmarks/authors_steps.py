"""The coarse steps and the difference maps as the authors' code does them, literally: token by token, file by file.

Written from the description of what their code computes, for `benchmarks.coarse` to measure beside ours. Results
equal those of `pipeline.segmentation.authors_code` and of the `wrapped` difference maps, which the benchmark checks.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier

#: Tokens that are matched at a time.
BATCH = 500


def kmeans(tokens: np.ndarray, clusters: int, restarts: int) -> tuple[np.ndarray, float]:
    """Labels (n,) and inertia of tokens (n, c)."""
    model = KMeans(clusters, n_init=restarts, random_state=0).fit(tokens)
    return model.predict(tokens), float(model.inertia_)


def nearest_labels(memory: np.ndarray, labels: np.ndarray, features: np.ndarray, neighbors: int) -> np.ndarray:
    """Labels (f, n) of features (f, n, c) from labelled tokens (m, c)."""
    model = KNeighborsClassifier(neighbors).fit(memory, labels)
    return model.predict(features.reshape(-1, features.shape[-1])).reshape(features.shape[:2])


def refine(features: np.ndarray, labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Labels (f, n) after their correspondence-based refinement along trajectories of features (f, n, c)."""
    rows, columns = trajectories(features, grid)
    planes = labels.reshape(len(labels), *grid)
    refined = planes.copy()
    frames = range(len(labels))
    for token in range(rows.shape[1]):
        row, column = rows[:, token], columns[:, token]
        if any(row[at] - row[at - 1] > 1 or column[at] - column[at - 1] > 1 for at in frames[1:]):
            continue
        votes = Counter([planes[at, row[at], column[at]] for at in frames])
        winner = votes.most_common(1)[0][0]
        for at in frames:
            refined[at, row[at], column[at]] = winner
    return refined.reshape(labels.shape)


def trajectories(features: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (f, n) that the tokens of the first frame go to."""
    first = _unit(features[0])
    track = np.arange(features.shape[1])
    visited = [track]
    for frame in range(len(features) - 1):
        target = _unit(features[frame + 1])
        following: list[int] = []
        for start in range(0, len(track), BATCH):
            source = _unit(features[frame][track[start : start + BATCH]])
            scores, anchor = source @ target.T, source @ first.T
            mixed = frame / (frame + 1) * scores + 1 / (frame + 1) * anchor
            following += [int(np.argpartition(row, -1)[-1]) for row in mixed]
        track = np.array(following)
        visited.append(track)
    rows, columns = np.unravel_index(np.stack(visited), grid)
    return rows, columns


def _unit(tokens: np.ndarray) -> np.ndarray:
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def difference_map(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """The difference map of two uint8 images (H, W, 3), before it is stored: (H, W) float64."""
    return cv2.GaussianBlur(np.sqrt(np.sum((plus - minus) ** 2, axis=2)), (5, 5), 3)


def competing_map(stored: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    """A stored map (H, W) uint8 divided by its maximum and filtered with a mask (h, w) of 0 and 255."""
    values = stored / (np.max(stored) + 1e-5)
    size = stored.shape[1], stored.shape[0]
    inside = np.array(Image.fromarray(mask).resize(size, Image.Resampling.LANCZOS)) / 255.0
    return values * inside + strength * values * (1 - inside)


def label_frame(
    images: Sequence[tuple[np.ndarray, np.ndarray]], masks: Sequence[np.ndarray], strength: float
) -> np.ndarray:
    """Index (H, W) of the winning label of one frame, without a disk: maps go through JPEG in memory.

    Args:
        images: I+ and I- of every label, (H, W, 3) uint8.
        masks: (h, w) uint8 of 0 and 255.
    """
    competing = []
    for (plus, minus), mask in zip(images, masks, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(difference_map(plus, minus)).convert("L").save(buffer, format="JPEG")
        competing.append(competing_map(np.array(Image.open(buffer)), mask, strength))
    return np.argmax(np.array(competing), axis=0)


def save_images(images: Sequence[tuple[np.ndarray, np.ndarray]], masks: Sequence[np.ndarray], folder: Path) -> None:
    """What lies on disk before the difference maps are made: images and masks as PNG."""
    for index, ((plus, minus), mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(plus).save(folder / f"plus_{index}.png")
        Image.fromarray(minus).save(folder / f"minus_{index}.png")
        Image.fromarray(mask).save(folder / f"mask_{index}.png")


def label_frame_from_files(folder: Path, count: int, strength: float) -> np.ndarray:
    """Like `label_frame`, from the PNGs of `save_images`; maps, their pictures and the labels are written."""
    for index in range(count):
        plus, minus = (np.array(Image.open(folder / f"{sign}_{index}.png")) for sign in ("plus", "minus"))
        values = difference_map(plus, minus)
        Image.fromarray(values).convert("L").save(folder / f"map_{index}.jpg")
        Image.fromarray(values / values.max() * 255).convert("L").save(folder / f"picture_{index}.jpg")
    competing = []
    for index in range(count):
        stored = np.array(Image.open(folder / f"map_{index}.jpg"))
        competing.append(competing_map(stored, np.array(Image.open(folder / f"mask_{index}.png")), strength))
    winner = np.argmax(np.array(competing), axis=0)
    Image.fromarray(winner.astype(np.uint8)).save(folder / "labels.png")
    return winner
