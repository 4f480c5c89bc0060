"""energy.npz: low frequencies, the two energies and their gradients on given maps; in float64, where signs decide."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pipeline.fewshot.energies import regularisation_energy, tracking_energy
from pipeline.fewshot.losses import class_weights
from pipeline.fewshot.low_pass import low_frequencies, low_pass
from tests.reference.cases import Compare, within
from tests.reference.smite import Arrays, Compute, Recorded, Rule

THRESHOLDS = {"040": 0.4, "0999": 0.999}


def maps_of(arrays: Arrays, grid: str) -> tuple[Tensor, Tensor, Tensor]:
    """S, S_ref and S_trk."""
    found = [torch.from_numpy(arrays[f"{grid}_{name}"].astype(np.float64)) for name in ("S", "S_ref", "S_trk")]
    return found[0], found[1], found[2]


def regularisation(arrays: Arrays, match: re.Match[str]) -> Tensor:
    maps, reference, _ = maps_of(arrays, match[1])
    words = match[3].split("_")
    reduction = "sum" if "sum" in words else "mean"
    return regularisation_energy(maps, reference, THRESHOLDS[match[2]], "temporal" in words, reduction)


def tracking(arrays: Arrays, match: re.Match[str]) -> Tensor:
    maps, _, tracked = maps_of(arrays, match[1])
    if match[2] == "_background_only":
        tracked = background_only(tracked)
    return tracking_energy(maps, tracked, "soft" if match[2] == "_soft" else "hard", match[2] != "_unweighted")


def weights(arrays: Arrays, match: re.Match[str]) -> Tensor:
    tracked = maps_of(arrays, match[1])[2]
    labels = (background_only(tracked) if match[2] else tracked).argmax(dim=1)
    return class_weights(labels, tracked.shape[1])


def background_only(tracked: Tensor) -> Tensor:
    """Maps of which the background is the largest everywhere."""
    return torch.cat([torch.full_like(tracked[:, :1], tracked.max().item() + 1), tracked[:, 1:]], dim=1)


def gradient(energy: Callable[[Arrays, Tensor, re.Match[str]], Tensor]) -> Compute:
    def compute(arrays: Arrays, match: re.Match[str]) -> np.ndarray:
        maps = maps_of(arrays, match[1])[0].requires_grad_()
        (found,) = torch.autograd.grad(energy(arrays, maps, match), maps)
        return found.numpy()

    return compute


def regularisation_of(arrays: Arrays, maps: Tensor, match: re.Match[str]) -> Tensor:
    return regularisation_energy(maps, maps_of(arrays, match[1])[1], THRESHOLDS[match[2]])


def tracking_of(arrays: Arrays, maps: Tensor, match: re.Match[str]) -> Tensor:
    return tracking_energy(maps, maps_of(arrays, match[1])[2])


def smoothed(arrays: Arrays, match: re.Match[str]) -> Tensor:
    return low_pass(maps_of(arrays, match[1])[0], THRESHOLDS[match[2]])


def transformed(arrays: Arrays, match: re.Match[str]) -> Tensor:
    return low_frequencies(maps_of(arrays, match[1])[0], 1.0)


def first_frames(compare: Compare) -> Compare:
    """The larger grid's arrays hold the first frame only."""

    def compared(ours: np.ndarray, recorded: np.ndarray) -> str | None:
        return compare(ours[: len(recorded)], recorded)

    return compared


def relative(bound: float) -> Compare:
    """As `within`, for sums of thousands of terms."""

    def compared(ours: np.ndarray, recorded: np.ndarray) -> str | None:
        return within(bound * max(1.0, float(np.abs(recorded).max())))(ours, recorded)

    return compared


ENERGY = Recorded(
    "energy.npz",
    (
        Rule(r"(g\d)_ereg_(040|0999)((?:_temporal)?(?:_sum)?)", regularisation, relative(1e-6)),
        Rule(r"(g\d)_ereg_gradient_(040|0999)", gradient(regularisation_of), first_frames(within(1e-8))),
        Rule(r"(g\d)_etrk(|_background_only|_unweighted|_soft)", tracking, within(1e-5)),
        Rule(r"(g\d)_etrk_gradient", gradient(tracking_of), first_frames(within(1e-8))),
        Rule(r"(g\d)_class_weights(|_background_only)", weights, within(1e-5)),
        Rule(r"(g\d)_lowpass_S_(040|0999)", smoothed, first_frames(within(1e-5))),
        Rule(r"(g\d)_dct_S", transformed, first_frames(within(1e-5))),
    ),
    {r"(g\d)_S": r"\1_dct_S", r"(g\d)_S_ref": r"\1_ereg_040", r"(g\d)_S_trk": r"\1_etrk"},
)
