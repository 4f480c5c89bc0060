"""What is exported: a clip's labels, frame by frame, and the segments that are chosen of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.naming.segments import Segment, segments_of, void_of
from pipeline.rendering.clip_frames import ClipPictures, frames_of
from pipeline.rendering.label_summary import LabelTally
from pipeline.rendering.palette import overlay_colours
from pipeline.stores.store import Store

#: Told of so many more frames that are done.
Advance = Callable[[int], None]


@dataclass(frozen=True)
class LabelledClip:
    """A clip with labels, read one frame at a time.

    Attributes:
        name: of the video.
        labels: labels.zarr or named.zarr.
        pictures: the clip's frames at the source's size.
        segments: those to export, by label; each has a name and a colour.
        whole: whether they are all that appear.
    """

    name: str
    labels: Store
    pictures: ClipPictures
    segments: tuple[Segment, ...]
    whole: bool = True

    @property
    def frames(self) -> list[str]:
        """Names of the frames."""
        return [str(name) for name in self.pictures.clip.attrs["names"]]

    @property
    def source_indices(self) -> list[int]:
        """Which frames of the video the clip has."""
        return [int(index) for index in self.pictures.clip.attrs["source_indices"]]

    @property
    def size(self) -> tuple[int, int]:
        """(H0, W0) of labels and pictures."""
        return self.pictures.size

    def planes(self) -> Iterator[np.ndarray]:
        """Label maps (H0, W0) of all frames in order; can be called any number of times."""
        return frames_of(self.labels, "labels")

    def categories(self) -> dict[str, int]:
        """Names of segments, each once, with numbers 1, 2, ... in the order of labels: segments may share a name."""
        names = dict.fromkeys(str(segment.name) for segment in self.segments)
        return {name: number for number, name in enumerate(names, 1)}


def labelled_clip(
    name: str, labels: Store, pictures: ClipPictures, chosen: Sequence[str], advance: Advance
) -> LabelledClip:
    """The clip with the segments that are chosen, or all that appear in it.

    Args:
        chosen: labels (`3`) or names; none = all segments.
        advance: told of each frame: all are read once.

    Raises:
        DataError: labels and pictures are of different clips, or a frame has a name that no file may have.
        UsageError: a segment that is not there is chosen.
    """
    frames = pictures.clip.attrs["names"]
    if labels.frames("labels") != len(frames) or tuple(labels.array("labels").shape[1:]) != pictures.size:
        raise DataError(f"{labels.path} and {pictures.clip.path} are of different clips; run `vidseg run` again")
    for frame in frames:
        if str(frame) in (".", "..") or any(sign in str(frame) for sign in "/\\\0"):
            raise DataError(f"{pictures.clip.path}: '{frame}' cannot be a frame's name; run `vidseg ingest` again")
    tally, void, named = LabelTally(), void_of(labels), segments_of(labels)
    for plane in frames_of(labels, "labels"):
        tally.add(plane)
        advance(1)
    colours = overlay_colours()
    found = []
    for label in sorted(tally.pixels):
        if label != void:
            segment = named.get(label, Segment(label))
            red, green, blue = colours[label % len(colours)].tolist()
            found.append(
                replace(segment, name=segment.name or nameless(label), color=segment.color or (red, green, blue))
            )
    segments = _chosen(found, chosen) if chosen else tuple(found)
    return LabelledClip(name, labels, pictures, segments, whole=len(segments) == len(found))


def nameless(label: int) -> str:
    """What a segment is called that nobody named."""
    return f"label {label}"


def _chosen(segments: Sequence[Segment], chosen: Sequence[str]) -> tuple[Segment, ...]:
    wanted: set[int] = set()
    for text in chosen:
        labels = {segment.id for segment in segments if text in (str(segment.id), segment.name)}
        if not labels:
            known = ", ".join(f"{s.id} ({s.name})" for s in segments)
            raise UsageError(f"--segment {text}: this video has no such segment; there are: {known}")
        wanted |= labels
    return tuple(segment for segment in segments if segment.id in wanted)
