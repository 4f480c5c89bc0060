"""What each approximation of `upsample.mode: fast` saves and changes, alone and together.

    python -m benchmarks.upsample --clip DIR/camel --clip DIR/dog --frames 10 > table.md

A clip is a folder with `frames/` and `labels/`. All rows start from the same latents and coarse maps of the first
frames of each clip. Columns: TFLOP per frame of SD 2.1 at 832x448 with 20 labels and guidance 1; CPU seconds per frame
of the backbone that the parameters name (its clean pass included); pixels whose label is the exact mode's; mIoU and
VC_8 and their difference to the exact mode, mean of the clips. VC_8 needs nine frames. Seeded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.in_memory import Runner, read_clip
from pipeline.cost import counting
from pipeline.scoring.assignment import assign
from pipeline.scoring.metrics import Confusion, Consistency
from stages.commands.cost import workload
from stages.common import backbones
from stages.common.settings import Settings, load

WINDOW = 8
#: `mode: fast` with nothing approximated.
NOTHING = (
    *("mode=fast", "fast.guidance=null", "fast.steps=99"),
    *("fast.groups=single", "fast.decode=full", "fast.deep=own"),
)
#: Row -> parameters of section `upsample`. The first is what the others are compared with.
ROWS: Mapping[str, tuple[str, ...]] = {
    "exact": ("mode=exact",),
    "one sign": (*NOTHING, "fast.signs=plus"),
    "two steps": (*NOTHING, "fast.steps=2"),
    "one step": (*NOTHING, "fast.steps=1"),
    "labels that do not touch, gap 1": (*NOTHING, "fast.groups=labels", "fast.gap=1"),
    "labels that do not touch, gap 2": (*NOTHING, "fast.groups=labels", "fast.gap=2"),
    "parts that do not touch, gap 2": (*NOTHING, "fast.groups=parts", "fast.gap=2"),
    "the clean pass's deep features": (*NOTHING, "fast.deep=clean"),
    "box around the label": (*NOTHING, "fast.decode=box"),
    "small decoder": (*NOTHING, "fast.decode=small"),
    "latents instead of images": (*NOTHING, "fast.decode=latent"),
    "deep features, box": (*NOTHING, "fast.deep=clean", "fast.decode=box"),
    "deep features, small decoder": (*NOTHING, "fast.deep=clean", "fast.decode=small"),
    "**fast** (all defaults)": ("mode=fast", "fast.guidance=null"),
    "fast, three steps": ("mode=fast", "fast.guidance=null", "fast.steps=3"),
    "fast, small decoder": ("mode=fast", "fast.guidance=null", "fast.decode=small"),
    "fast, small decoder, gap 3": ("mode=fast", "fast.guidance=null", "fast.decode=small", "fast.gap=3"),
    "fast, small decoder, three steps": ("mode=fast", "fast.guidance=null", "fast.decode=small", "fast.steps=3"),
    "fast, full decoding": ("mode=fast", "fast.guidance=null", "fast.decode=full"),
    "bilinear": ("method=bilinear",),
    "joint_bilateral": ("method=joint_bilateral",),
}
#: One more row: how far the exact mode agrees with itself when only the noise is another.
OTHER_NOISE = "exact, another seed of the noise"


@dataclass(frozen=True)
class Labelled:
    """Final labels (f, H0, W0) of a clip, and CPU seconds per frame."""

    labels: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Scores:
    """In percent, mean of clips."""

    agreement: float
    miou: float
    consistency: float


def main(
    clip: Annotated[list[Path], typer.Option(help="folder with frames/ and labels/; repeatable")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    frames: Annotated[int, typer.Option(help="first frames of each clip")] = 10,
    rows: Annotated[str | None, typer.Option(help="only these rows, separated by ';'")] = None,
) -> None:
    """Print the table."""
    sets = [f"ingest.frames=0:{frames}", "upsample.method=modulation", *(set_ or ())]
    base = load(None, sets)
    variants = {
        name: load(None, [*sets, *(f"upsample.{change}" for change in changes)]) for name, changes in chosen(rows)
    }
    variants[OTHER_NOISE] = load(None, [*sets, "upsample.mode=exact", f"diffusion.seed={base['diffusion'].seed + 1}"])
    backbone = backbones.load_backbone(base["backbone"])
    runners = [Runner(backbone, read_clip(one / "frames", one / "labels", base), frames) for one in clip]
    print(
        f"| row | TFLOP at SD 2.1's size | s per frame, {backbone.name} | pixels as exact | mIoU | change "
        f"| VC_{WINDOW} | change |\n|---|---|---|---|---|---|---|---|"
    )
    exact: list[Labelled] = []
    reference: Scores | None = None
    for name, settings in variants.items():
        found = [labelled(runner, settings, runner.coarse(base)) for runner in runners]
        exact = exact or found
        scores = score(runners, found, exact)
        reference = reference or scores
        flops = "" if name == OTHER_NOISE else f"{tflop(name):.1f}"
        cells = (
            name,
            flops,
            f"{np.mean([one.seconds for one in found]):.2f}",
            f"{scores.agreement:.2f} %",
            *_pair(scores.miou, reference.miou),
            *_pair(scores.consistency, reference.consistency),
        )
        print("| " + " | ".join(cells) + " |", flush=True)


def _pair(value: float, reference: float) -> tuple[str, str]:
    return (f"{value:.2f}", f"{value - reference:+.2f}") if np.isfinite(value) else ("-", "-")


def chosen(rows: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """The rows asked for, with the exact mode first."""
    wanted = None if rows is None else {name.strip() for name in rows.split(";")} | {next(iter(ROWS))}
    if wanted is not None and (unknown := wanted - set(ROWS)):
        raise typer.BadParameter(f"--rows: no row {sorted(unknown)[0]!r}; there are: {'; '.join(ROWS)}")
    return [(name, changes) for name, changes in ROWS.items() if wanted is None or name in wanted]


def tflop(row: str) -> float:
    """TFLOP of the stage `upsample` per frame of SD 2.1 at 832x448 with 20 labels, guidance 1."""
    sets = ["backbone.name=sd21", "segment.clusters=20", "diffusion.guidance=1"]
    settings = load(None, [*sets, *(f"upsample.{change}" for change in ROWS[row])])
    size = (448, 832)
    outline = backbones.outline(settings["backbone"])
    found = counting.flops_per_frame(outline, workload(settings, size, size))  # type: ignore[arg-type]
    return sum(found.get("upsample", {}).values()) / 1e12


def labelled(runner: Runner, settings: Settings, planes: np.ndarray) -> Labelled:
    """Final labels from coarse maps (f, h, w)."""
    runner.prepare(settings)
    started = time.process_time()
    labels = runner.upsampled(planes, settings)
    return Labelled(labels, (time.process_time() - started) / len(labels))


def score(runners: list[Runner], found: list[Labelled], exact: list[Labelled]) -> Scores:
    """Agreement with the exact labels; mIoU and VC of clusters that take the first frame's classes."""
    same = [float((one.labels == other.labels).mean()) for one, other in zip(found, exact, strict=True)]
    mious, ratios = [], []
    for runner, one in zip(runners, found, strict=True):
        clip = runner.clip
        protocol = clip.classes.protocol("strict")
        rule = assign("majority", one.labels[0], clip.truth[0], clip.classes.ignore, (1, 1), clip.classes.unassigned)
        total, consistency = Confusion(len(protocol.class_values)), Consistency([WINDOW])
        for plane, index in zip(one.labels, runner.scored, strict=True):
            decoded = protocol.decode(clip.truth[index], rule.apply(plane))
            total += Confusion.of(decoded, len(protocol.class_values))
            consistency.update(decoded)
        mious.append(total.scores().miou)
        windows = [window.ratio for window in consistency.windows[WINDOW]]
        ratios.append(float(np.nanmean(windows)) if windows else float("nan"))
    return Scores(*(100 * float(np.mean(values)) for values in (same, mious, ratios)))


if __name__ == "__main__":
    typer.run(main)
