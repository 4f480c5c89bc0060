"""videos.yaml: add and list the items that `dvc repro` works on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from stages.common import cli, yaml_files
from stages.common.layout import KEY, NONE, item_keys, item_videos

VIDEOS = Path("videos.yaml")
#: With seven stages each, DVC's graph stays below 300 stages, above which it is slow.
MOST_ITEMS = 42

app = cli.new_app("List and add the videos that `dvc repro` works on (videos.yaml).")


@app.callback()
def group() -> None:
    """List and add the videos that `dvc repro` works on (videos.yaml)."""


@app.command()
def add(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    key: Annotated[str | None, typer.Option(help="name of the item; default: made of the file's name")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs named like the frames")] = None,
    classes: Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")] = None,
    mask: Annotated[Path | None, typer.Option(help="label PNG of the first frame, for segment.init: mask")] = None,
    fps: Annotated[float | None, typer.Option(help="frame rate, for a folder of frames")] = None,
) -> None:
    """Add one video to videos.yaml as an item of its own; comments in the file stay.

    Example: vidseg videos add ~/holiday.mp4 --key holiday
    """
    given = {"path": video, "ground_truth": ground_truth, "classes": classes, "mask": mask}
    for option, path in given.items():
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder (--{option.replace('_', '-')})")
    entry: dict[str, Any] = {name: NONE if path is None else str(path.resolve()) for name, path in given.items()}
    if fps is not None:
        entry["fps"] = fps
    name = re.sub(r"[^A-Za-z0-9_]+", "-", video.stem).strip("-") if key is None else key
    if not KEY.fullmatch(name):
        raise UsageError(f"'{key or video.stem}': keys may hold letters, digits, '_' and '-' only; give one with --key")
    _write(name, entry)
    cli.note(f"{VIDEOS}: item '{name}' added; run it with: dvc repro render@{name} evaluate@{name}")


@app.command("list")
def show() -> None:
    """List the items of videos.yaml with their videos.

    Example: vidseg videos list
    """
    for key in item_keys(VIDEOS):
        print(f"{key}: {', '.join(video['path'] for video in item_videos(key, VIDEOS))}")


def check_keys(keys: Iterable[str], registration: str) -> None:
    """Check that items may be written: their keys are free, or hold what the same registration wrote.

    Raises:
        UsageError: no videos.yaml, or an item of that key that is of another origin.
    """
    items = yaml_files.read(VIDEOS, "run this in the project's folder").get("items") or {}
    for key in keys:
        if key in items and not _is_of(items[key], registration):
            raise UsageError(
                f"{VIDEOS}: there is an item '{key}' already that is not of the registration '{registration}'; "
                "choose another --name or remove the item"
            )


def count_others(registration: str) -> int:
    """How many items are not of that registration."""
    items = yaml_files.read(VIDEOS, "run this in the project's folder").get("items") or {}
    return sum(not _is_of(entries, registration) for entries in items.values())


def replace_items(entries: Mapping[str, list[dict[str, Any]]], registration: str) -> None:
    """Write the items of a registration in place of those that it wrote earlier; `check_keys` has passed."""
    content = yaml_files.read(VIDEOS, "run this in the project's folder")
    items = content["items"] = content.get("items") or {}
    for key in [key for key in items if key not in entries and _is_of(items[key], registration)]:
        del items[key]
    items.update(entries)
    yaml_files.write(VIDEOS, content)


def _is_of(entries: Any, registration: str) -> bool:
    return bool(entries) and all(isinstance(entry, dict) and entry.get("dataset") == registration for entry in entries)


def _write(key: str, entry: dict[str, Any]) -> None:
    content = yaml_files.read(VIDEOS, "run this in the project's folder")
    items = content.setdefault("items", {})
    if key in items:
        raise UsageError(f"{VIDEOS}: there is an item '{key}' already; choose another --key or edit the file")
    if len(items) >= MOST_ITEMS:
        raise UsageError(
            f"{VIDEOS}: {len(items)} items already, and DVC is slow with more (300 stages); "
            "`vidseg dataset register FOLDER --dataset folders` joins many videos to few items"
        )
    items[key] = [entry]
    yaml_files.write(VIDEOS, content)


if __name__ == "__main__":
    cli.run_app(app)
