"""What a run will cost: time from a short calibration on this machine, disk from the shapes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.backbone import Backbone
from pipeline.diffusion import DiffusionSettings


@dataclass(frozen=True)
class Costs:
    """Seconds per frame (or per modulated sample) on this machine, measured once after a warm-up.

    Attributes:
        encode, decode: of one frame.
        denoise: one step of one sample, both guidance halves when there are two.
    """

    encode: float
    denoise: float
    decode: float


@dataclass(frozen=True)
class Estimate:
    """Estimate for a whole clip: seconds per stage, and bytes on disk."""

    extract_seconds: float
    upsample_seconds: float
    disk_bytes: int

    @property
    def seconds(self) -> float:
        return self.extract_seconds + self.upsample_seconds


def calibrate(backbone: Backbone, size: tuple[int, int], diffusion: DiffusionSettings) -> Costs:
    """Time one frame of size (H, W) through the backbone's three operations."""
    frame = np.zeros((1, *size, 3), np.uint8)
    schedule = backbone.schedule(diffusion.steps)
    seconds = []
    for _ in range(2):  # the first round warms up
        marks = [time.perf_counter()]
        latents = backbone.encode(frame)
        marks.append(time.perf_counter())
        backbone.denoise(latents, diffusion.start_step, schedule, diffusion.guidance)
        marks.append(time.perf_counter())
        backbone.decode(latents)
        marks.append(time.perf_counter())
        seconds = [after - before for before, after in pairwise(marks)]
    return Costs(*seconds)


def estimate(
    costs: Costs,
    frames: int,
    labels: int,
    feature_shape: tuple[int, int, int],
    size: tuple[int, int],
    source_size: tuple[int, int],
    diffusion: DiffusionSettings,
    modulates: bool,
) -> Estimate:
    """Upper bound for a clip: every label is taken to be present in every frame.

    Args:
        feature_shape: (h, w, c) of the features; size, source_size: (H, W) at model size and of the source.
        modulates: whether labels are upsampled by modulation.
    """
    steps = len(diffusion.remaining())
    extract = frames * (costs.encode + steps * costs.denoise)
    per_sample = steps * costs.denoise + costs.decode
    upsample = frames * (steps * costs.denoise + 2 * labels * per_sample) if modulates else 0.0
    features = 2 * 2 * int(np.prod(feature_shape))
    latents = 4 * 4 * size[0] * size[1] // 64
    maps = source_size[0] * source_size[1]
    per_frame = features + latents + 3 * size[0] * size[1] + maps
    return Estimate(extract, upsample, frames * per_frame)
