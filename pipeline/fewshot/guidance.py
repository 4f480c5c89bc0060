"""Moving latents at test time, so that their maps agree with a vote along tracks (SMITE, section 4.3 and 7.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.fewshot.chunks import groups
from pipeline.fewshot.energies import Energies, total_energy
from pipeline.fewshot.latent_update import AdamState, update_rate, updated
from pipeline.fewshot.reading import SegmentReader
from pipeline.parameters import GuidanceParams


@dataclass(frozen=True, eq=False)
class Aims:
    """What the maps of some frames are to agree with.

    Attributes:
        tracked: (f, k, h, w) S_tracked, what the vote says; None where lambda_track is 0.
        reference: (f, k, h, w) S_ref, whose low frequencies are to stay; None where lambda_reg is 0.
        threshold: share of the frequencies that count as low.
    """

    tracked: Tensor | None
    reference: Tensor | None
    threshold: float

    def of(self, frames: range) -> Aims:
        """Those of some of the frames."""
        here = slice(frames.start, frames.stop)
        return Aims(
            None if self.tracked is None else self.tracked[here],
            None if self.reference is None else self.reference[here],
            self.threshold,
        )


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration, for whoever watches: what it found, and where it went.

    Attributes:
        frames: the group of frames that was moved.
        number: of the iteration, from 0.
        maps: (g, k, h, w) of the group before the update.
        energies: of these maps.
        gradient: (g, 4, h, w) of E_total to the latents.
        latents: (g, 4, h, w) after the update.
    """

    frames: range
    number: int
    maps: Tensor
    energies: Energies
    gradient: Tensor
    latents: Tensor


def guided(
    reader: SegmentReader,
    latents: Tensor,
    timestep: int,
    aims: Aims,
    params: GuidanceParams,
    watch: Callable[[Iteration], None] = lambda iteration: None,
) -> tuple[Tensor, Tensor]:
    """Move the latents of a chunk down the gradient of E_total (Eq. 7, 8), each group of frames by itself.

    Args:
        latents: (f, 4, h, w), noisy.
        timestep: at which the network sees them; it sets the step size too.
        watch: is told of every iteration.

    Returns:
        latents: (f, 4, h, w), moved.
        energies: (iterations, groups, 3) float32: E_total, E_tracking and E_reg before each update.
    """
    rate = update_rate(1 - reader.backbone.training_schedule.beta(timestep), params.rate)
    parts = groups(len(latents), params.group)
    energies = torch.zeros(params.iterations, len(parts), 3)
    moved = []
    for number, frames in enumerate(parts):
        here, aim = latents[frames.start : frames.stop].detach(), aims.of(frames)
        adam = AdamState.zeros_like(here)
        for iteration in range(params.iterations):
            found, maps, gradient = energy_gradient(reader, here, timestep, aim, params)
            here, adam = updated(here, gradient, adam, rate)
            energies[iteration, number] = torch.stack([found.total, found.track, found.regularisation]).cpu()
            watch(Iteration(frames, iteration, maps, found, gradient, here))
        moved.append(here)
    return torch.cat(moved), energies


def energy_gradient(
    reader: SegmentReader, latents: Tensor, timestep: int, aims: Aims, params: GuidanceParams
) -> tuple[Energies, Tensor, Tensor]:
    """E_total of noisy latents (f, 4, h, w) that are seen together, their maps (f, k, h, w), and its gradient to them.

    All are detached.
    """
    with torch.enable_grad():
        leaf = latents.detach().clone().requires_grad_()
        maps = reader.look(leaf, timestep, frames=len(leaf)).maps()
        found = total_energy(
            maps,
            aims.tracked,
            aims.reference,
            lambda_track=params.lambda_track,
            lambda_reg=params.lambda_reg,
            threshold=aims.threshold,
            temporal=params.low_pass.temporal,
            reduction=params.low_pass.norm,
            targets=params.targets,
            background=reader.background,
        )
        (gradient,) = torch.autograd.grad(found.total, leaf)
    detached = Energies(found.total.detach(), found.track.detach(), found.regularisation.detach())
    return detached, maps.detach(), gradient
