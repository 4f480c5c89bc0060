"""Masked modulation (paper sections 3.2 and 4.3, Eq. 2 and 6): push one label's region, see which pixels move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.backbone import Backbone, Offset, RepeatableStep, Share
from pipeline.features.diffusion import CleanPass
from pipeline.parameters import UpsampleParams
from pipeline.upsampling.rules import Rules


@dataclass(frozen=True)
class Jobs:
    """What is modulated: j times some tokens of one frame with one sign.

    Attributes:
        frames: (j,) each job's; a video model's jobs are whole windows, each all frames in order.
        signs: (j,) float32, +1 or -1.
        masks: (j, h, w) float32, M_l on the token grid.
    """

    frames: Sequence[int]
    signs: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class ModulatedStep:
    """Latents of j jobs after a step, each (j, 4, h, w): before and after blending."""

    step: int
    unblended: Tensor
    latents: Tensor


def to_share(rules: Rules) -> dict[int, Share]:
    """What the clean pass shares with the modulated passes: step -> parts."""
    first, inject = rules.upsample.modulate_step, rules.upsample.parity.inject
    shared = {step: Share(inject, deep=rules.fast.deep == "clean") for step in rules.modulated_steps}
    return {**shared, first: Share(inject, rules.upsample.block)}


def modulate(backbone: Backbone, clean: CleanPass, jobs: Jobs, rules: Rules, batch: int) -> Iterator[ModulatedStep]:
    """Repeat the denoising of j jobs with Eq. 2, blending by Eq. 6, step by step.

    Args:
        clean: the clean pass of f frames, sharing what `to_share` says. What the jobs of a frame share is computed once
            per step, so all jobs of a frame belong in one call.
        batch: jobs per pass of the network.
    """
    params, parity, frames = rules.upsample, rules.upsample.parity, jobs.frames
    first = params.modulate_step
    before = clean.start if first == rules.diffusion.start_step else clean.states[first - 1]
    latents, masks = before[frames], jobs.masks.to(before)
    blending = enlarge(masks, latents.shape[-2:], parity.mask_resize)[:, None]
    offset: Offset | None = Offset(_offsets(backbone, jobs, latents, params), parity.offset, params.video.attention)
    for step in rules.modulated_steps:
        latents = unblended = _repeated(clean.repeatable[step], latents, frames, offset, batch)
        if params.blend and step <= parity.blend_last_step:
            latents = blend(unblended, clean.states[step][frames], blending)
        yield ModulatedStep(step, unblended, latents)
        offset = None


def _repeated(
    step: RepeatableStep, latents: Tensor, frames: Sequence[int], offset: Offset | None, batch: int
) -> Tensor:
    variants = step.variants(set(frames))
    parts = [slice(first, first + batch) for first in range(0, len(frames), batch)]
    return torch.cat([variants.denoise(latents[part], frames[part], offset and offset[part]) for part in parts])


def blend(modulated: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6: z~ = z (1 - M) + z^ M, all broadcastable to (j, 4, h, w)."""
    return mask * modulated + (1 - mask) * clean


def enlarge(masks: Tensor, size: Sequence[int], method: str) -> Tensor:
    """Masks (j, h, w) at another resolution, by `bilinear` (half-pixel centres) or `nearest`."""
    options = {"align_corners": False} if method == "bilinear" else {}
    return interpolate(masks[:, None].float(), size=tuple(size), mode=method, **options)[:, 0]


def _offsets(backbone: Backbone, jobs: Jobs, latents: Tensor, params: UpsampleParams) -> Tensor:
    """(j, n) signed strength times each token's mask."""
    height, width = (side * backbone.latent_stride for side in latents.shape[-2:])
    grid, masks = backbone.token_shape(params.block, (height, width))[:2], jobs.masks.to(latents)
    on_block = masks if tuple(masks.shape[1:]) == grid else enlarge(masks, grid, "nearest")
    return (params.strength * jobs.signs.to(latents)[:, None, None] * on_block).flatten(1).to(latents)
