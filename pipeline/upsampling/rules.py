"""How labels are upsampled by modulation: what the parameters say, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.backbone import modulating
from pipeline.errors import UsageError
from pipeline.features.steps import remaining_steps
from pipeline.parameters import DiffusionParams, UpsampleFast, UpsampleParams

if TYPE_CHECKING:
    from pipeline.backbone import Backbone

#: The group `upsample.fast` of the exact mode: nothing is approximated.
EXACT = UpsampleFast(guidance=None, signs="both", steps=1000, groups="single", gap=1, decode="full", deep="own")


@dataclass(frozen=True)
class Rules:
    """How labels are upsampled: two sections of the parameters, and what follows from them."""

    diffusion: DiffusionParams
    upsample: UpsampleParams

    @property
    def fast(self) -> UpsampleFast:
        """What is approximated."""
        return self.upsample.fast if self.upsample.mode == "fast" else EXACT

    @property
    def directions(self) -> tuple[float, ...]:
        """The signs of the offset with which a group is modulated, + first."""
        return (1.0, -1.0) if self.fast.signs == "both" else (1.0,)

    @property
    def denoising(self) -> DiffusionParams:
        """The diffusion of clean and modulated passes, which may have another guidance than that of the features."""
        guidance = self.fast.guidance
        return self.diffusion if guidance is None else replace(self.diffusion, guidance=guidance)

    @property
    def skip(self) -> tuple[int, ...]:
        """The steps from modulate_step on that are left out, so that as many as asked for remain, evenly spread."""
        steps = range(self.upsample.modulate_step, self.diffusion.steps)
        kept = np.linspace(steps.start, steps[-1], min(self.fast.steps, len(steps))).round().astype(int).tolist()
        return tuple(step for step in steps if step not in kept)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the clean pass."""
        return remaining_steps(self.diffusion, self.skip)

    @property
    def modulated_steps(self) -> tuple[int, ...]:
        """The steps of a modulated pass."""
        return tuple(step for step in self.steps if step >= self.upsample.modulate_step)

    def check(self) -> None:
        """Refuse a modulation outside the steps that are run.

        Raises:
            UsageError: names the parameter.
        """
        steps, params = remaining_steps(self.diffusion), self.upsample
        if params.modulate_step not in steps:
            raise UsageError(
                f"upsample.modulate_step must be between diffusion.start_step = {steps[0]} and {steps[-1]}, "
                f"not {params.modulate_step}"
            )
        last = params.parity.blend_last_step
        if params.blend and not params.modulate_step <= last <= steps[-1]:
            raise UsageError(
                f"upsample.parity.blend_last_step must be between upsample.modulate_step = {params.modulate_step} and "
                f"{steps[-1]}, not {last}"
            )

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse what a backbone cannot modulate or decode.

        Raises:
            UsageError: names the parameter.
        """
        remedy = f"`vidseg preset apply {backbone.name}` sets all that depends on the backbone"
        attention, decode = self.upsample.video.attention, self.upsample.video.decode
        modulated = modulating(backbone).modulated
        if attention not in modulated:
            known = ", ".join(modulated)
            raise UsageError(f"upsample.video.attention is {attention}, but {backbone.name} has only {known}; {remedy}")
        if decode == "joint" and backbone.window == 1:
            raise UsageError(f"upsample.video.decode is joint, but {backbone.name} sees every frame alone; {remedy}")
        if decode == "joint" and self.fast.decode != "full":
            raise UsageError(
                f"upsample.video.decode is joint, but upsample.fast.decode = {self.fast.decode} takes frames alone; "
                "set upsample.video.decode to single or upsample.fast.decode to full"
            )
