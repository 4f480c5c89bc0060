"""CVAT: masks in the XML of "CVAT for video 1.1", and the labels that a task needs for them.

CVAT keeps the first mask of a track only (it does not track masks), so each frame of a segment is a track of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from pipeline.export.labelled_clip import Advance, LabelledClip


def write_cvat(clip: LabelledClip, folder: Path, advance: Advance) -> None:
    """cvat.xml, and cvat_labels.json for the field "Raw" of a task's labels; frames are numbered as in the source."""
    labels = _labels(clip)
    (folder / "cvat_labels.json").write_text(json.dumps(labels, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "cvat.xml").open("w", encoding="utf-8") as stream:
        xml = _Document(XMLGenerator(stream, encoding="utf-8", short_empty_elements=True))
        xml.out.startDocument()
        with xml.element("annotations"):
            xml.text("version", "1.1")
            with xml.element("meta"), xml.element("task"):
                _meta(xml, clip, labels)
            number = 0
            for frame, plane in zip(clip.source_indices, clip.planes(), strict=True):
                for segment in clip.segments:
                    mask = plane == segment.id
                    if mask.any():
                        with xml.element("track", {"id": number, "label": segment.name, "source": "file"}):
                            xml.empty(
                                "mask", {"frame": frame, "keyframe": 1, "outside": 0, "occluded": 0, **coded(mask)}
                            )
                        number += 1
                advance(1)
        xml.out.endDocument()


def coded(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool, not empty, as CVAT has it: a box, and run lengths in it by rows, those outside first."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])
    values = mask[top : bottom + 1, left : right + 1].ravel()
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs = np.diff([0, *changes.tolist(), values.size]).tolist()
    if values[0]:
        runs = [0, *runs]
    return {
        "rle": ", ".join(map(str, runs)),
        "left": left,
        "top": top,
        "width": right - left + 1,
        "height": bottom - top + 1,
        "z_order": 0,
    }


def _labels(clip: LabelledClip) -> list[dict[str, Any]]:
    colours = {str(segment.name): segment.color for segment in reversed(clip.segments)}
    return [
        {"name": name, "color": "#" + bytes(colours[name] or ()).hex(), "type": "mask", "attributes": []}
        for name in clip.categories()
    ]


def _meta(xml: _Document, clip: LabelledClip, labels: list[dict[str, Any]]) -> None:
    height, width = clip.size
    indices = clip.source_indices
    for name, text in (
        ("name", clip.name), ("size", indices[-1] + 1), ("mode", "interpolation"), ("overlap", 0),
        ("start_frame", 0), ("stop_frame", indices[-1]),
    ):  # fmt: skip
        xml.text(name, text)
    with xml.element("labels"):
        for label in labels:
            with xml.element("label"):
                for name in ("name", "color", "type"):
                    xml.text(name, label[name])
                xml.empty("attributes")
    with xml.element("original_size"):
        xml.text("width", width)
        xml.text("height", height)


class _Document:
    """Writes XML element by element."""

    def __init__(self, out: XMLGenerator) -> None:
        self.out = out

    @contextmanager
    def element(self, name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[None]:
        self.out.startElement(name, AttributesImpl({key: str(value) for key, value in (attributes or {}).items()}))
        yield
        self.out.endElement(name)
        self.out.ignorableWhitespace("\n")

    def empty(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        with self.element(name, attributes):
            pass

    def text(self, name: str, text: Any) -> None:
        with self.element(name):
            self.out.characters(str(text))
