"""Where a clip came from: source/source.json beside clip.zarr. Drawing needs it; the clip's pixels do not.

It is kept apart from the store, so that the same video in another folder, or shown at another rate, is the
same clip to every stage that computes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import Mark, refuse_foreign, replacing_folder
from pipeline.media.frame_source import Reading

FILE = "source.json"
SCHEMA = "source"
SCHEMA_VERSION = 1
MARK = Mark(FILE, SCHEMA, holds=frozenset({FILE}))


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
    refuse_foreign(folder, MARK)
    content: dict[str, object] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
    content |= {"path": str(source.path), "fps": source.fps}
    if source.reading != Reading():
        content["reading"] = asdict(source.reading)
    with replacing_folder(folder, scratch) as made:
        (made / FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_source(folder: Path) -> ClipSource:
    """Read what `write_source` wrote.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text())
        if (content["schema"], content["schema_version"]) != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f"it holds {content['schema']} {content['schema_version']}")
        reading = Reading(**content.get("reading", {}))
        source = ClipSource(Path(content["path"]), float(content["fps"]), reading)
        if not 0 < source.fps < math.inf:
            raise ValueError(f"fps is {source.fps}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable ({error}); run `vidseg ingest` again") from error
    return source
