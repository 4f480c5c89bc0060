"""What is exported: a clip's labels, frame by frame, and the segments that are chosen of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.media.pictures import VOID
from pipeline.naming.segments import Segment, segments_of, void_of
from pipeline.rendering.clip_frames import ClipPictures, frames_of
from pipeline.rendering.label_summary import LabelTally
from pipeline.rendering.palette import overlay_colours
from pipeline.stores.confidence import CONFIDENCE, MOST
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
        void: value of pixels in no segment; None = all are in one that is exported.
        below: confidence (0..1) below which a pixel is in no segment.
    """

    name: str
    labels: Store
    pictures: ClipPictures
    segments: tuple[Segment, ...]
    void: int | None = None
    below: float = 0.0

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
        planes = frames_of(self.labels, "labels")
        if not self.below or self.void is None:
            return planes
        void = np.min_scalar_type(self.void).type(self.void)
        sure = sure_pixels(self.labels, self.below)
        return (np.where(there, plane, void) for there, plane in zip(sure, planes, strict=True))

    def categories(self) -> dict[str, int]:
        """Names of segments, each once, with numbers 1, 2, ... in the order of labels: segments may share a name."""
        names = dict.fromkeys(str(segment.name) for segment in self.segments)
        return {name: number for number, name in enumerate(names, 1)}


def sure_pixels(labels: Store, below: float) -> Iterator[np.ndarray]:
    """Where labels are at least as sure as `below` (0..1): (H0, W0) bool of all frames in order."""
    return (levels >= below * MOST for levels in frames_of(labels, CONFIDENCE))


def labelled_clip(
    name: str,
    labels: Store,
    pictures: ClipPictures,
    chosen: Sequence[str],
    advance: Advance,
    below: float = 0.0,
) -> LabelledClip:
    """The clip with the segments that are chosen, or all that appear in it.

    Args:
        chosen: labels (`3`) or names; none = all segments.
        advance: told of each frame: all are read once.
        below: confidence (0..1) below which a pixel is in no segment; a segment that is never surer is left out.

    Raises:
        DataError: labels and pictures are of different clips, a frame has a name that no file may have, or labels do
            not say how sure they are and `below` asks for it.
        UsageError: a segment that is not there is chosen.
    """
    frames = pictures.clip.attrs["names"]
    if labels.frames("labels") != len(frames) or labels.size("labels") != pictures.size:
        raise DataError(f"{labels.path} and {pictures.clip.path} are of different clips; run `vidseg run` again")
    for frame in frames:
        if str(frame) in (".", "..") or any(sign in str(frame) for sign in "/\\\0"):
            raise DataError(f"{pictures.clip.path}: '{frame}' cannot be a frame's name; run `vidseg ingest` again")
    if below and not labels.has(CONFIDENCE):
        raise DataError(
            f"{labels.path}: does not say how sure its labels are, which --min-confidence asks for; make it again with "
            "--set upsample.confidence=true"
        )
    tally, void, named = LabelTally(), void_of(labels), segments_of(labels)
    sure = sure_pixels(labels, below) if below else None
    surely: set[int] = set()
    for plane in frames_of(labels, "labels"):
        tally.add(plane)
        if sure is not None:
            surely.update(np.unique(plane[next(sure)]).tolist())
        advance(1)
    colours = overlay_colours()
    found = []
    for label in sorted(tally.pixels):
        if label != void and (sure is None or label in surely):
            segment = named.get(label, Segment(label))
            red, green, blue = colours[label % len(colours)].tolist()
            found.append(
                replace(segment, name=segment.name or nameless(label), color=segment.color or (red, green, blue))
            )
    segments = _chosen(found, chosen) if chosen else tuple(found)
    if void is None and (below or len(segments) < len(found)):
        void = next(value for value in (VOID, 65535) if value not in tally.pixels)
    return LabelledClip(name, labels, pictures, segments, void, below)


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
