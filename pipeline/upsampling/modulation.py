"""Masked modulation (paper sections 3.2 and 4.3, Eq. 2 and 6): push one label's region, see which pixels move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.backbone import Backbone, Keep, Kept, Offset
from pipeline.backbone import Modulated as ModulatedAttention
from pipeline.errors import UsageError
from pipeline.features.diffusion import CleanPass, DiffusionSettings


@dataclass(frozen=True)
class ModulationSettings:
    """Names are those of params.yaml, section `upsample`.

    Attributes:
        strength: lambda of Eq. 2.
        block, modulate_step: b_m and t_m.
        offset: `after` or `inside` the output projection f of Eq. 2.
        blend, blend_last_step: Eq. 6, from modulate_step to that step.
        mask_resize: how M_l is enlarged to the latents, `bilinear` (paper) or `nearest` (authors' code).
        inject: keep queries and keys of the clean pass.
        attention: which attention of the block is offset, one of the model's.
    """

    strength: float = 50.0
    block: int = 7
    modulate_step: int = 22
    offset: Literal["after", "inside"] = "after"
    blend: bool = True
    blend_last_step: int = 23
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    inject: bool = True
    attention: ModulatedAttention = "cross_spatial"

    def check(self, diffusion: DiffusionSettings) -> None:
        """Refuse a modulation outside the steps that are run.

        Raises:
            UsageError: names the parameter.
        """
        steps = diffusion.remaining()
        if self.modulate_step not in steps:
            raise UsageError(
                f"upsample.modulate_step must be between diffusion.start_step = {steps[0]} and {steps[-1]}, "
                f"not {self.modulate_step}"
            )
        if self.blend and not self.modulate_step <= self.blend_last_step <= steps[-1]:
            raise UsageError(
                f"upsample.parity.blend_last_step must be between upsample.modulate_step = {self.modulate_step} and "
                f"{steps[-1]}, not {self.blend_last_step}"
            )


@dataclass(frozen=True)
class Jobs:
    """What is modulated: j times one label of one frame with one sign.

    Attributes:
        frames, labels: (j,) each job's.
        signs: (j,) float32, +1 or -1.
        masks: (j, h, w) float32, M_l on the token grid.
    """

    frames: Sequence[int]
    labels: Sequence[int]
    signs: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> Jobs:
        return Jobs(self.frames[part], self.labels[part], self.signs[part], self.masks[part])


def jobs_of(coarse: Tensor) -> Jobs:
    """All jobs of coarse maps (f, h, w): each label present in a frame, with both signs.

    The two signs of a label are neighbours, + first, labels ascending within a frame.
    """
    pairs = [(frame, label) for frame, plane in enumerate(coarse) for label in torch.unique(plane).tolist()]
    frames, labels = ([pair[which] for pair in pairs for _ in range(2)] for which in range(2))
    masks = (coarse[frames] == torch.tensor(labels)[:, None, None]).float()
    return Jobs(frames, labels, torch.tensor([1.0, -1.0]).repeat(len(pairs)), masks)


@dataclass(frozen=True)
class Modulated:
    """Modulated latents of j jobs, each (j, 4, h, w): per step before and after blending."""

    unblended: Mapping[int, Tensor] = field(default_factory=dict)
    states: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def final(self) -> Tensor:
        return self.states[max(self.states)]


def to_keep(settings: ModulationSettings, diffusion: DiffusionSettings) -> dict[int, Keep]:
    """What the clean pass must keep for the modulated passes: step -> parts."""
    return {
        step: Keep(settings.inject, settings.block if step == settings.modulate_step else None)
        for step in steps_from(settings.modulate_step, diffusion)
    }


def steps_from(first: int, diffusion: DiffusionSettings) -> tuple[int, ...]:
    """The steps that are run from `first` on."""
    return tuple(step for step in diffusion.remaining() if step >= first)


def modulate(
    backbone: Backbone,
    clean: CleanPass,
    jobs: Jobs,
    diffusion: DiffusionSettings,
    settings: ModulationSettings,
    batch: int,
) -> Modulated:
    """Repeat the denoising of j jobs with Eq. 2, blending by Eq. 6.

    Args:
        clean: the clean pass of f frames, kept as `to_keep` says. What the jobs of a frame share is computed once
            per step, so all jobs of a frame belong in one call.
        batch: jobs per pass of the network.
    """
    first, frames = settings.modulate_step, jobs.frames
    before = clean.start if first == diffusion.start_step else clean.states[first - 1]
    latents, masks = before[frames], jobs.masks.to(before)
    blending = enlarge(masks, latents.shape[-2:], settings.mask_resize)[:, None]
    offsets = _offsets(backbone, masks, jobs.signs.to(before), latents, settings)
    unblended, states = {}, {}
    for step in steps_from(first, diffusion):
        offset = Offset(offsets, settings.offset, settings.attention) if step == first else None
        latents = unblended[step] = _repeated(clean.kept[step], latents, frames, offset, batch)
        if settings.blend and step <= settings.blend_last_step:
            latents = blend(latents, clean.states[step][frames], blending)
        states[step] = latents
    return Modulated(unblended, states)


def _repeated(kept: Kept, latents: Tensor, frames: Sequence[int], offset: Offset | None, batch: int) -> Tensor:
    variants = kept.variants(set(frames))
    parts = batches(len(frames), batch)
    return torch.cat([variants.denoise(latents[part], frames[part], offset and offset[part]) for part in parts])


def batches(total: int, batch: int) -> Iterator[slice]:
    """Consecutive slices of `batch` of `total` jobs; the last one may be shorter."""
    return (slice(first, first + batch) for first in range(0, total, batch))


def blend(modulated: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Eq. 6: z~ = z (1 - M) + z^ M, all broadcastable to (j, 4, h, w)."""
    return mask * modulated + (1 - mask) * clean


def enlarge(masks: Tensor, size: Sequence[int], method: str) -> Tensor:
    """Masks (j, h, w) at another resolution, by `bilinear` (half-pixel centres) or `nearest`."""
    options = {"align_corners": False} if method == "bilinear" else {}
    return interpolate(masks[:, None].float(), size=tuple(size), mode=method, **options)[:, 0]


def _offsets(backbone: Backbone, masks: Tensor, signs: Tensor, latents: Tensor, settings: ModulationSettings) -> Tensor:
    height, width = (side * backbone.latent_stride for side in latents.shape[-2:])
    grid = backbone.token_shape(settings.block, (height, width))[:2]
    on_block = masks if tuple(masks.shape[1:]) == grid else enlarge(masks, grid, "nearest")
    return (settings.strength * signs[:, None, None] * on_block).flatten(1).to(latents)
