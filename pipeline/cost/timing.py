"""How long a clip will take on this machine, from a short calibration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from pipeline.backbone import Backbone
from pipeline.features.diffusion import DiffusionSettings, clean_pass, condition
from pipeline.media.resize import MULTIPLE
from pipeline.upsampling.label_groups import alone, whole_labels
from pipeline.upsampling.modulation import ModulationSettings
from pipeline.upsampling.upsample import EXACT, FastSettings, Images, compared, fast_keep, modulated_groups

Result = TypeVar("Result")
Size = tuple[int, int]
#: A round of the calibration that would take more seconds than this is not begun.
LONGEST = 8.0


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        encode, clean: of one frame: its encoding, and its clean pass.
        modulate, decode: of one modulated sample: all its steps, and its image. 0 where nothing is modulated.
    """

    encode: float
    clean: float
    modulate: float = 0.0
    decode: float = 0.0

    @property
    def extract(self) -> float:
        """Of the stage, per frame."""
        return self.encode + self.clean

    def upsample(self, samples: int) -> float:
        """Of the stage, per frame, with that many modulated samples (`counting.samples_per_frame`)."""
        return self.clean + samples * (self.modulate + self.decode) if self.modulate else 0.0

    @property
    def total(self) -> float:
        return sum(astuple(self))

    def scaled(self, factor: float) -> Costs:
        return Costs(*(factor * seconds for seconds in astuple(self)))


def calibrate(
    backbone: Backbone,
    size: Size,
    diffusion: DiffusionSettings,
    modulation: ModulationSettings | None,
    fast: FastSettings | None = None,
    small: Images | None = None,
) -> Costs:
    """Time one frame of size (H, W) and one of its labels through the real code: a video model's in a window of two.

    Begins with a small frame, which also warms up, and doubles its sides as long as that is quick. What is then
    still smaller than `size` is scaled by area; small frames are slower per pixel, so this errs on the long side.

    Args:
        modulation: None where labels are enlarged without the backbone.
        fast: None in the exact mode.
        small: the small decoder; only needed where `fast.decode` is `small`.
    """
    part: Size = (MULTIPLE, MULTIPLE)
    while True:
        costs = _round(backbone, part, diffusion, modulation, fast or EXACT, small)
        following = min(2 * part[0], size[0]), min(2 * part[1], size[1])
        growth = following[0] * following[1] / (part[0] * part[1])
        if part == size or growth * costs.total > LONGEST:
            return costs.scaled(size[0] * size[1] / (part[0] * part[1]))
        part = following


def _round(
    backbone: Backbone,
    size: Size,
    diffusion: DiffusionSettings,
    modulation: ModulationSettings | None,
    fast: FastSettings,
    small: Images | None,
) -> Costs:
    # In a window of one frame there would be no guidance.
    count = min(2, backbone.window)
    frames = np.zeros((count, *size, 3), np.uint8)
    latents, encode = _timed(backbone, partial(backbone.encode, frames))
    conditioning = condition(backbone, frames[0], 0, diffusion)
    if modulation is None:
        _, clean = _timed(backbone, partial(clean_pass, backbone, latents, diffusion, conditioning=conditioning))
        return Costs(encode / count, clean / count)
    steps = fast.diffusion(diffusion, modulation)
    keep = fast_keep(modulation, steps, fast)
    passed, clean = _timed(
        backbone, partial(clean_pass, backbone, latents, steps, keep=keep, conditioning=conditioning)
    )
    groups = alone(whole_labels(np.zeros((count, *backbone.token_shape(modulation.block, size)[:2]), np.int64)))
    result, modulated = _timed(
        backbone,
        partial(modulated_groups, backbone, passed, range(count), groups, steps, modulation, fast, batch=2 * count),
    )
    arguments = passed.final, range(count), result, groups, modulation, fast, "single", small
    _, decode = _timed(backbone, lambda: list(compared(backbone, *arguments)))
    samples = result.shape[1] * count
    return Costs(encode / count, clean / count, modulated / samples, decode / samples)


def _timed(backbone: Backbone, work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return result, time.perf_counter() - started
