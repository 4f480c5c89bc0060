"""Equations 5 to 7 of SMITE: what guidance minimises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fewshot.energies import Reduction, Targets, regularisation_energy, total_energy, tracking_energy
from pipeline.fewshot.low_pass import low_frequencies


def random_maps(seed: int) -> Tensor:
    return torch.randn(4, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


S, S_REF, S_TRK = (random_maps(seed) for seed in range(3))


def test_equation_5_hard_targets_with_weights() -> None:
    labels = S_TRK.argmax(dim=1)
    counts = torch.bincount(labels.flatten(), minlength=3).double()
    weights = counts[1:].sum() / counts
    weights[0] = 1
    torch.testing.assert_close(tracking_energy(S, S_TRK), F.cross_entropy(S, labels, weights.float().double()))
    torch.testing.assert_close(tracking_energy(S, S_TRK, weighted=False), F.cross_entropy(S, labels))


def test_equation_5_soft_targets() -> None:
    expected = -(S_TRK.softmax(dim=1) * S.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(tracking_energy(S, S_TRK, "soft"), expected)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 1), ("mean", 4 * 3 * 6 * 8)])
def test_equation_6_is_an_l1_norm(reduction: Reduction, expected: int) -> None:
    norm = (low_frequencies(S, 0.4) - low_frequencies(S_REF, 0.4)).abs().sum()
    torch.testing.assert_close(regularisation_energy(S, S_REF, 0.4, reduction=reduction), norm / expected)


def test_equal_maps_have_no_regularisation_energy() -> None:
    assert regularisation_energy(S, S, 0.4) == 0


def test_equation_7_adds_both() -> None:
    energies = total_energy(S, S_TRK, S_REF, lambda_track=0.5, lambda_reg=8.0, threshold=0.4)
    torch.testing.assert_close(energies.track, tracking_energy(S, S_TRK))
    torch.testing.assert_close(energies.regularisation, regularisation_energy(S, S_REF, 0.4))
    torch.testing.assert_close(energies.total, 0.5 * energies.track + 8 * energies.regularisation)


def test_what_counts_nothing_is_not_needed() -> None:
    only_track = total_energy(S, S_TRK, None, lambda_track=1.0, lambda_reg=0.0, threshold=0.4)
    only_regularised = total_energy(S, None, S_REF, lambda_track=0.0, lambda_reg=1.0, threshold=0.4)
    assert only_track.regularisation == 0 and only_track.total == only_track.track
    assert only_regularised.track == 0 and only_regularised.total == only_regularised.regularisation


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("temporal", [True, False])
def test_gradients_are_those_of_the_maps(targets: Targets, temporal: bool) -> None:
    tracked, reference = S_TRK.clone().requires_grad_(), S_REF.clone().requires_grad_()
    maps = S.clone().requires_grad_()

    def energy(values: Tensor) -> Tensor:
        return total_energy(
            values, tracked, reference, lambda_track=0.5, lambda_reg=8.0, threshold=0.4, temporal=temporal,
            targets=targets,
        ).total  # fmt: skip

    assert torch.autograd.gradcheck(energy, maps)
    energy(maps).backward()
    assert maps.grad is not None and tracked.grad is None and reference.grad is None
