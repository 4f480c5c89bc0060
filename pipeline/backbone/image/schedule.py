"""The noise schedule of Stable Diffusion (scaled-linear betas, exact integer timesteps) and the steps along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.base import Schedule

TRAIN_STEPS = 1000


def scaled_linear_alphas(beta_start: float = 0.00085, beta_end: float = 0.012) -> np.ndarray:
    """The cumulative product of 1 - beta, (1000,) float64: the share of signal variance at each training timestep."""
    betas = np.linspace(beta_start**0.5, beta_end**0.5, TRAIN_STEPS) ** 2
    return np.cumprod(1 - betas)


def scaled_linear_schedule(steps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """The schedule that the authors' sampler uses, for any number of steps.

    Timesteps are 999 - i * 1000 / steps, rounded down (25 steps: 999, 959, ..., 39); sigma^2 is noise variance
    over signal variance. Computed in float64.
    """
    alphas = scaled_linear_alphas(beta_start, beta_end)
    timesteps = np.linspace(TRAIN_STEPS - 1, 0, steps, endpoint=False).astype(int)
    sigmas = np.append(np.sqrt((1 - alphas[timesteps]) / alphas[timesteps]), 0.0)
    return Schedule(torch.from_numpy(sigmas.astype(np.float32)), tuple(int(step) for step in timesteps))


@dataclass(frozen=True)
class GuidedStep:
    """What one Euler step with guidance does around the network.

    Attributes:
        timestep: the network's.
        sigma, following: noise levels before and after.
        guidance: scale against the unconditional half; 1 has no such half.
    """

    timestep: float
    sigma: float
    following: float
    guidance: float

    @classmethod
    def of(cls, schedule: Schedule, step: int, guidance: float) -> GuidedStep:
        """Step 0..steps-1 of a schedule."""
        sigma, following = (float(value) for value in schedule.sigmas[step : step + 2])
        return cls(schedule.timesteps[step], sigma, following, guidance)

    @property
    def halves(self) -> int:
        return 1 if self.guidance == 1 else 2

    def scaled(self, latents: Tensor) -> Tensor:
        """The network's input (halves * b, 4, h, w) of latents (b, 4, h, w)."""
        return (latents / (1 + self.sigma**2) ** 0.5).repeat(self.halves, 1, 1, 1)

    def moved(self, latents: Tensor, epsilon: Tensor) -> Tensor:
        """The next latents, from these and the network's output (halves * b, 4, h, w)."""
        if self.halves == 2:
            unconditional, conditional = epsilon.chunk(2)
            epsilon = unconditional + self.guidance * (conditional - unconditional)
        return latents + (self.following - self.sigma) * epsilon
