"""Frames per second, memory and use of the device, with a backbone's shapes and weights that mean nothing.

    python -m benchmarks.throughput > table.md                                   # SD 2.1 at 832x448, 20 labels: a GPU's
    python -m benchmarks.throughput --backbone compact --size 128x192 --labels 6 --frames 2    # what a CPU can do

Frames are noise, segments those that `vidseg cost` assumes. `upsample` is that stage's work, `end to end` also
encoding, features, matching and segmentation; reading and writing of stores are not in it. The share of the peak is of
what a large product of matrices reaches in the same run and precision. Each row runs once before it is timed. Seeded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.in_memory import LabelledClip, Runner
from pipeline.backbone.outline import filled
from pipeline.cost import counting
from pipeline.scoring.scores import ScoredClasses
from pipeline.tables.pages import markdown
from stages.commands.cost import workload
from stages.common import backbones
from stages.common.settings import Settings, load

#: Row -> parameters of section `upsample`.
ROWS: Mapping[str, tuple[str, ...]] = {
    "exact": ("mode=exact",),
    "deep features, box": ("mode=fast", "fast.steps=99", "fast.groups=single", "fast.decode=box", "fast.deep=clean"),
    "**fast**": ("mode=fast",),
    "fast, full decoding": ("mode=fast", "fast.decode=full"),
}
HEADS = ("row", "TFLOP per frame", "frames/s, upsample", "of the matmul peak", "memory", "frames/s, end to end")


@dataclass(frozen=True)
class Speed:
    """What one row costs.

    Attributes:
        tflop, upsample: TFLOP and seconds per frame of upsampling.
        before: seconds per frame of what comes before upsampling.
        memory: the most memory of the device in bytes; None on a CPU.
    """

    tflop: float
    upsample: float
    before: float
    memory: int | None


def main(
    backbone: Annotated[str, typer.Option(help="backbone.name; needs no weights")] = "sd21",
    size: Annotated[str, typer.Option(metavar="HxW", help="multiples of 64")] = "448x832",
    labels: Annotated[int, typer.Option(help="number of segments K")] = 20,
    frames: Annotated[int, typer.Option(help="frames per row")] = 14,
    rows: Annotated[str | None, typer.Option(help="only these rows, separated by ';'")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
) -> None:
    """Print the table."""
    given = re.fullmatch(r"(\d+)x(\d+)", size)
    if given is None or any(int(side) % 64 for side in given.groups()):
        raise typer.BadParameter(f"--size {size}: expected HxW in multiples of 64, e.g. 448x832")
    shape = int(given[1]), int(given[2])
    wanted = set(ROWS) if rows is None else {name.strip() for name in rows.split(";")}
    if unknown := wanted - set(ROWS):
        raise typer.BadParameter(f"--rows: no row {sorted(unknown)[0]!r}; there are: {'; '.join(ROWS)}")
    device = backbones.choose_device()
    sets = [
        *(f"backbone.name={backbone}", f"segment.clusters={labels}", "diffusion.guidance=1"),
        *("upsample.method=modulation", *(set_ or ())),
    ]
    peak = matmul_peak(device, backbones.choose_dtype(load(None, sets)["backbone"].dtype, device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {peak / 1e12:.1f} TFLOP/s in matmul; {backbone} at {shape[1]}x{shape[0]}, K = {labels}\n")
    table = []
    for row, changes in ROWS.items():
        if row in wanted:
            speed = measure(load(None, [*sets, *(f"upsample.{change}" for change in changes)]), shape, frames)
            table.append(cells(row, speed, peak))
    print(markdown(list(HEADS), table))


def cells(row: str, speed: Speed, peak: float) -> list[str]:
    """A row of the table; `peak` in operations per second."""
    return [
        row,
        f"{speed.tflop:.1f}",
        f"{1 / speed.upsample:.3g}",
        f"{100 * speed.tflop * 1e12 / speed.upsample / peak:.0f} %",
        "-" if speed.memory is None else f"{speed.memory / 1e9:.1f} GB",
        f"{1 / (speed.upsample + speed.before):.3g}",
    ]


def measure(settings: Settings, shape: tuple[int, int], frames: int) -> Speed:
    """Run the pipeline in memory on noise of size (H, W)."""
    device = backbones.choose_device()
    outline = backbones.outline(settings["backbone"])
    task = workload(settings, shape, shape)
    tflop = sum(counting.flops_per_frame(outline, task)["upsample"].values()) / 1e12
    planes = np.broadcast_to(plane := counting.segment_map(outline, task), (frames, *plane.shape))
    noise = np.random.default_rng(0).integers(0, 256, (frames, *shape, 3), dtype=np.uint8)
    truth = np.zeros((frames, *shape), np.uint8)
    clip = LabelledClip("noise", noise, truth, list(range(frames)), ScoredClasses({0: "one"}))
    networks = filled(outline, device)
    warming, runner = (Runner(networks, clip, frames) for _ in range(2))
    warming.coarse(settings)
    warming.upsampled(planes, settings)
    before = seconds(device, lambda: runner.coarse(settings))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    upsample = seconds(device, lambda: runner.upsampled(planes, settings))
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Speed(tflop, upsample / frames, before / frames, memory)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """On the clock, until the device has finished."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the product of two large square matrices, best of five."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / min(seconds(device, lambda: a @ b) for _ in range(5))


if __name__ == "__main__":
    typer.run(main)
