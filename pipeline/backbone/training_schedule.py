"""The noise of every training timestep: adding it, and going from one timestep to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrainingSchedule:
    """The noise at every training timestep t = 0..999, in the variance-preserving scale.

    Attributes:
        alphas: (1000,) float64, the share of signal variance at t; with a bar in the literature.
    """

    alphas: np.ndarray

    def beta(self, timestep: int) -> float:
        """The variance that training step t adds."""
        before = self._alpha(timestep - 1) if timestep else 1.0
        return 1 - self._alpha(timestep) / before

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Clean latents with standard normal noise, at timestep t; all of one shape."""
        alpha = self._alpha(timestep)
        return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise

    def moved(self, latents: Tensor, noise: Tensor, timestep: int, to: int) -> Tensor:
        """The DDIM step (eta 0) of latents at t to an earlier or later timestep, given the noise predicted in them."""
        alpha, following = self._alpha(timestep), self._alpha(to)
        clean = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        return following**0.5 * clean + (1 - following) ** 0.5 * noise

    def _alpha(self, timestep: int) -> float:
        if not 0 <= timestep < len(self.alphas):
            raise UsageError(f"timestep {timestep} is none of the model's; choose one of 0..{len(self.alphas) - 1}")
        return float(self.alphas[timestep])
