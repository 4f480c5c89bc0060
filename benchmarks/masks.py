"""What masks of other frames than the first are worth: J of objects with one mask first, one in the middle, three.

    python -m benchmarks.masks FOLDER ... > table.md

Each FOLDER holds what `vidseg ingest --ground-truth`, `extract` and `correspond` write, every frame annotated. Masks
are the ground truth of these frames. J is that of labels on the token grid, enlarged to the ground truth by nearest:
mean over objects and over the frames that no setting was given.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from pipeline.media.pictures import write_label_png
from pipeline.media.resize import resize_nearest
from pipeline.parameters import SegmentParams
from pipeline.scoring.davis import region_similarity
from pipeline.stores.schemas import COARSE, TRUTH
from pipeline.stores.store import Store, open_store
from pipeline.tables.pages import markdown
from stages import segment
from stages.common.settings import load

COLUMNS = ("clip", "frames", "one, first", "one, middle, both", "three, forward", "three, both")


def settings_for(frames: int) -> list[tuple[list[int], Literal["forward", "both"]]]:
    """Which frames are given, and the direction, column by column."""
    thirds, spread = [0, frames // 3, 2 * frames // 3], [frames // 6, frames // 2, 5 * frames // 6]
    return [([0], "forward"), ([frames // 2], "both"), (thirds, "forward"), (spread, "both")]


def main(
    folders: Annotated[list[Path], typer.Argument(help="folders of stores")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print a table with one row per clip: mean J and, in brackets, the lowest of a frame, in percent."""
    params = replace(load(None, set_ or ())["segment"], init="mask")
    print(markdown(COLUMNS, [row(folder, params) for folder in folders]))


def row(folder: Path, params: SegmentParams) -> Sequence[str]:
    """A row of the table."""
    truth = open_store(folder / "truth.zarr", TRUTH)
    frames = truth.frames("ground_truth")
    settings = settings_for(frames)
    scored = sorted(set(range(frames)) - {frame for given, _ in settings for frame in given})
    cells = []
    for given, direction in settings:
        masks = {frame: truth.read("ground_truth", frame, frame + 1)[0] for frame in given}
        found = similarities(folder, truth, masks, replace(params, direction=direction), scored)
        cells.append(f"{100 * np.mean(found):.1f} ({100 * min(found):.1f})")
    return (folder.resolve().parent.name, str(frames), *cells)


def similarities(
    folder: Path, truth: Store, masks: Mapping[int, np.ndarray], params: SegmentParams, scored: Sequence[int]
) -> list[float]:
    """J of each of some frames, mean over the objects."""
    with tempfile.TemporaryDirectory() as scratch:
        seed = Path(scratch) / "seed"
        for frame, mask in masks.items():
            write_label_png(seed / f"{frame}.png", mask)
        later = {str(frame): f"{frame}.png" for frame in masks if frame > 0}
        (seed / "seed.json").write_text(json.dumps({"mask": "0.png" if 0 in masks else None, "masks": later}))
        path = segment.run(folder / "features.zarr", folder / "matches.zarr", Path(scratch), params, seed)
        labels = open_store(path, COARSE).read("refined")
    values = []
    for frame in scored:
        right = truth.read("ground_truth", frame, frame + 1)[0]
        found = resize_nearest(labels[frame], right.shape)
        objects = set(np.unique(right).tolist()) - {0, 255}
        values.append(float(np.mean([region_similarity(right == each, found == each) for each in sorted(objects)])))
    return values


if __name__ == "__main__":
    sys.exit(typer.run(main))
