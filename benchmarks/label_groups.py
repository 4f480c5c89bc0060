"""How many passes the segments of real clips need when labels that do not touch share one.

    python -m benchmarks.label_groups --clip DIR/camel --clip DIR/dog --set ingest.size=448x832 > table.md

A clip is a folder with `frames/` and `labels/`. Per row: groups per frame, mean and largest, over the first frames of
all clips; `single` is the number of labels present. Seeded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.in_memory import Runner, read_clip
from pipeline.parameters import UpsampleFast
from pipeline.tables.pages import markdown
from pipeline.upsampling.label_groups import grouped
from stages.common import backbones
from stages.common.settings import load

#: `upsample.fast.groups` and `fast.gap`; a single label needs no gap.
ROWS = (("single", 1), *((groups, gap) for groups in ("labels", "parts") for gap in (1, 2, 3)))


def main(
    clip: Annotated[list[Path], typer.Option(help="folder with frames/ and labels/; repeatable")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    frames: Annotated[int, typer.Option(help="first frames of each clip")] = 4,
) -> None:
    """Print the table."""
    settings = load(None, [f"ingest.frames=0:{frames}", *(set_ or ())])
    backbone = backbones.load_backbone(settings["backbone"])
    planes = [
        plane
        for one in clip
        for plane in Runner(backbone, read_clip(one / "frames", one / "labels", settings), frames).coarse(settings)
    ]
    print(markdown(["fast.groups", "fast.gap", "groups, mean", "largest"], [row(planes, *names) for names in ROWS]))


def row(planes: list[np.ndarray], groups: str, gap: int) -> list[str]:
    """A row of the table: how many groups the coarse maps (h, w) need, mean and largest."""
    fast = replace(UpsampleFast(), groups=groups, gap=gap)  # type: ignore[arg-type]
    counts = [len(grouped(plane[None], fast)) for plane in planes]
    return [groups, "-" if groups == "single" else str(gap), f"{np.mean(counts):.1f}", str(max(counts))]


if __name__ == "__main__":
    typer.run(main)
