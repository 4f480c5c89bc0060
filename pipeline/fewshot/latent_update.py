"""How latents are moved down the gradient of an energy (SMITE, Eq. 8, with the Adam step of section 7.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class AdamState:
    """Adam's memory of earlier gradients: begins anew with every timestep and group of frames.

    Attributes:
        mean, square: moving means of the gradient and of its square, of the latents' shape.
        steps: how many there were.
    """

    mean: Tensor
    square: Tensor
    steps: int = 0

    @classmethod
    def zeros_like(cls, latents: Tensor) -> AdamState:
        return cls(torch.zeros_like(latents), torch.zeros_like(latents))


def update_rate(alpha: float, rate: float) -> float:
    """a_t = rate (1 - alpha_t) / alpha_t, alpha_t = 1 - beta_t of that single timestep (not the product)."""
    return rate * (1 - alpha) / alpha


def updated(latents: Tensor, gradient: Tensor, state: AdamState, rate: float) -> tuple[Tensor, AdamState]:
    """One step of Adam with betas `BETAS` and epsilon `EPSILON`: the moved latents, and what to hand to the next step.

    Args:
        latents, gradient: of equal shape; neither is changed.
        rate: a_t (`update_rate`).
    """
    steps = state.steps + 1
    mean = BETAS[0] * state.mean + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state.square + (1 - BETAS[1]) * gradient**2
    corrected_mean = mean / (1 - BETAS[0] ** steps)
    corrected_square = square / (1 - BETAS[1] ** steps)
    moved = latents - rate * corrected_mean / (corrected_square.sqrt() + EPSILON)
    return moved.detach(), AdamState(mean.detach(), square.detach(), steps)
