"""What guidance minimises: agreement with the vote, and low frequencies that stay (SMITE, Eq. 5 to 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fewshot.losses import class_weights, cross_entropy
from pipeline.fewshot.low_pass import low_frequencies

Targets = Literal["hard", "soft"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Energies:
    """E_total (Eq. 7) and its parts, scalars; a part whose weight is 0 is not computed and is 0."""

    total: Tensor
    track: Tensor
    regularisation: Tensor


def regularisation_energy(
    maps: Tensor, reference: Tensor, threshold: float, temporal: bool = False, reduction: Reduction = "mean"
) -> Tensor:
    """E_reg (Eq. 6): the L1 distance of the low frequencies of maps and reference maps.

    Args:
        maps, reference: (f, k, h, w); the gradient is the maps' alone.
        threshold, temporal: as for `low_pass.low_frequencies`.
        reduction: `sum`, the L1 norm; `mean` divides it by the number of all f k h w entries (as the code does).
    """
    difference = low_frequencies(maps - reference.detach(), threshold, temporal).abs().sum()
    return difference / maps.numel() if reduction == "mean" else difference


def tracking_energy(
    maps: Tensor,
    tracked: Tensor,
    targets: Targets = "hard",
    weighted: bool = True,
    background: int | None = 0,
) -> Tensor:
    """E_tracking (Eq. 5): the cross-entropy of maps, as logits, against what the vote says.

    Args:
        maps, tracked: (f, k, h, w); the gradient is the maps' alone.
        targets: `hard`, the largest of `tracked` at each point (as the code does); `soft`, their softmax.
        weighted: weigh hard targets by `losses.class_weights` of all f frames (as the code does).
        background: id of the background among the weights.
    """
    if targets == "soft":
        return F.cross_entropy(maps, tracked.detach().softmax(dim=1))
    labels = tracked.detach().argmax(dim=1)
    return cross_entropy(maps, labels, class_weights(labels, maps.shape[1], background) if weighted else None)


def total_energy(
    maps: Tensor,
    tracked: Tensor | None,
    reference: Tensor | None,
    *,
    lambda_track: float,
    lambda_reg: float,
    threshold: float,
    temporal: bool = False,
    reduction: Reduction = "mean",
    targets: Targets = "hard",
    weighted: bool = True,
    background: int | None = 0,
) -> Energies:
    """E_total = lambda_track E_tracking + lambda_reg E_reg (Eq. 7).

    Args:
        tracked: None only where lambda_track is 0; `reference` likewise.
    """
    track = regularisation = torch.zeros((), dtype=maps.dtype, device=maps.device)
    if lambda_track and tracked is not None:
        track = tracking_energy(maps, tracked, targets, weighted, background)
    if lambda_reg and reference is not None:
        regularisation = regularisation_energy(maps, reference, threshold, temporal, reduction)
    return Energies(lambda_track * track + lambda_reg * regularisation, track, regularisation)
