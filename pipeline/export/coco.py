"""COCO: a panoptic picture per frame, or an annotation with a run-length mask per segment and frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from pipeline.export.json_lists import write_with_list
from pipeline.export.labelled_clip import Advance, LabelledClip
from pipeline.media.pictures import write_image


def write_panoptic(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """panoptic.json and panoptic/FRAME.png, whose colours are ids: R + 256 G + 256² B; 0 = in no segment.

    A segment has the same id, its label + 1, in all frames.
    """
    categories, ids = clip.categories(), np.zeros(65536, np.uint32)
    for segment in clip.segments:
        ids[segment.id] = segment.id + 1

    def annotations() -> Iterator[list[str]]:
        for number, (frame, plane) in enumerate(zip(clip.frames, clip.planes(), strict=True), 1):
            values = ids[plane]
            colours = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8)
            write_image(folder / "panoptic" / f"{frame}.png", colours)
            present = np.bincount(plane.ravel(), minlength=65536)
            infos = [
                {
                    "id": segment.id + 1,
                    "category_id": categories[str(segment.name)],
                    "area": int(present[segment.id]),
                    "bbox": _box(plane == segment.id),
                    "iscrowd": 0,
                }
                for segment in clip.segments
                if present[segment.id]
            ]
            yield [json.dumps({"image_id": number, "file_name": f"{frame}.png", "segments_info": infos})]
            advance(1)

    write_with_list(folder / "panoptic.json", _head(clip, isthing=1), "annotations", annotations())


def write_instances(clip: LabelledClip, folder: Path, advance: Advance, components: bool = False) -> None:
    """instances.json: an annotation per segment and frame, with its mask as a compressed run-length code.

    Args:
        components: an annotation per connected part (8 neighbours) of a segment instead.
    """
    categories = clip.categories()

    def annotations() -> Iterator[list[str]]:
        identity = 0
        for number, plane in enumerate(clip.planes(), 1):
            for segment in clip.segments:
                for mask in _parts(plane == segment.id, components):
                    identity += 1
                    entry = {
                        "id": identity,
                        "image_id": number,
                        "category_id": categories[str(segment.name)],
                        "track_id": segment.id + 1,
                        **coded(mask),
                        "iscrowd": 0,
                    }
                    yield [json.dumps(entry)]
            advance(1)

    write_with_list(folder / "instances.json", _head(clip), "annotations", annotations())


def coded(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO has it: `segmentation` (run lengths, compressed), `area`, `bbox` [x, y, w, h]."""
    runs = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {
        "segmentation": {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")},
        "area": int(coco_masks.area(runs)),
        "bbox": [int(side) for side in coco_masks.toBbox(runs)],
    }


def _head(clip: LabelledClip, **more: Any) -> dict[str, Any]:
    height, width = clip.size
    colours = {str(segment.name): segment.color for segment in reversed(clip.segments)}
    return {
        "info": {"description": f"Segments of {clip.name}, found by vidseg"},
        "licenses": [],
        "images": [
            {"id": number, "file_name": f"{frame}.jpg", "width": width, "height": height}
            for number, frame in enumerate(clip.frames, 1)
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": "", **more, "color": list(colours[name] or ())}
            for name, number in clip.categories().items()
        ],
    }


def _box(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of what is set in a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _parts(mask: np.ndarray, components: bool) -> Iterator[np.ndarray]:
    """The mask, or its connected parts; none of an empty one."""
    if not components:
        if mask.any():
            yield mask
        return
    count, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for part in range(1, count):
        yield parts == part
