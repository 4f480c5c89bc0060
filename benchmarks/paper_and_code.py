"""What each difference between the paper, the authors' code and our defaults changes on real clips.

    python -m benchmarks.paper_and_code --clip DIR/camel --clip DIR/dog > table.md

A clip is a folder with `frames/` and `labels/`. One setting is changed at a time; the table says how many coarse
and final labels change (cluster numbers aside) and how the mIoU moves. Seeded: the same numbers each time on one
machine type. The first rows change only a seed: differences of that size mean nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.in_memory import GROUPING, Grouping, LabelledClip, Outcome, Runner, changed, read_clip
from stages.common import backbones, cli, encoders
from stages.common.settings import load
from stages.tables.rows import preset_sets


@dataclass(frozen=True)
class Row:
    """One change of the defaults: parameters, or a rule that depends on the grouping of frames."""

    name: str
    sets: tuple[str, ...] = ()
    grouping: Grouping = GROUPING


ROWS = (
    Row("another seed of the noise", ("diffusion.seed=1",)),
    Row("another seed of K-Means", ("segment.seed=1",)),
    Row("noise shared by all frames", ("diffusion.noise=shared",)),
    Row("noise by position in the batch", grouping=Grouping(noise_by_position=True)),
    Row("latents sampled", ("extract.parity.encode=sample",)),
    Row("start_step 21", ("diffusion.start_step=21",)),
    Row("guidance 1", ("diffusion.guidance=1",)),
    Row("guidance 5", ("diffusion.guidance=5",)),
    Row("features not normalised", ("extract.parity.normalize=none",)),
    Row("without the encoder", ("extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=0")),
    Row("features of block 7 alone", ("segment.features=matching",)),
    Row("K-Means on the whole first window", ("segment.parity.kmeans_frames=window",)),
    Row("first frame predicted again", ("segment.parity.first_frame=predict",)),
    Row("memory: first frame and last window", ("segment.memory=first_and_last",)),
    Row("T = 8", ("correspond.max_squared_distance=8",)),
    Row("T = 50", ("correspond.max_squared_distance=50",)),
    Row("free argmax, far matches rejected", ("correspond.parity.rule=reject",)),
    Row("no vote", ("segment.vote=none",)),
    Row("vote in both directions", ("segment.vote=both",)),
    Row("released refinement", grouping=Grouping(released_refinement="mixed positive")),
    Row("released refinement, plain and symmetric", grouping=Grouping(released_refinement="plain symmetric")),
    Row("last batch repeated or overlapping", grouping=Grouping(released_passes=True)),
    Row("nothing approximated", ("upsample.mode=exact",)),
    Row("offset inside the projection", ("upsample.parity.offset=inside",)),
    Row("masks enlarged by nearest in the blending", ("upsample.parity.mask_resize=nearest",)),
    Row("blended until the last step", ("upsample.parity.blend_last_step=24",)),
    Row("no blending, lambda 10", ("upsample.blend=false", "upsample.strength=10")),
    Row("no injection", ("upsample.parity.inject=false",)),
    Row("root of the squared norm", ("upsample.parity.difference=root",)),
    Row("8-bit wrap-around, integers, JPEG", ("upsample.parity.difference=wrapped",)),
    Row("no blur", ("upsample.parity.blur=false",)),
    Row("maps not normalised", ("upsample.parity.normalize=false",)),
    Row("neither (Eq. as printed)", ("upsample.parity.blur=false", "upsample.parity.normalize=false")),
    Row("unfiltered (s = 1)", ("upsample.filter=1",)),
    Row("Lanczos masks in the filter", ("upsample.parity.filter_resize=lanczos",)),
    Row("no modulation: bilinear", ("upsample.method=bilinear",)),
    Row("no modulation: nearest", ("upsample.method=nearest",)),
    Row("no modulation: joint bilateral", ("upsample.method=joint_bilateral",)),
)


def _of_preset(name: str) -> tuple[str, ...]:
    """A preset as `section.key=value` texts, for the same frames."""
    return tuple(text for text in preset_sets(name) if not text.startswith("ingest."))


WHOLE = (
    Row("all of the paper's choices", _of_preset("paper")),
    Row("all of the code's choices", _of_preset("reference")),
    Row("the same with its rules of grouping", _of_preset("reference"), Grouping(True, True, "mixed positive")),
)


def main(
    clip: Annotated[list[Path], typer.Option(help="folder with frames/ and labels/; repeatable")],
    params: Annotated[Path | None, typer.Option(help="parameter file; without it the defaults")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    map_frames: Annotated[int, typer.Option(help="frames of each clip that get final labels")] = 4,
    only: Annotated[str, typer.Option(help="rows whose name contains this")] = "",
) -> None:
    """Print the table."""
    torch.manual_seed(0)
    base = ["upsample.method=modulation", *(set_ or ())]  # the rows are about it
    settings = load(params, base)
    encoders.check_weights(settings, ("segment", "correspond"))
    backbone = backbones.load_backbone(settings["backbone"])
    clips = [read_clip(folder / "frames", folder / "labels", settings) for folder in clip]
    runners = [Runner(backbone, one, map_frames) for one in clips]
    baseline = [runner.run(settings) for runner in runners]
    rows = [row for row in (*ROWS, *WHOLE) if only in row.name]
    print(f"{len(clips)} clips ({', '.join(map(_described, clips))}), backbone {backbone.name}, ", end="")
    print(f"{settings['segment'].clusters} clusters, final labels of {map_frames} frames each.\n")
    print("| change | coarse labels changed | final labels changed | mIoU coarse | mIoU final |")
    print("|---|---|---|---|---|")
    print(f"| (defaults) | | | {_mean(baseline, 'coarse_miou'):.1f} | {_mean(baseline, 'final_miou'):.1f} |")
    for row in rows:
        # A preset of the backbone may already hold a row's value.
        found = [runner.run(load(params, [*base, *row.sets]), row.grouping) for runner in runners]
        print(_line(row, found, baseline), flush=True)
        print(f"{row.name}: done", file=sys.stderr)


def _line(row: Row, found: list[Outcome], baseline: list[Outcome]) -> str:
    pairs = list(zip(found, baseline, strict=True))
    coarse = np.mean([changed(one.coarse, other.coarse) for one, other in pairs])
    final = np.mean([changed(one.final, other.final) for one, other in pairs])
    scores = [_mean(found, name) - _mean(baseline, name) for name in ("coarse_miou", "final_miou")]
    return f"| {row.name} | {coarse:.1f} % | {final:.1f} % | {scores[0]:+.1f} | {scores[1]:+.1f} |"


def _mean(outcomes: list[Outcome], name: str) -> float:
    return float(np.mean([getattr(outcome, name) for outcome in outcomes]))


def _described(clip: LabelledClip) -> str:
    return f"{clip.name}: {len(clip.frames)} frames of {clip.frames.shape[2]}x{clip.frames.shape[1]}"


if __name__ == "__main__":
    app = cli.new_app("Print the table.")
    app.command()(main)
    cli.run_app(app)
