"""How long a clip will take on this machine, from a short calibration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from pipeline.backbone import Backbone
from pipeline.encoder.base import Encoder
from pipeline.features.diffusion import clean_pass, condition
from pipeline.features.extraction import encoded
from pipeline.media.resize import MULTIPLE
from pipeline.parameters import DiffusionParams
from pipeline.upsampling.label_groups import alone, whole_labels
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Images, Window, compared, modulated
from pipeline.upsampling.rules import Rules

Result = TypeVar("Result")
Size = tuple[int, int]
#: A round of the calibration that would take more seconds than this, or this share of the clip's, is not begun.
LONGEST, SHARE = 8.0, 1 / 50
#: Side of the frame with which an encoder is timed, and of a token, in pixels.
CALIBRATED, TOKEN = 256, 16


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
        """Seconds of `extract` per frame."""
        return self.encode + self.clean

    def upsample(self, samples: int) -> float:
        """Seconds of `upsample` per frame with that many modulated samples (`counting.samples_per_frame`)."""
        return self.clean + samples * (self.modulate + self.decode) if self.modulate else 0.0

    @property
    def total(self) -> float:
        return sum(astuple(self))

    def scaled(self, factor: float) -> Costs:
        return Costs(*(factor * seconds for seconds in astuple(self)))


def calibrate(
    backbone: Backbone,
    size: Size,
    diffusion: DiffusionParams,
    rules: Rules | None,
    small: Images | None = None,
    frames: float = math.inf,
) -> Costs:
    """Time one frame of size (H, W) and one of its labels through the real code: a video model's in a window of two.

    Begins with a small frame, which also warms up, and doubles its sides as long as that is quick. What is then
    still smaller than `size` is scaled by area, which may be a fifth off: a small frame costs more per pixel, but for
    self-attention, which grows faster than the area.

    Args:
        rules: None where labels are enlarged without the backbone.
        small: the small decoder; only needed where `fast.decode` is `small`.
        frames: of the clip; a short one's calibration is shorter.
    """
    part: Size = (MULTIPLE, MULTIPLE)
    while True:
        costs = _round(backbone, part, diffusion, rules, small)
        following = min(2 * part[0], size[0]), min(2 * part[1], size[1])
        growth = following[0] * following[1] / (part[0] * part[1])
        whole = costs.scaled(size[0] * size[1] / (part[0] * part[1]))
        if part == size or growth * costs.total > min(LONGEST, SHARE * frames * whole.total):
            return whole
        part = following


def _round(
    backbone: Backbone, size: Size, diffusion: DiffusionParams, rules: Rules | None, small: Images | None
) -> Costs:
    # In a video model's window of one frame there would be no guidance.
    count = min(2, backbone.window)
    frames = np.zeros((count, *size, 3), np.uint8)
    latents, encode = timed(backbone.device, partial(backbone.encode, frames))
    conditioning = condition(backbone, frames[0], 0, diffusion)
    denoise = partial(clean_pass, backbone, latents, conditioning=conditioning)
    if rules is None:
        _, clean = timed(backbone.device, partial(denoise, diffusion))
        return Costs(encode / count, clean / count)
    passed, clean = timed(backbone.device, partial(denoise, rules.denoising, share=to_share(rules), skip=rules.skip))
    grid = backbone.token_shape(rules.upsample.block, size)[:2]
    window = Window(range(count), range(count), alone(whole_labels(np.zeros((count, *grid), np.int64))))
    result, varied = timed(backbone.device, partial(modulated, backbone, passed, [window], rules, 2 * count))
    _, decode = timed(backbone.device, lambda: list(compared(backbone, passed.final, window, result[0], rules, small)))
    samples = len(rules.directions) * count
    return Costs(encode / count, clean / count, varied / samples, decode / samples)


def timed(device: torch.device, work: Callable[[], Result]) -> tuple[Result, float]:
    """The result of work on a device, and the seconds that it took."""
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def encoder_seconds(encoder: Encoder, device: torch.device, size: Size) -> float:
    """Seconds of an image encoder for one frame of size (H, W), scaled by area from a smaller one."""
    part: Size = (min(CALIBRATED, size[0]), min(CALIBRATED, size[1]))
    frames, grid = np.zeros((1, *part, 3), np.uint8), (part[0] // TOKEN, part[1] // TOKEN)
    encoded(encoder, frames, grid)  # the first call sets up more than it computes
    _, seconds = timed(device, lambda: encoded(encoder, frames, grid))
    return seconds * size[0] * size[1] / (part[0] * part[1])
