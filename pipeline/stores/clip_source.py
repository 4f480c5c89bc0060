"""Where a clip came from: source/source.json beside clip.zarr. Drawing needs it; the clip's pixels do not.

It is kept apart from the store, so that the same video in another folder, or shown at another rate, is the
same clip to every stage that computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.media.frame_source import Reading
from pipeline.stores.record_folder import RecordFolder

FILE = "source.json"
KIND = RecordFolder(FILE, "source")
MARK = KIND.mark


@dataclass(frozen=True)
class ClipSource:
    """A clip's video or folder of frames, the clip's own frames per second, and how the video is read.

    The path is absolute, or relative to the project's folder where videos.yaml says so.
    """

    path: Path
    fps: float
    reading: Reading = field(default_factory=Reading)


def write_source(folder: Path, source: ClipSource, scratch: Path) -> None:
    """Write source.json into a folder of its own, by one rename; `scratch` is a path for it on the same disk.

    Raises:
        DataError: something else lies there.
    """
    content: dict[str, object] = {"path": str(source.path), "fps": source.fps}
    if source.reading != Reading():
        content["reading"] = asdict(source.reading)
    KIND.write(folder, content, scratch)


def read_source(folder: Path) -> ClipSource:
    """Read what `write_source` wrote.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    return KIND.read(folder, _parsed)


def _parsed(content: Mapping[str, Any]) -> ClipSource:
    reading = Reading(**content.get("reading", {}))
    source = ClipSource(Path(content["path"]), float(content["fps"]), reading)
    if not 0 < source.fps < math.inf:
        raise ValueError(f"fps is {source.fps}")
    return source
