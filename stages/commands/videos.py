"""videos.yaml: items, concepts, and what concepts are applied to: all that `dvc repro` works on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import IngestParams
from stages.common import cli, yaml_files
from stages.common.applied import applied_of, check_one_video, concept_of, known_frames
from stages.common.layout import KEY, NONE, PARTS, VIDEOS, item_keys, item_videos, read_part, without_names
from stages.common.settings import from_mapping

#: With seven stages each, DVC's graph stays below 300 stages, above which it is slow.
MOST_ITEMS = 41

app = cli.new_app("List and add the videos and concepts that `dvc repro` works on (videos.yaml).")


@app.callback()
def group() -> None:
    """List and add the videos and concepts that `dvc repro` works on (videos.yaml)."""


@app.command()
def add(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    key: Annotated[str | None, typer.Option(help="name of the item; default: made of the file's name")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs named like the frames")] = None,
    classes: Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="label PNG of the first frame, or folder of label PNGs named like frames, for segment.init: mask"
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="frame rate, for a folder of frames")] = None,
    cuts: Annotated[
        str | None,
        typer.Option(help="where this video is cut, as in ingest.cuts: none, detect or [48,101]"),
    ] = None,
    names: cli.NamesOption = None,
) -> None:
    """Add one video to videos.yaml as an item of its own; comments in the file stay.

    Example: vidseg videos add ~/holiday.mp4 --key holiday
    """
    from pipeline.datasets.index import index_of
    from pipeline.truth.mask_files import parse_masks

    if mask is not None and not isinstance(parse_masks([str(mask)]), Path):
        raise UsageError(
            f"--mask {mask}: {VIDEOS} has one path for masks, which DVC watches; put them into a folder, named like "
            "their frames (00045.png in a video), and give the folder"
        )
    given = {"path": video, "ground_truth": ground_truth, "classes": classes, "mask": mask, "names": names}
    for option, path in given.items():
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder (--{option.replace('_', '-')})")
    if (index := index_of(video.absolute())) is not None:
        raise UsageError(
            f"{video}: belongs to the item that {index} watches, whose frames DVC does not look at; give the folder of "
            "frames in the data set itself"
        )
    entry: dict[str, Any] = {name: NONE if path is None else str(path.resolve()) for name, path in given.items()}
    if fps is not None:
        entry["fps"] = fps
    if cuts is not None:
        entry["cuts"] = yaml_files.parse(cuts, f"--cuts {cuts}: the value")
        from_mapping("ingest", IngestParams, {"cuts": entry["cuts"]}, {"ingest.cuts": "--cuts"})
    name = _key(video, key)
    _add("items", name, [entry])
    cli.note(f"{VIDEOS}: item '{name}' added; run it with: dvc repro render@{name} evaluate@{name}")


@app.command()
def concept(
    references: Annotated[Path, typer.Argument(help="folder of annotated images: images/, labels/")],
    key: Annotated[str | None, typer.Option(help="name of the concept; default: made of the folder's name")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="class list of the labels (JSON); default: the folder's classes.json")
    ] = None,
) -> None:
    """Add a concept to videos.yaml: annotated images that segments are learned from.

    Example: vidseg videos concept ~/cars --key cars
    """
    if not references.is_dir():
        raise DataError(f"{references}: no such folder")
    if classes is not None and not classes.is_file():
        raise DataError(f"{classes}: no such file (--classes)")
    name = _key(references, key)
    listed = NONE if classes is None else str(classes.resolve())
    _add("concepts", name, {"references": str(references.resolve()), "classes": listed})
    cli.note(f"{VIDEOS}: concept '{name}' added; apply it with: vidseg videos apply ITEM {name}")


@app.command()
def apply(
    item: Annotated[str, typer.Argument(help="key of an item of videos.yaml")],
    concept: Annotated[str, typer.Argument(help="key of a concept of videos.yaml")],
    key: Annotated[str | None, typer.Option(help="name of the results; default: ITEM-CONCEPT")] = None,
    skip: Annotated[
        list[int] | None,
        typer.Option(min=0, help="number of a frame that is left out of scores, from 0; repeatable"),
    ] = None,
    names: cli.NamesOption = None,
) -> None:
    """Have a concept applied to an item: adds a name to videos.yaml under which its results will lie.

    Frames that the concept is learned from are left out of scores.

    Example: vidseg videos apply holiday cars
    """
    if names is not None and not names.exists():
        raise DataError(f"{names}: no such file or folder (--names)")
    content = _content()
    for part, wanted in (("items", item), ("concepts", concept)):
        if wanted not in content[part]:
            known = ", ".join(content[part]) or "none"
            raise UsageError(f"{VIDEOS}: no {part.removesuffix('s')} '{wanted}'; there are: {known}")
    name = _key(Path(f"{item}-{concept}"), key)
    seen = known_frames(item, concept)
    left_out = sorted({*(skip or ()), *seen})
    if left_out:
        check_one_video(item, f"{VIDEOS}: item '{item}'")
    entry = {"item": item, "concept": concept, "names": NONE if names is None else str(names.resolve())}
    _add("applied", name, entry | ({"skip": yaml_files.flow_list(left_out)} if left_out else {}))
    if seen:
        cli.note(f"'{concept}' is learned from frames of '{item}': {seen} are left out of scores (`skip`)")
    cli.note(f"{VIDEOS}: '{name}' added; run it with: dvc repro render_applied@{name} evaluate_applied@{name}")


@app.command("list")
def show() -> None:
    """List the items of videos.yaml with their videos, the concepts and what they are applied to.

    A videos.yaml of an earlier version gets the parts and the entries that it lacks.

    Example: vidseg videos list
    """
    content = _content()
    lacking = without_names(content["items"], content["applied"])
    if lacking or not set(PARTS) <= set(yaml_files.load(VIDEOS, "run this in the project's folder") or {}):
        for entry in lacking.values():
            entry["names"] = NONE  # DVC looks for it in each
        yaml_files.write(VIDEOS, content)
    for key in item_keys(VIDEOS):
        print(f"{key}: {', '.join(video['path'] for video in item_videos(key, VIDEOS))}")
    for key in read_part("concepts", VIDEOS):
        print(f"concept {key}: {concept_of(key, VIDEOS)[1].references}")
    for key in read_part("applied", VIDEOS):
        found = applied_of(key, VIDEOS)
        print(f"{key}: concept {found.concept} applied to {found.item}")


def check_keys(keys: Iterable[str], registration: str) -> None:
    """Check that items may be written: their keys are free, or hold what the same registration wrote.

    Raises:
        UsageError: no videos.yaml, or an item of that key that is of another origin.
    """
    items = _content()["items"]
    for key in keys:
        if key in items and not _is_of(items[key], registration):
            raise UsageError(
                f"{VIDEOS}: there is an item '{key}' already that is not of the registration '{registration}'; "
                "choose another --name or remove the item"
            )


def count_others(registration: str) -> int:
    """How many items are not of that registration."""
    items = _content()["items"]
    return sum(not _is_of(entries, registration) for entries in items.values())


def replace_items(entries: Mapping[str, list[dict[str, Any]]], registration: str) -> None:
    """Write the items of a registration in place of those that it wrote earlier; `check_keys` has passed."""
    content = _content()
    items = content["items"]
    for key in [key for key in items if key not in entries and _is_of(items[key], registration)]:
        del items[key]
    items.update(entries)
    yaml_files.write(VIDEOS, content)


def _is_of(entries: Any, registration: str) -> bool:
    return bool(entries) and all(isinstance(entry, dict) and entry.get("dataset") == registration for entry in entries)


def _content() -> Any:
    """What videos.yaml holds, with all of its parts."""
    content = yaml_files.read(VIDEOS, "run this in the project's folder")
    yaml_files.settle_comments(content)
    for part in PARTS:
        if content.get(part) is None:
            content[part] = {}
    return content


def _key(named: Path, key: str | None) -> str:
    """The key that is given, or one that is made of a name."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", named.stem).strip("-") if key is None else key
    if not KEY.fullmatch(name):
        raise UsageError(f"'{key or named.stem}': keys may hold letters, digits, '_' and '-' only; give one with --key")
    return name


def _add(part: str, key: str, entry: Any) -> None:
    content = _content()
    for other in PARTS:
        # An item and a concept may share a key; what is applied has a name of its own.
        if key in content[other] and (part == other or "applied" in (part, other)):
            raise UsageError(
                f"{VIDEOS}: there is {_NAMES[other]} '{key}' already; choose another --key or edit the file"
            )
    if part == "items" and len(content["items"]) >= MOST_ITEMS:
        raise UsageError(
            f"{VIDEOS}: {len(content['items'])} items already, and DVC is slow with more (300 stages); "
            "`vidseg dataset register FOLDER --dataset folders` joins many videos to few items"
        )
    content[part][key] = entry
    yaml_files.write(VIDEOS, content)


_NAMES = {"items": "an item", "concepts": "a concept", "applied": "a name under `applied`"}


if __name__ == "__main__":
    cli.run_app(app)
