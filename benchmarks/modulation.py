"""Whether modulation acts where it should, and whether it beats plain enlargement.

    python -m benchmarks.modulation --clip DIR/camel --clip DIR/dog --pictures FOLDER > tables.md

A clip is a folder with `frames/` and `labels/`. First table: for the five largest segments of the first frame, the mean
of |I+ - I-| (root of the sum of squares over RGB, in grey levels) inside and outside the segment, without and with
latent blending. Second: mIoU and boundary F of every upsampling, from the ground truth's own coarse map and from
the method's. `--variant "NAME: SECTION.KEY=VALUE ..."` adds rows. Seeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from benchmarks.in_memory import LabelledClip, Runner, read_clip
from pipeline.media.resize import resize_nearest
from pipeline.scoring.assignment import IDENTITY, Assignment, assign
from pipeline.scoring.coarse_truth import coarse_truth
from pipeline.scoring.davis import contour_accuracy
from pipeline.scoring.metrics import Confusion
from pipeline.upsampling.contrast import contrast, magnitude
from pipeline.upsampling.responses import Response
from stages.common import backbones
from stages.common.settings import Settings, load

SEGMENTS = 5
UPSAMPLINGS: Mapping[str, tuple[str, ...]] = {
    "nearest": ("upsample.method=nearest",),
    "bilinear": ("upsample.method=bilinear",),
    "joint_bilateral": ("upsample.method=joint_bilateral",),
    "guided": ("upsample.method=guided",),
    "modulation": ("upsample.method=modulation",),
    "modulation, no blending": ("upsample.method=modulation", "upsample.blend=false"),
}
COARSE = ("truth", "method")


@dataclass(frozen=True)
class Quality:
    """mIoU over the classes of some frames, and boundary F averaged over their classes; in [0, 1]."""

    miou: float
    boundary: float


def main(
    clip: Annotated[list[Path], typer.Option(help="folder with frames/ and labels/; repeatable")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="another row: 'NAME: SECTION.KEY=VALUE ...'")] = None,
    map_frames: Annotated[int, typer.Option(help="frames of each clip that are enlarged")] = 4,
    frames: Annotated[int, typer.Option(help="first frames of each clip that are segmented")] = 28,
    responses: Annotated[int, typer.Option(help="clips that the first table is made of")] = 3,
    pictures: Annotated[Path | None, typer.Option(help="folder for PNGs of the difference maps")] = None,
) -> None:
    """Print both tables."""
    sets = [f"ingest.frames=0:{frames}", *(set_ or ())]
    rows = {**UPSAMPLINGS, **dict(map(parse_variant, variant or ()))}
    variants = {name: load(None, [*sets, *changes]) for name, changes in rows.items()}
    backbone = backbones.load_backbone(load(None, sets)["backbone"])
    runners = [
        Runner(backbone, read_clip(one / "frames", one / "labels", load(None, sets)), map_frames) for one in clip
    ]
    exact = [*sets, "upsample.mode=exact"]  # a response to each segment alone
    print_responses(runners[:responses], load(None, exact), load(None, [*exact, "upsample.blend=false"]), pictures)
    print_qualities(runners, variants)


def parse_variant(text: str) -> tuple[str, tuple[str, ...]]:
    """`NAME: SECTION.KEY=VALUE ...` -> name and changes."""
    name, colon, changes = text.partition(":")
    if not colon or not changes.strip():
        raise typer.BadParameter(f"'{text}': expected NAME: SECTION.KEY=VALUE ...")
    return name.strip(), tuple(changes.split())


def print_responses(runners: list[Runner], blended: Settings, plain: Settings, pictures: Path | None) -> None:
    """Table of the response inside and outside, one row per segment."""
    print("mean |I+ - I-| in grey levels, inside / outside (ratio)\n")
    print("| clip | segment | share of frame | without blending | with blending |\n|---|---|---|---|---|")
    ratios: list[tuple[float, float]] = []
    for runner in runners:
        planes = runner.coarse(blended)
        found = [_largest(runner.pairs(planes, settings)[0]) for settings in (plain, blended)]
        for without, with_blending in zip(*found, strict=True):
            pair = contrast(without), contrast(with_blending)
            ratios.append((pair[0].ratio, pair[1].ratio))
            cells = (f"{one.inside:.2f} / {one.outside:.3f} ({one.inside / one.outside:.1f})" for one in pair)
            name = runner.clip.name
            group = without.group
            print(f"| {name} | {group.labels[0]} | {group.mask.mean():.3f} | " + " | ".join(cells) + " |")
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            sheet = response_sheet(runner.clip.frames[runner.clip.positions[0]], *found)
            cv2.imwrite(str(pictures / f"{runner.clip.name}.png"), sheet[..., ::-1])
    if ratios:
        medians = np.median(ratios, axis=0)
        print(f"| median ratio | | | {medians[0]:.1f} | {medians[1]:.1f} |\n")


def response_sheet(frame: np.ndarray, plain: list[Response], blended: list[Response]) -> np.ndarray:
    """Rows of frame with the segment, map without and with blending (each by its own maximum), uint8 RGB."""
    rows = []
    for without, with_blending in zip(plain, blended, strict=True):
        inside = resize_nearest(without.group.mask.astype(np.uint8), frame.shape[:2])[..., None] > 0
        shown = np.where(inside, frame, frame // 3)
        maps = [magnitude(pair) for pair in (without, with_blending)]
        gray = [np.repeat((255 * one / one.max()).astype(np.uint8)[..., None], 3, -1) for one in maps]
        rows.append(np.concatenate([shown, *gray], axis=1))
    return np.concatenate(rows)


def print_qualities(runners: list[Runner], variants: Mapping[str, Settings]) -> None:
    """mIoU / boundary F in percent, one row per upsampling, the mean over clips in the last column."""
    for coarse in COARSE:
        print(f"mIoU / boundary F in percent, coarse map: {coarse}\n")
        print("| upsampling | " + " | ".join(runner.clip.name for runner in runners) + " | **mean** |")
        print("|---" * (len(runners) + 2) + "|")
        for name, settings in variants.items():
            found = [quality(runner, settings, coarse) for runner in runners]
            values = np.array([(one.miou, one.boundary) for one in found])
            cells = (f"{100 * miou:.1f} / {100 * boundary:.1f}" for miou, boundary in [*values, values.mean(0)])
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        print()


def quality(runner: Runner, settings: Settings, coarse: str) -> Quality:
    """Scores of the frames that get final labels."""
    clip = runner.clip
    planes = truth_planes(runner, settings) if coarse == "truth" else runner.coarse(settings)
    labels = runner.upsampled(planes, settings)
    rule = IDENTITY if coarse == "truth" else _majority(clip, labels[0])
    protocol = clip.classes.protocol("strict")
    count = len(protocol.class_values)
    total = Confusion(count)
    contours: list[float] = []
    for plane, index in zip(labels, runner.scored, strict=True):
        predicted, truth = rule.apply(plane), clip.truth[index]
        total += Confusion.of(protocol.decode(truth, predicted), count)
        contours += [
            contour_accuracy(truth == value, (predicted == value) & ~np.isin(truth, clip.classes.ignore))
            for value in protocol.class_values
            if (truth == value).any()
        ]
    return Quality(total.scores().miou, float(np.mean(contours)))


def truth_planes(runner: Runner, settings: Settings) -> np.ndarray:
    """The ground truth on the token grid (m, h, w); ignored tokens take the nearest class."""
    clip, grid = runner.clip, runner.grid(settings)
    planes = [coarse_truth(clip.truth[index], grid, clip.classes.ignore) for index in runner.scored]
    return np.stack(planes).astype(np.int32)


def _majority(clip: LabelledClip, first: np.ndarray) -> Assignment:
    return assign("majority", first, clip.truth[0], clip.classes.ignore, (1, 1), clip.classes.unassigned)


def _largest(pairs: list[Response]) -> list[Response]:
    return sorted(pairs, key=lambda pair: -pair.group.mask.sum())[:SEGMENTS]


if __name__ == "__main__":
    typer.run(main)
