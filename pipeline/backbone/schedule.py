"""The noise schedule of Stable Diffusion: scaled-linear betas and exact integer timesteps."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.backbone.base import Schedule

TRAIN_STEPS = 1000


def scaled_linear_schedule(steps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """The schedule that the authors' sampler uses, for any number of steps.

    Timesteps are 999 - i * 1000 / steps, rounded down (25 steps: 999, 959, ..., 39); sigma^2 is noise variance
    over signal variance. Computed in float64.
    """
    betas = np.linspace(beta_start**0.5, beta_end**0.5, TRAIN_STEPS) ** 2
    alphas = np.cumprod(1 - betas)
    timesteps = np.linspace(TRAIN_STEPS - 1, 0, steps, endpoint=False).astype(int)
    sigmas = np.append(np.sqrt((1 - alphas[timesteps]) / alphas[timesteps]), 0.0)
    return Schedule(torch.from_numpy(sigmas.astype(np.float32)), tuple(int(step) for step in timesteps))
