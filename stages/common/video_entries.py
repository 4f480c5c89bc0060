"""What videos.yaml says of each video of an item, as ingest takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.parameters import MOST_FPS, IngestParams
from stages.common.layout import NAME, PATHS, item_videos, video_name
from stages.common.settings import from_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a video's entry may hold. `dataset` names the registration that wrote it.
KEYS = frozenset({*PATHS, "name", "fps", "resize", "cuts", "dataset", "videos"})


@dataclass(frozen=True)
class VideoEntry:
    """One video of an item.

    Attributes:
        name: of its folder in the item's; None = the item has no other video, and no such folders.
        path: of the video.
        recorded: what source/ says of it; a relative path is the same in every clone of the project.
        ground_truth, classes, mask: paths; None = there is none.
        fps: None = what the video or `ingest.fps` says.
        params: with the video's own size and cuts.
    """

    name: str | None
    path: Path
    recorded: Path
    ground_truth: Path | None
    classes: Path | None
    mask: Path | None
    fps: float | None
    params: IngestParams


def video_entries(key: str, params: IngestParams) -> list[VideoEntry]:
    """The videos of an item in videos.yaml.

    Raises:
        UsageError: no such item, or an entry that is not understood.
    """
    entries = item_videos(key)
    names = video_names(key, entries)
    return [_entry(key, name, entry, params) for name, entry in zip(names, entries, strict=True)]


def video_names(key: str, entries: Sequence[dict[str, Any]]) -> list[str | None]:
    """The sub-folders of an item's videos; [None] for an item of one video, which has none.

    Raises:
        UsageError: an unknown key, a rate that is none, or a name that is no folder's or occurs twice.
    """
    for entry in entries:
        if "size" in entry:
            raise UsageError(
                f"videos.yaml: item '{key}' has the entry 'size', which is called 'resize' now: DVC's run-cache does "
                "not look at keys of that name, and would take the frames of another size; rename it"
            )
        unknown = sorted(map(str, set(entry) - KEYS))
        if unknown:
            raise UsageError(
                f"videos.yaml: item '{key}' has the unknown entry '{unknown[0]}'; there are: {', '.join(sorted(KEYS))}"
            )
        fps = entry.get("fps")
        if fps is not None and not (isinstance(fps, int | float) and 0 < fps <= MOST_FPS):
            raise UsageError(f"videos.yaml: item '{key}': fps must be a number above 0, not {fps!r}")
    if len(entries) == 1:
        return [None]
    names = [video_name(entry) for entry in entries]
    for name in names:
        if not NAME.fullmatch(name) or name in (".", "..") or names.count(name) > 1:
            raise UsageError(
                f"videos.yaml: item '{key}' needs a `name` of its own for each video, of letters, digits, "
                f"'.', '_' and '-'; '{name}' is not"
            )
    return list(names)


def _entry(key: str, name: str | None, entry: dict[str, Any], params: IngestParams) -> VideoEntry:
    path = Path(entry["path"])
    own = replace(params, size=entry.get("resize", params.size))
    if "cuts" in entry:
        where = {"ingest.cuts": f"videos.yaml, item '{key}'"}
        own = replace(own, cuts=from_mapping("ingest", IngestParams, {"cuts": entry["cuts"]}, where).cuts)
    return VideoEntry(
        name,
        path,
        recorded=path.resolve() if path.is_absolute() else path,
        ground_truth=_path(entry, "ground_truth"),
        classes=_path(entry, "classes"),
        mask=_path(entry, "mask"),
        fps=entry.get("fps"),
        params=own,
    )


def _path(entry: dict[str, Any], key: str) -> Path | None:
    from pipeline.truth.annotations import is_placeholder

    path = Path(entry[key]) if entry.get(key) is not None else None
    return None if path is not None and is_placeholder(path) else path
