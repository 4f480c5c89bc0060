"""What each detector of cuts finds: false ones in clips that have none, true ones in all pairs of these clips, joined.

    python -m benchmarks.cuts CLIP ... > table.md

Each CLIP is a video or a folder of frames without a cut. A pair is the first 20 frames of one and of another, at one
size.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.media.cut_detection import DETECTORS, CutDetector
from pipeline.media.resize import resize_frame
from pipeline.media.video import open_source
from pipeline.tables.pages import markdown

SIZE, HALF = (144, 256), 20
COLUMNS = ("detector", "frames", "false cuts", "pairs", "cuts found", "others found", "ms per frame")


def main(clips: Annotated[list[Path], typer.Argument(help="videos or folders of frames without a cut")]) -> None:
    """Print a table of what each detector finds."""
    frames = {clip: [resize_frame(frame.image, SIZE) for frame in open_source(clip).frames()] for clip in clips}
    total = sum(map(len, frames.values()))
    rows = []
    for detector in DETECTORS:
        started = time.perf_counter()
        false = sum(len(found(one, detector)) for one in frames.values())
        seconds = time.perf_counter() - started
        pairs = [(frames[first][:HALF], frames[second][:HALF]) for first, second in itertools.permutations(clips, 2)]
        cuts = [(len(first), found([*first, *second], detector)) for first, second in pairs]
        hits = sum(place in one for place, one in cuts)
        others = sum(len(set(one) - {place}) for place, one in cuts)
        rows.append((detector, total, false, len(pairs), hits, others, f"{1000 * seconds / total:.2f}"))
    sys.stdout.write(markdown(COLUMNS, [list(map(str, row)) for row in rows]) + "\n")


def found(frames: Iterable[np.ndarray], detector: str) -> tuple[int, ...]:
    """Where a detector finds cuts in frames (H, W, 3) u8."""
    cuts = CutDetector(detector)
    for frame in frames:
        cuts.add(frame)
    return cuts.cuts


if __name__ == "__main__":
    typer.run(main)
