"""What segments that are born later change: births, scores with and without them, and seconds of `segment`.

    python -m benchmarks.births FOLDER ... > table.md

Each FOLDER holds what `vidseg ingest`, `extract` and `correspond` write (an `artifacts/` of `vidseg run` does). Labels
are upsampled and scored as everywhere (`--set` changes how); clips with at most one annotated frame have no scores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import COARSE
from pipeline.stores.store import open_store
from pipeline.tables.pages import markdown
from stages import evaluate, segment, upsample
from stages.common.settings import Settings, load

COLUMNS = ("clip", "frames", "born in frame", "per 100 frames", "mIoU", "with births", "VC_8", "with births", "seconds")


@dataclass(frozen=True)
class Segmented:
    """Coarse labels of one clip under one setting.

    Attributes:
        births: the first frame of each segment that was born.
        seconds: of `segment`, per frame.
    """

    coarse: Path
    frames: int
    births: tuple[int, ...]
    seconds: float


def main(
    folders: Annotated[list[Path], typer.Argument(help="folders of stores")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print a table with one row per clip."""
    settings = load(None, set_ or ())
    print(markdown(COLUMNS, [row(folder, settings) for folder in folders]))


def row(folder: Path, settings: Settings) -> Sequence[str]:
    """A row of the table. Where nothing is born labels are the same, and are scored once."""
    with tempfile.TemporaryDirectory() as scratch:
        without = segmented(folder, Path(scratch) / "without", settings, "none")
        born = segmented(folder, Path(scratch) / "born", settings, "distance")
        plain = scores(folder, without.coarse, settings)
        changed = scores(folder, born.coarse, settings) if born.births else plain
    return (
        folder.name,
        str(born.frames),
        ", ".join(map(str, born.births)) or "-",
        f"{100 * len(born.births) / born.frames:.1f}",
        *(_percent(value) for pair in zip(plain, changed, strict=True) for value in pair),
        f"{without.seconds:.2f}, {born.seconds:.2f}",
    )


def segmented(folder: Path, out: Path, settings: Settings, births: Literal["none", "distance"]) -> Segmented:
    """Segment one clip."""
    params, started = replace(settings["segment"], births=births), time.perf_counter()
    path = segment.run(folder / "features.zarr", folder / "matches.zarr", out, params, folder / "seed")
    seconds = time.perf_counter() - started
    coarse = open_store(path, COARSE)
    frames, found = coarse.frames("refined"), Numbering.of_coarse(coarse).births
    return Segmented(path, frames, tuple(birth.first for birth in found), seconds / frames)


def scores(folder: Path, coarse: Path, settings: Settings) -> tuple[float | None, float | None]:
    """mIoU and VC_8 in [0, 1] of upsampled labels; None without ground truth."""
    out = coarse.parent
    labels = upsample.run(
        folder / "clip.zarr", folder / "latents.zarr", coarse, out,
        settings["upsample"], settings["diffusion"], settings["backbone"],
    )  # fmt: skip
    record = evaluate.run(labels, folder / "truth.zarr", out, replace(settings["evaluate"], windows=(8,)))
    video = json.loads(record.read_text())["videos"][0]
    means = video["scores"] if video["scored_frames"] > 1 else {}
    return means.get("miou"), means.get("vc8")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(typer.run(main))
