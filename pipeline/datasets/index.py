"""index.json of an item of several videos: what each of its files held when the data set was registered.

DVC watches this file instead of the frames and label maps, which a `.dvcignore` hides: in data sets of hundreds of
videos they are tens of thousands, and DVC looks at each of them in every `dvc status` and `dvc repro`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.listing import Video
from pipeline.errors import DataError
from pipeline.files import require_version

FILE = "index.json"
SCHEMA, VERSION = "index", 1
#: Folders of a video: frames and label maps, with their class list.
FOLDERS = ("frames", "labels")
IGNORE_FILE = ".dvcignore"
IGNORED = f"""# DVC watches each item's {FILE} instead of these; `vidseg dataset check` tells what has changed.
/*/*/frames/
/*/*/labels/
"""
#: What to do when files have changed.
REMEDY = "run `vidseg dataset register` as before (with --reread where a file kept its size and time), then `dvc repro`"


@dataclass(frozen=True)
class FileState:
    """Bytes, time of the last change in nanoseconds, and SHA-256 (hex, 32 digits) of a file's content."""

    size: int
    modified: int
    digest: str


def file_state(file: Path, known: FileState | None = None) -> FileState:
    """The state of a file; one of the size and time that are known is not read again."""
    found = file.stat()
    if known is not None and (known.size, known.modified) == (found.st_size, found.st_mtime_ns):
        return known
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    return FileState(found.st_size, found.st_mtime_ns, digest)


def file_states(
    videos: Iterable[Video], known: Mapping[str, FileState], seen: Callable[[int], object]
) -> dict[str, FileState]:
    """The states of all frames and label maps of some videos, by their absolute paths.

    Args:
        known: of an earlier registration.
        seen: called with 1 for each file.
    """
    files = [path.resolve() for video in videos for path in (*(f.image for f in video.frames), *video.annotated)]

    def look(file: Path) -> FileState:
        return file_state(file, known.get(str(file)))

    states = {}
    with ThreadPoolExecutor() as pool:
        for file, state in zip(files, pool.map(look, files), strict=True):
            states[str(file)] = state
            seen(1)
    return states


def write_index(item: Path, states: Mapping[str, FileState]) -> None:
    """Write index.json of an item's folder, in which its videos lie.

    Args:
        states: of the files that the folder links to, by their absolute paths.
    """
    videos: dict[str, dict[str, str]] = {}
    for name, file in _files(item):
        state = states.get(str(file.resolve())) if file.is_symlink() else None
        video, _, place = name.partition("/")
        videos.setdefault(video, {})[place] = (state or file_state(file)).digest
    content = {"schema": SCHEMA, "schema_version": VERSION, "videos": videos}
    (item / FILE).write_text(json.dumps(content, indent=1) + "\n")


def changes(item: Path, video: str | None = None, known: Mapping[str, FileState] | None = None) -> dict[Path, str]:
    """The files of an item, or of one of its videos, that are not what index.json says: "changed", "gone", "new".

    Args:
        known: states of files by their absolute paths; those of the same size and time are not read.

    Raises:
        DataError: index.json is missing or cannot be read.
    """
    listed = {name: digest for name, digest in _read(item).items() if video in (None, name.partition("/")[0])}
    there = dict(_files(item, video))
    states = known or {}

    def look(name: str) -> str | None:
        file = there.get(name)
        if file is None or not file.exists():
            return "gone"
        return None if file_state(file, states.get(str(file.resolve()))).digest == listed[name] else "changed"

    with ThreadPoolExecutor() as pool:
        found = {item / name: what for name, what in zip(listed, pool.map(look, listed), strict=True) if what}
    return {**found, **{file: "new" for name, file in there.items() if name not in listed}}


def index_of(frames: Path) -> Path | None:
    """The index.json of the item of a video, given by its folder of frames; None where DVC looks at the frames."""
    file = frames.parent.parent / FILE
    hidden = file.parent.parent / IGNORE_FILE  # a project's own lies beside other folders
    return file if file.is_file() and hidden.is_file() and FILE in hidden.read_text() else None


def folder_of(path: str) -> str:
    """The folder that a path of videos.yaml stands for: that of an index.json; any other path is the folder."""
    return str(Path(path).parent) if Path(path).name == FILE else path


def require_unchanged(frames: Path) -> None:
    """Check a video, given by its folder of frames, before it is read; one of no item with an index.json passes.

    Raises:
        DataError: names the first file that is not as it was registered.
    """
    index = index_of(frames)
    if index is not None and (found := changes(index.parent, frames.parent.name)):
        file, what = next(iter(found.items()))
        others = f" and {len(found) - 1} more files" if len(found) > 1 else ""
        raise DataError(f"{file}{others}: {what} since the data set was registered; {REMEDY}")


def _files(item: Path, video: str | None = None) -> list[tuple[str, Path]]:
    """All files of an item's videos by their names relative to it, in order."""
    found = (path for folder in FOLDERS for path in item.glob(f"{video or '*'}/{folder}/*"))
    return sorted((path.relative_to(item).as_posix(), path) for path in found)


def _read(item: Path) -> dict[str, str]:
    path = item / FILE
    try:
        content = json.loads(path.read_text())
        require_version(path, content, VERSION, "register the data set again")
        return {
            f"{video}/{place}": digest for video, files in content["videos"].items() for place, digest in files.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not readable ({error}); register the data set again") from error
