"""The schedule of Stable Video Diffusion: continuous noise levels, v-prediction, a guidance scale per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbone.base import Schedule


def karras_schedule(steps: int, largest: float = 700.0, smallest: float = 0.002, rho: float = 7.0) -> Schedule:
    """Noise levels between `largest` and `smallest`, evenly spaced in their rho-th roots, then 0.

    The network's timesteps are c_noise = ln(sigma) / 4: real numbers. Computed in float32, as the authors' sampler
    does, so that the levels are the same to the last bit.
    """
    ramp = torch.linspace(0, 1, steps)
    first, last = largest ** (1 / rho), smallest ** (1 / rho)
    sigmas = torch.cat([(first + ramp * (last - first)) ** rho, torch.zeros(1)])
    return Schedule(sigmas, tuple((0.25 * sigmas[:-1].log()).tolist()))


@dataclass(frozen=True)
class VideoStep:
    """What one Euler step does around the network, of a window of b frames.

    Attributes:
        timestep: the network's, c_noise.
        sigma, following: noise levels before and after.
        guidance: (b,) scales against the unconditional half.
    """

    timestep: float
    sigma: float
    following: float
    guidance: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule, step: int, guidance: float | Sequence[float], frames: int) -> VideoStep:
        """Step 0..steps-1 of a schedule; one scale stands for all frames."""
        sigma, following = (float(value) for value in schedule.sigmas[step : step + 2])
        scales = (guidance,) * frames if isinstance(guidance, int | float) else tuple(guidance)
        return cls(schedule.timesteps[step], sigma, following, scales)

    @property
    def halves(self) -> tuple[bool, ...]:
        """Which halves are run, each conditional or not: without guidance only the conditional one."""
        return (True,) if all(scale == 1 for scale in self.guidance) else (False, True)

    @property
    def preconditioning(self) -> tuple[float, float, float]:
        """c_in, c_skip and c_out, computed in float32 as the noise levels are."""
        sigma = torch.tensor(self.sigma, dtype=torch.float32)
        variance = sigma**2 + 1
        return float(1 / variance**0.5), float(1 / variance), float(-sigma / variance**0.5)

    def moved(self, latents: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The next latents, from these and the network's output of each half, all (..., b, 4, h, w) float32."""
        _, skip, out = self.preconditioning
        denoised = [skip * latents + out * output for output in outputs]
        guided = denoised[-1]
        if len(denoised) == 2:
            scales = torch.tensor(self.guidance, device=latents.device)[:, None, None, None]
            guided = denoised[0] + scales * (denoised[1] - denoised[0])
        return latents + (self.following - self.sigma) * (latents - guided) / self.sigma
