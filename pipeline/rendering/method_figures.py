"""The paper's figures 6 and 7 for one frame of one's own: what aggregation and what latent blending do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.rendering.drawing import heat, overlay, resized, width_within
from pipeline.rendering.label_summary import corresponding
from pipeline.rendering.sheets import Panel, montage
from pipeline.upsampling.labelling import LabelledFrame

#: The longer side of a panel.
SIDE = 400


def middle_label(plane: np.ndarray) -> int:
    """The label of middle area in a coarse map (h, w): neither a speck nor the background."""
    labels, counts = np.unique(plane, return_counts=True)
    return int(labels[np.argsort(counts, kind="stable")[len(labels) // 2]])


def differences_figure(
    image: np.ndarray,
    plane: np.ndarray,
    label: int,
    results: Mapping[str, LabelledFrame],
    colours: np.ndarray,
    opacity: float,
) -> np.ndarray:
    """Figure 7: a frame, a label's coarse mask, and under each title its difference map and all labels.

    Args:
        image: (H0, W0, 3), the frame at the source's size.
        plane: (h, w) coarse labels.
        label: the one whose maps are shown.
        results: by title, e.g. without and with blending.
    """
    mask = resize_nearest((plane == label).astype(np.uint8), image.shape[:2])
    region = image.copy()
    region[mask == 0] //= 5
    columns = [[Panel(image, "frame"), Panel(region, f"coarse mask of label {label}")]]
    for title, result in results.items():
        difference = heat(result.differences[label])
        labels = overlay(image, result.labels, colours, opacity)
        columns.append([Panel(difference, f"difference, {title}"), Panel(labels, f"labels, {title}")])
    return _shrunk([list(row) for row in zip(*columns, strict=True)])


def blocks_figure(
    image: np.ndarray, results: Mapping[str, np.ndarray], colours: np.ndarray, opacity: float
) -> np.ndarray:
    """Figure 6: a frame and, by title, its labels (H0, W0), in the first one's colours where they agree."""
    reference = next(iter(results.values()))
    panels = [Panel(image, "frame")]
    for title, labels in results.items():
        table = corresponding(labels, reference)
        lookup = np.zeros(max(table) + 1, np.int64)
        lookup[list(table)] = list(table.values())
        panels.append(Panel(overlay(image, lookup[labels], colours, opacity), title))
    return _shrunk([panels])


def _shrunk(rows: list[list[Panel]]) -> np.ndarray:
    width = width_within(rows[0][0].image.shape[:2], SIDE)
    return montage([[Panel(resized(panel.image, width), panel.caption) for panel in row] for row in rows])
