"""What lies in a folder of artifacts: list the stores, check every shard, add up the bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError
from stages.common import cli
from stages.common.layout import DATA
from stages.common.printing import in_command, text_table

if TYPE_CHECKING:
    from pipeline.stores.inventory import Shard, StoreEntry

FolderArgument = Annotated[Path, typer.Argument(help="a store, or a folder with stores somewhere below")]

app = cli.new_app("Inspect Zarr stores: what they hold, whether they are whole, how large they are.")


@app.callback()
def group() -> None:
    """Inspect Zarr stores: what they hold, whether they are whole, how large they are."""


@app.command("ls")
def list_stores(folder: FolderArgument = DATA, as_json: cli.JsonOption = False) -> None:
    """List every store with its frames, arrays, bytes and state.

    Example: vidseg cache ls data/extract
    """
    from pipeline.stores.inventory import COMPLETE

    entries = _entries(folder)
    if as_json:
        print(json.dumps([_record(entry) for entry in entries], indent=1))
        return
    heads = ("store", "stage", "frames", "shards", "stored", "fingerprint", "arrays")
    rows = [
        (
            entry.path, entry.schema.stage, entry.frames, entry.shards, _bytes(entry.stored_bytes),
            (entry.fingerprint or "-")[:12], ", ".join(f"{name} {text}" for name, text in entry.arrays.items()),
        )
        for entry in entries
    ]  # fmt: skip
    print(text_table(rows, heads, left=(0, 1, 5, 6)))
    for entry in entries:
        if entry.state != COMPLETE:
            scratch = entry.path.parent if "tmp" in entry.path.parts else None
            remedy = f"; if no run is to go on with it, remove it: rm -r {in_command(scratch)}" if scratch else ""
            print(f"{entry.path}: {entry.state}{remedy}")


@app.command()
def verify(folder: FolderArgument = DATA, as_json: cli.JsonOption = False) -> None:
    """Read every shard and compare its checksums; names each one that is damaged and ends with code 3.

    Example: vidseg cache verify data
    """
    from pipeline.stores.inventory import COMPLETE

    entries = _entries(folder)
    records = []
    with cli.progress("verify", sum(entry.shards for entry in entries), "shards") as advance:
        for entry in entries:
            damaged = _damaged(entry, advance)
            records.append({**_record(entry), "damaged": [{**asdict(s), "file": str(s.file)} for s in damaged]})
            if not as_json:
                print(_verdict(entry, damaged))
    if as_json:
        print(json.dumps(records, indent=1))
    broken = [record for record in records if record["damaged"] or record["state"] != COMPLETE]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(records)} stores cannot be used (first: {broken[0]['path']}); delete them and run "
            "their stages again; under a shared DVC cache see docs/how-to/share-features.md"
        )


@app.command()
def size(folder: FolderArgument = DATA, as_json: cli.JsonOption = False) -> None:
    """Count bytes per stage: of the values, and of the files that hold them.

    Example: vidseg cache size data
    """
    from pipeline.stores.inventory import folder_bytes

    entries = _entries(folder)
    stages: dict[str, list[StoreEntry]] = {}
    for entry in entries:
        stages.setdefault(entry.schema.stage, []).append(entry)
    sums = {stage: _sums(of_stage) for stage, of_stage in stages.items()}
    total = {**_sums(entries), "other_files": folder_bytes(folder) - sum(entry.stored_bytes for entry in entries)}
    if as_json:
        print(json.dumps({"stages": sums, "total": total}, indent=1))
        return
    heads = ("stage", "stores", "frames", "values", "stored", "per frame")
    rows = [_size_row(stage, values) for stage, values in [*sums.items(), ("all stores", total)]]
    print(text_table(rows, heads, left=(0,)))
    print(f"other files: {_bytes(total['other_files'])}")


def _entries(folder: Path) -> list[StoreEntry]:
    from pipeline.stores.inventory import describe, find_stores

    return [describe(path) for path in find_stores(folder)]


def _record(entry: StoreEntry) -> dict[str, Any]:
    return {**asdict(entry), "path": str(entry.path), "schema": entry.schema.name, "stage": entry.schema.stage}


def _damaged(entry: StoreEntry, advance: cli.Advance) -> list[Shard]:
    from pipeline.stores.inventory import check_shards

    damaged = []
    for shard in check_shards(entry.path):
        advance(1)
        if shard.problem:
            damaged.append(shard)
    return damaged


def _verdict(entry: StoreEntry, damaged: Sequence[Shard]) -> str:
    from pipeline.stores.inventory import COMPLETE

    if not damaged:
        return f"{entry.path}: {f'{entry.shards} shards ok' if entry.state == COMPLETE else entry.state}"
    lines = [f"  {s.file}: frames {s.start}:{s.stop} of '{s.array}': {s.problem}" for s in damaged]
    return "\n".join([f"{entry.path}: {len(damaged)} of {entry.shards} shards damaged", *lines])


def _sums(entries: Sequence[StoreEntry]) -> dict[str, int]:
    frames: Counter[str] = Counter()
    for entry in entries:
        frames[entry.schema.name] += entry.frames
    return {
        "stores": len(entries),
        "frames": max(frames.values()),  # a clip has several stores of the same frames
        "logical_bytes": sum(entry.logical_bytes for entry in entries),
        "stored_bytes": sum(entry.stored_bytes for entry in entries),
    }


def _size_row(name: str, values: dict[str, int]) -> tuple[object, ...]:
    stored, frames = values["stored_bytes"], values["frames"]
    per_frame = _bytes(stored // frames) if frames else None
    return name, values["stores"], frames, _bytes(values["logical_bytes"]), _bytes(stored), per_frame


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


if __name__ == "__main__":
    cli.run_app(app)
