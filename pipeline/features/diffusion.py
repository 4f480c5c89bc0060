"""The clean pass: noise a frame's latents, denoise them to the end, keep what later steps need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import UNCONDITIONED, Backbone, Conditioning, Keep, Kept, Motion, Tap
from pipeline.errors import UsageError
from pipeline.features.noise import Noise, frame_noise, image_noise, shared_noise


@dataclass(frozen=True)
class DiffusionSettings:
    """Schedule, noise and conditioning; the names are those of params.yaml, section `diffusion`.

    Attributes:
        guidance_first, motion: of video models only: the scale of a window's first frame, from which it goes
            linearly to `guidance` at the last; what the model is told of a window.
        skip: steps that are left out; the step before goes all the way to the step after.
    """

    steps: int = 25
    start_step: int = 22
    guidance: float = 5.0
    noise: str = "per_frame"
    seed: int = 0
    guidance_first: float = 1.0
    motion: Motion = field(default_factory=Motion)
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start_step < self.steps:
            raise UsageError(
                f"diffusion.start_step must be between 0 and diffusion.steps - 1 = {self.steps - 1}, "
                f"not {self.start_step}"
            )

    def remaining(self) -> tuple[int, ...]:
        """The steps that are run, from start_step to the end."""
        return tuple(step for step in range(self.start_step, self.steps) if step not in self.skip)


@dataclass(frozen=True)
class CleanPass:
    """What the unmodulated denoising of b frames leaves.

    Attributes:
        start: (b, 4, h, w) noised latents before the first step.
        states: step -> (b, 4, h, w) latents after that step (z_t of Eq. 6).
        taps: step -> tapped tensors, each (halves * b, n, c).
        kept: step -> what variants of it share.
    """

    start: Tensor
    states: Mapping[int, Tensor]
    taps: Mapping[int, Mapping[Tap, Tensor]]
    kept: Mapping[int, Kept] = field(default_factory=dict)

    @property
    def final(self) -> Tensor:
        """The denoised latents."""
        return self.states[max(self.states)]


def draw_noise(settings: DiffusionSettings, source_indices: Sequence[int], shape: tuple[int, int, int]) -> Noise:
    """The noise of frames with these source indices under `diffusion.noise`; `shape` is (4, h, w)."""
    if settings.noise == "shared":
        return shared_noise(settings.seed, len(source_indices), shape)
    return frame_noise(settings.seed, source_indices, shape)


def add_noise(latents: Tensor, epsilon: Tensor, settings: DiffusionSettings, backbone: Backbone) -> Tensor:
    """x_start = z + sigma_start * eps, all (b, 4, h, w)."""
    sigma = backbone.schedule(settings.steps).sigmas[settings.start_step]
    return latents + float(sigma) * epsilon.to(latents.device)


def condition(backbone: Backbone, frame: np.ndarray, source_index: int, settings: DiffusionSettings) -> Conditioning:
    """What a window is conditioned on, from its first frame (H, W, 3) uint8."""
    noise = image_noise(settings.seed, source_index, (3, *frame.shape[:2]))
    return backbone.condition(frame, noise, settings.motion)


def clean_pass(
    backbone: Backbone,
    start: Tensor,
    settings: DiffusionSettings,
    record: Mapping[int, Sequence[Tap]] | None = None,
    keep: Mapping[int, Keep] | None = None,
    conditioning: Conditioning = UNCONDITIONED,
) -> CleanPass:
    """Denoise `start` (b, 4, h, w) to the end, recording taps and keeping what variants share, by step.

    Args:
        conditioning: from `condition`; a video model's `start` is the whole window.
    """
    schedule = backbone.schedule(settings.steps).without(settings.skip)
    guidance = backbone.guidance_of(settings.guidance_first, settings.guidance, len(start))
    latents, states, taps, kept = start, {}, {}, {}
    for step in settings.remaining():
        asked = (record or {}).get(step, ()), (keep or {}).get(step)
        result = backbone.denoise(
            latents, step, schedule, guidance, record=asked[0], keep=asked[1], conditioning=conditioning
        )
        latents = states[step] = result.latents
        taps[step] = result.taps
        if result.kept is not None:
            kept[step] = result.kept
    return CleanPass(start, states, taps, kept)


def conditional_half(tensor: Tensor, frames: int) -> Tensor:
    """The conditional half (b, n, c) of a tapped tensor (halves * b, n, c)."""
    return tensor[-frames:]


def psnr(images: Tensor, frames: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, one per image; both (b, 3, H, W) in [-1, 1] (images are clipped)."""
    error = (images.clamp(-1, 1) - frames).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
