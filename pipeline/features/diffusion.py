"""The clean pass: noise a frame's latents, denoise them to the end, keep what later steps need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import (
    UNCONDITIONED,
    Backbone,
    Conditioning,
    Denoised,
    RepeatableStep,
    Share,
    Tap,
    modulating,
)
from pipeline.features.noise import Noise, frame_noise, image_noise, shared_noise
from pipeline.features.steps import remaining_steps
from pipeline.parameters import DiffusionParams


@dataclass(frozen=True)
class CleanPass:
    """What the unmodulated denoising of b frames leaves.

    Attributes:
        start: (b, 4, h, w) noised latents before the first step.
        states: step -> (b, 4, h, w) latents after that step (z_t of Eq. 6).
        taps: step -> tapped tensors, each (halves * b, n, c).
        repeatable: step -> the step, where it shares anything with variants.
    """

    start: Tensor
    states: Mapping[int, Tensor]
    taps: Mapping[int, Mapping[Tap, Tensor]]
    repeatable: Mapping[int, RepeatableStep] = field(default_factory=dict)

    @property
    def final(self) -> Tensor:
        """The denoised latents."""
        return self.states[max(self.states)]


def draw_noise(params: DiffusionParams, source_indices: Sequence[int], shape: tuple[int, int, int]) -> Noise:
    """The noise of frames with these source indices under `diffusion.noise`; `shape` is (4, h, w)."""
    if params.noise == "shared":
        return shared_noise(params.seed, len(source_indices), shape)
    return frame_noise(params.seed, source_indices, shape)


def add_noise(latents: Tensor, epsilon: Tensor, params: DiffusionParams, backbone: Backbone) -> Tensor:
    """x_start = z + sigma_start * eps, all (b, 4, h, w)."""
    sigma = backbone.schedule(params.steps).sigmas[params.start_step]
    return latents + float(sigma) * epsilon.to(latents.device)


def condition(backbone: Backbone, frame: np.ndarray, source_index: int, params: DiffusionParams) -> Conditioning:
    """What a window is conditioned on, from its first frame (H, W, 3) uint8."""
    noise = image_noise(params.seed, source_index, (3, *frame.shape[:2]))
    return backbone.condition(frame, noise, params.video)


def clean_pass(
    backbone: Backbone,
    start: Tensor,
    params: DiffusionParams,
    record: Mapping[int, Sequence[Tap]] | None = None,
    share: Mapping[int, Share] | None = None,
    conditioning: Conditioning = UNCONDITIONED,
    skip: Collection[int] = (),
) -> CleanPass:
    """Denoise `start` (b, 4, h, w) to the end, recording taps and keeping what variants share, by step.

    Args:
        conditioning: from `condition`; a video model's `start` is the whole window.
        skip: steps that are left out; the step before goes all the way to the step after.

    Raises:
        UsageError: steps are to be shared, and this backbone's cannot be repeated.
    """
    schedule = backbone.schedule(params.steps).without(skip)
    guidance = backbone.guidance_of(params.video.guidance_first, params.guidance, len(start))
    latents, states, taps, repeatable = start, {}, {}, {}
    for step in remaining_steps(params, skip):
        wanted, shared = (record or {}).get(step, ()), (share or {}).get(step)
        result: Denoised
        if shared is None:
            result = backbone.denoise(latents, step, schedule, guidance, record=wanted, conditioning=conditioning)
        else:
            result = modulating(backbone).denoise_repeatably(
                latents, step, schedule, guidance, shared, record=wanted, conditioning=conditioning
            )
            repeatable[step] = result.repeatable
        latents = states[step] = result.latents
        taps[step] = result.taps
    return CleanPass(start, states, taps, repeatable)


def conditional_half(tensor: Tensor, frames: int) -> Tensor:
    """The conditional half (b, n, c) of a tapped tensor (halves * b, n, c)."""
    return tensor[-frames:]


def psnr(images: Tensor, frames: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, one per image; both (b, 3, H, W) in [-1, 1] (images are clipped)."""
    error = (images.clamp(-1, 1) - frames).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
