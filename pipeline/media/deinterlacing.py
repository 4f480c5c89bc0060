"""Interlaced frames as whole pictures, by libavfilter's `bwdif`."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph

from pipeline.media.colours import filter_graph
from pipeline.media.frame_source import Notes


class Deinterlacer:
    """Deinterlaces the frames that are marked as interlaced, each with a look at its neighbours."""

    def __init__(self, active: bool, notes: Notes) -> None:
        self._active, self._notes = active, notes
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None
        self._base = Fraction(1)

    def add(self, frame: av.VideoFrame) -> Iterator[tuple[av.VideoFrame, str]]:
        """What can be given out after another frame."""
        kind = (frame.width, frame.height, frame.format.name)
        if not self._active or frame.is_corrupt or (self._graph is None and not frame.interlaced_frame):
            yield from self.rest()
            yield frame, ""
            return
        if kind != self._kind:
            yield from self.rest()
        if self._graph is None:
            self._notes.add("interlaced, and deinterlaced; ingest.deinterlace: never keeps its fields", warns=False)
            self._kind, self._base = kind, frame.time_base or Fraction(1)
            self._graph = filter_graph(*kind, [("bwdif", "mode=send_frame:deint=interlaced")], self._base)
        self._graph.push(frame)
        yield from self._ready()

    def rest(self) -> Iterator[tuple[av.VideoFrame, str]]:
        """What is still held back, before a gap or the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator[tuple[av.VideoFrame, str]]:
        assert self._graph is not None
        while True:
            try:
                frame: Any = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if frame.pts is not None and frame.time_base:  # the filter counts in half units
                frame.pts, frame.time_base = round(frame.pts * frame.time_base / self._base), self._base
            yield frame, ""
