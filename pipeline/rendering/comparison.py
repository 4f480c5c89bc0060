"""Two runs on one clip side by side, in matching colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.parameters import renamed
from pipeline.rendering.clip_frames import ClipPictures, frames_of
from pipeline.rendering.drawing import overlay, resized, width_within
from pipeline.rendering.label_summary import corresponding
from pipeline.rendering.palette import LABELS
from pipeline.rendering.sheets import Panel, montage, spread
from pipeline.stores.store import Store

#: The longer side of one half, at most.
HALF = 960

#: Every 4th pixel of that many frames tells which labels belong together.
_FRAMES, _STEP = 64, 4


def side_by_side(
    pictures: ClipPictures, first: Store, second: Store, colours: np.ndarray, opacity: float
) -> Iterator[np.ndarray]:
    """Overlays (H, W, 3) of two stores of labels, captioned with the parameters in which the runs differ.

    Clusters of two runs are numbered independently; the second's labels take the colours of those of the
    first that they overlap most.
    """
    table = matching(first, second)
    lookup = np.arange(LABELS)  # also of labels that no thinned frame shows
    lookup[list(table)] = list(table.values())
    captions = differing(first.params, second.params)
    width = min(pictures.size[1], width_within(pictures.size, HALF))
    planes = zip(frames_of(first, "labels"), frames_of(second, "labels"), strict=True)
    for image, (left, right) in zip(pictures.images(), planes, strict=True):
        halves = [overlay(image, plane, colours, opacity) for plane in (left, lookup[right])]
        panels = [Panel(resized(half, width), text) for half, text in zip(halves, captions, strict=True)]
        yield montage([panels])


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str]:
    """Two captions that name the parameters (section -> stored key -> value) in which two runs differ."""
    flat = [
        {f"{section}.{key}": value for section, values in params.items() for key, value in values.items()}
        for params in (first, second)
    ]
    keys = [key for key in sorted({*flat[0], *flat[1]}) if flat[0].get(key) != flat[1].get(key)]
    texts = [", ".join(f"{renamed().get(key, key)} = {values.get(key, '-')}" for key in keys) for values in flat]
    return (f"A: {texts[0]}", f"B: {texts[1]}") if keys else ("A", "B")


def matching(first: Store, second: Store) -> dict[int, int]:
    """For each label of the second store the one of the first that it overlaps most; see `corresponding`."""
    shown = spread(first.frames("labels"), _FRAMES)
    thinned = [
        np.stack([store.read("labels", frame, frame + 1)[0, ::_STEP, ::_STEP] for frame in shown])
        for store in (second, first)
    ]
    return corresponding(*thinned)
