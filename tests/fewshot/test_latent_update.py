"""Equation 8 of SMITE with the Adam step of its section 7.5."""

from __future__ import annotations

import pytest
import torch

from pipeline.fewshot.latent_update import BETAS, EPSILON, AdamState, update_rate, updated


def test_equals_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=generator)
    parameter = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.014, betas=BETAS, eps=EPSILON)
    state = AdamState.zeros_like(latents)
    for number in range(15):
        gradient = torch.randn(latents.shape, dtype=torch.float64, generator=generator) * 10.0 ** (-number % 7)
        parameter.grad = gradient.clone()
        optimizer.step()
        latents, state = updated(latents, gradient, state, 0.014)
        torch.testing.assert_close(latents, parameter.detach(), rtol=1e-12, atol=1e-13)
    assert state.steps == 15


def test_nothing_is_changed_in_place() -> None:
    latents, gradient = torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    state = AdamState.zeros_like(latents)
    moved, following = updated(latents.requires_grad_(), gradient, state, 0.1)
    assert (latents == 1).all() and (state.mean == 0).all() and state.steps == 0
    assert following.steps == 1 and not moved.requires_grad
    torch.testing.assert_close(moved, torch.full_like(moved, 0.9), rtol=1e-4, atol=0)  # first steps have size a_t


def test_no_gradient_no_step() -> None:
    latents = torch.ones(1, 4, 2, 2)
    assert torch.equal(updated(latents, torch.zeros_like(latents), AdamState.zeros_like(latents), 1.0)[0], latents)


def test_the_rate_of_a_timestep() -> None:
    """Stable Diffusion's beta at timestep 104: the scaled linear schedule from 0.00085 to 0.012."""
    beta = (0.00085**0.5 + 104 / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    assert update_rate(1 - beta, 10) == pytest.approx(0.0141003, rel=1e-4)
