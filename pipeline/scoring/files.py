"""scores.json: the record of one item on disk, and what a set of them says together."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.errors import DataError
from pipeline.files import replacing, require_version
from pipeline.scoring.scores import pool

SCHEMA = "scores"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Summary:
    """A set of items.

    Attributes:
        metrics: about ten numbers, flat; None = undefined. `applied` holds the same of what concepts were applied to.
        per_video, per_class, per_frame: rows for plots.
    """

    metrics: dict[str, Any]
    per_video: list[dict[str, Any]]
    per_class: list[dict[str, Any]]
    per_frame: list[dict[str, Any]]


def item_record(
    videos: Sequence[Mapping[str, Any]],
    protocol: str,
    assignment: str,
    windows: Sequence[int],
    ignore_below: float = 0.0,
) -> dict[str, Any]:
    """The content of scores.json.

    Args:
        videos: records of the item's videos; those with `ground_truth` hold what `scores.score_video` gives.
        ignore_below: confidence (0..1) below which pixels were left out.
    """
    windows = sorted(set(windows))
    scored = [video for video in videos if video["ground_truth"]]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created_by": f"vidseg {metadata.version('vidseg')}",
        "ground_truth": bool(scored),
        "protocol": protocol,
        "assignment": assignment,
        "windows": windows,
        **({"ignore_below": ignore_below} if ignore_below else {}),
        "oracle_assignment": any(video["oracle_assignment"] for video in scored),
        "pooled": pool(map(with_names, scored), windows).scores,
        "videos": [
            {
                **video,
                **({"scores": pool([with_names(video)], windows).scores} if video["ground_truth"] else {}),
            }
            for video in videos
        ],
    }


def write_json(path: Path, content: Any) -> Path:
    """Write JSON whole or not at all; keys keep their order, NaN and infinity are refused."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as CSV with a header, whole or not at all; undefined numbers are empty cells."""
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_items(folder: Path, items: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The records `<item>/scores.json` below a folder by item, or the folder's own scores.json as item `""`.

    Args:
        items: exactly these; None = all that are there.

    Raises:
        DataError: there is none, one of `items` lacks its own, or one is damaged or of another version.
    """
    if items is not None:
        return {item: _read(folder / item / "scores.json") for item in sorted(items)}
    paths = {path.parent.name: path for path in sorted(folder.glob("*/scores.json"))}
    if (folder / "scores.json").is_file():
        paths = {"": folder / "scores.json"}
    if not paths:
        raise DataError(f"{folder}: no scores.json here or one folder below; run `vidseg evaluate` first")
    return {item: _read(path) for item, path in paths.items()}


def summarize(
    items: Mapping[str, Mapping[str, Any]], applied: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Summary:
    """Pool all videos of all items.

    Args:
        applied: what concepts were applied to; pooled apart, in `metrics["applied"]`, and listed after the items.

    Raises:
        DataError: items were scored by different rules.
    """
    if applied:
        found, more = summarize(items), summarize(applied)
        _check_rules({**items, **applied})
        return Summary(
            {**found.metrics, "applied": more.metrics},
            [*found.per_video, *more.per_video],
            found.per_class,
            [*found.per_frame, *more.per_frame],
        )
    _check_rules(items)
    rules = next(iter(items.values()))
    named = [(video_name(item, record, video), video) for item, record in items.items() for video in record["videos"]]
    scored = [(name, video) for name, video in named if video["ground_truth"]]
    pooled = pool((with_names(video) for _, video in scored), rules["windows"])
    consistency = [f"vc{n}" for n in rules["windows"]]
    shown = ["miou", *consistency, "pixel_accuracy", "fwiou", "jf_mean", "unassigned_share"]
    return Summary(
        metrics={
            **{key: pooled.scores[key] for key in shown},
            "videos": len(named),
            "scored_videos": len(scored),
            "frames": sum(video["frames"] for _, video in named),
            "scored_frames": sum(video["scored_frames"] for _, video in named),
            "protocol": rules["protocol"],
            # what was done, where `auto` was asked for
            "assignment": ", ".join(sorted({video["assigned"]["rule"] for _, video in scored})) or None,
            "oracle_assignment": any(video["oracle_assignment"] for _, video in scored),
        },
        per_video=[
            {
                "video": name,
                "frames": video["frames"],
                "scored_frames": video["scored_frames"],
                **{key: video["scores"][key] if video["ground_truth"] else None for key in shown},
            }
            for name, video in named
        ],
        per_class=pooled.per_class,
        per_frame=[
            {"video": name, "frame": frame, "miou": miou, "pixel_accuracy": accuracy}
            for name, video in scored
            for frame, miou, accuracy in zip(*video["per_frame"].values(), strict=True)
        ],
    )


def _check_rules(items: Mapping[str, Mapping[str, Any]]) -> None:
    for key in ("protocol", "assignment", "windows", "ignore_below"):
        first, *others = ((item, record.get(key, 0)) for item, record in items.items())
        for item, value in others:
            if value != first[1]:
                raise DataError(
                    f"items were scored with different evaluate.{key} ({first[0]}: {first[1]}, "
                    f"{item}: {value}); run `vidseg evaluate` again for all of them"
                )


def with_names(video: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[int, str]]:
    """A video's record as `scores.pool` takes it: with the names of its classes by stored value."""
    return video, {entry["value"]: entry["name"] for entry in video["classes"]}


def video_name(item: str, record: Mapping[str, Any], video: Mapping[str, Any]) -> str:
    """A video's name among all: its item's, and its own where the item has several."""
    if not item:
        return str(video["name"])
    return item if len(record["videos"]) == 1 else f"{item}/{video['name']}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse(path, path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run `vidseg evaluate` first") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON; run `vidseg evaluate` again") from error


def parse(path: Path, text: str) -> dict[str, Any]:
    """The record that a scores.json holds; `path` is only for messages.

    Raises:
        DataError: it is damaged or of another version.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON; run `vidseg evaluate` again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a scores file; run `vidseg evaluate` again")
    require_version(path, content, SCHEMA_VERSION, "run `vidseg evaluate` again")
    return content
