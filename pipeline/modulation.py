"""Masked modulation (paper sections 3.2 and 4.3, Eq. 2 and 6): push one label's region, see which pixels move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.backbone import Backbone, Offset, Tap
from pipeline.diffusion import CleanPass, DiffusionSettings
from pipeline.errors import UsageError

#: Decoder blocks whose attention is taken from the clean pass. Cross-attention keys depend on the context only,
#: so injecting them would change nothing.
INJECTED = tuple(
    tap
    for block in range(3, 12)
    for tap in (Tap(block, "self", "query"), Tap(block, "self", "key"), Tap(block, "cross", "query"))
)


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
    """

    strength: float = 50.0
    block: int = 7
    modulate_step: int = 22
    offset: Literal["after", "inside"] = "after"
    blend: bool = True
    blend_last_step: int = 23
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    inject: bool = True

    def check(self, diffusion: DiffusionSettings) -> None:
        """Refuse a modulation outside the steps that are run.

        Raises:
            UsageError: names the parameter.
        """
        steps = diffusion.remaining()
        if self.modulate_step not in steps:
            raise UsageError(
                f"upsample.modulate_step must be between diffusion.start_step = {steps.start} and {steps[-1]}, "
                f"not {self.modulate_step}"
            )
        if self.blend and not self.modulate_step <= self.blend_last_step <= steps[-1]:
            raise UsageError(
                f"upsample.blend_last_step must be between upsample.modulate_step = {self.modulate_step} and "
                f"{steps[-1]}, not {self.blend_last_step}"
            )


@dataclass(frozen=True)
class Modulated:
    """Modulated latents of j jobs, each (j, 4, h, w): per step before and after blending."""

    unblended: Mapping[int, Tensor] = field(default_factory=dict)
    states: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def final(self) -> Tensor:
        return self.states[max(self.states)]


def taps_to_record(settings: ModulationSettings, diffusion: DiffusionSettings) -> dict[int, Sequence[Tap]]:
    """What the clean pass must record for the modulated passes: step -> taps."""
    steps = range(settings.modulate_step, diffusion.steps) if settings.inject else ()
    return {step: INJECTED for step in steps}


def modulate(
    backbone: Backbone,
    clean: CleanPass,
    masks: Tensor,
    signs: Tensor,
    frames: Tensor,
    diffusion: DiffusionSettings,
    settings: ModulationSettings,
) -> Modulated:
    """Repeat the denoising of j (frame, label, sign) jobs with Eq. 2, blending by Eq. 6.

    Args:
        clean: the clean pass of f frames, with the taps of `taps_to_record`.
        masks: (j, h, w) float, M_l on the token grid.
        signs: (j,) float, +1 or -1.
        frames: (j,) int, which of the f frames a job belongs to.
    """
    schedule = backbone.schedule(diffusion.steps)
    first = settings.modulate_step
    before = clean.start if first == diffusion.start_step else clean.states[first - 1]
    latents = before[frames]
    blending = enlarge(masks, latents.shape[-2:], settings.mask_resize)[:, None].to(latents)
    offset = Offset(settings.block, _offsets(backbone, masks, signs, latents, settings), settings.offset)
    unblended, states = {}, {}
    for step in range(first, diffusion.steps):
        result = backbone.denoise(
            latents,
            step,
            schedule,
            diffusion.guidance,
            inject={tap: _for_jobs(value, clean, frames) for tap, value in clean.taps[step].items() if tap in INJECTED}
            if settings.inject
            else None,
            offset=offset if step == first else None,
        )
        latents = unblended[step] = result.latents
        if settings.blend and step <= settings.blend_last_step:
            latents = blend(latents, clean.states[step][frames], blending)
        states[step] = latents
    return Modulated(unblended, states)


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


def _for_jobs(value: Tensor, clean: CleanPass, frames: Tensor) -> Tensor:
    halves = value.unflatten(0, (-1, len(clean.start)))
    return halves[:, frames].flatten(0, 1)


def jobs_of(coarse: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All (frame, label, sign) jobs of coarse maps (f, h, w): each label present in a frame, with both signs.

    Returns:
        frames (j,) int64, labels (j,) int64, signs (j,) float32, masks (j, h, w) float32; the two signs of a
        label are neighbours, + first, labels ascending within a frame.
    """
    pairs = [(frame, label) for frame, plane in enumerate(coarse) for label in torch.unique(plane).tolist()]
    frames = torch.tensor([frame for frame, _ in pairs for _ in range(2)])
    labels = torch.tensor([label for _, label in pairs for _ in range(2)])
    signs = torch.tensor([1.0, -1.0]).repeat(len(pairs))
    masks = (coarse[frames] == labels[:, None, None]).float()
    return frames, labels, signs, masks
