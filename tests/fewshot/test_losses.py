"""The losses of learning (SMITE, section 7.6), and the pixels without a label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fewshot.losses import (
    CENTRE,
    HIGH_WEIGHT,
    IGNORE,
    class_weights,
    cross_entropy,
    map_error,
    noise_error,
    spectral_error,
)

#: 6 pixels of 0, 4 of 1, 2 of 3; none of 2.
LABELS = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 3, 3]], dtype=torch.uint8)[None]


def random_maps(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy,
    "weighted cross-entropy": lambda maps, labels: cross_entropy(maps, labels, class_weights(labels, 4)),
    "map error": map_error,
    "spectral error": spectral_error,
}


@pytest.mark.parametrize(
    ("labels", "background", "expected"),
    [
        (LABELS, 0, [1, 6 / 4, 0, 6 / 2]),
        (LABELS, None, [12 / 6, 12 / 4, 0, 12 / 2]),
        (LABELS * 0, 0, [1, 0, 0, 0]),
        (LABELS.clamp(min=1), 0, [1, 12 / 10, 0, 12 / 2]),
        (torch.where(LABELS == 3, IGNORE, LABELS), 0, [1, 1, 0, 0]),
        (torch.full_like(LABELS, IGNORE), 0, [1, 0, 0, 0]),
    ],
)
def test_small_segments_weigh_as_much_as_large_ones(
    labels: Tensor, background: int | None, expected: list[float]
) -> None:
    torch.testing.assert_close(class_weights(labels, 4, background), torch.tensor(expected, dtype=torch.float32))


def test_cross_entropy_is_the_weighted_mean() -> None:
    maps, weights = random_maps(1, 4, 3, 4), class_weights(LABELS, 4)
    expected = F.cross_entropy(maps, LABELS.long(), weights.double())
    torch.testing.assert_close(cross_entropy(maps, LABELS, weights), expected)
    torch.testing.assert_close(cross_entropy(maps, LABELS), F.cross_entropy(maps, LABELS.long()))


def test_map_error_is_the_mean_times_the_segments() -> None:
    maps = random_maps(1, 4, 3, 4).softmax(dim=1)
    masks = F.one_hot(LABELS.long(), 4).movedim(-1, 1).double()
    torch.testing.assert_close(map_error(maps, LABELS), 4 * ((maps - masks) ** 2).mean())
    assert map_error(masks, LABELS) == 0


def test_spectral_error_is_what_the_spectra_say() -> None:
    """Against the shifted spectrum with its centre set to 0, segment by segment."""
    size = 2 * CENTRE + 4
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, size, size)))
    maps = random_maps(1, 3, size, size).softmax(dim=1)
    expected = 0.0
    for segment in range(3):
        spectra = []
        for values in (maps[0, segment], (labels[0] == segment).double()):
            whole = torch.fft.fftshift(torch.fft.fft2(values))
            outside = torch.ones(size, size)
            outside[2:-2, 2:-2] = 0
            high = whole * outside
            spectra.append((whole, high))
        for (ours, theirs), weight in zip(zip(*spectra, strict=True), (1, HIGH_WEIGHT), strict=True):
            expected += weight * float(F.mse_loss(ours.abs(), theirs.abs()) + F.mse_loss(ours.angle(), theirs.angle()))
    assert float(spectral_error(maps, labels)) == pytest.approx(expected, rel=1e-9)


def test_noise_error_is_the_mean_square() -> None:
    assert float(noise_error(torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 4, 2, 2))) == 4


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_a_label_have_no_influence(name: str) -> None:
    labels = torch.where(LABELS == 1, IGNORE, LABELS)
    maps = random_maps(1, 4, 3, 4).softmax(dim=1).requires_grad_()
    loss = LOSSES[name](maps, labels)
    (gradient,) = torch.autograd.grad(loss, maps)
    assert (gradient.movedim(1, -1)[labels == IGNORE] == 0).all()
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    changed = torch.where((labels == IGNORE)[:, None], 7.0, maps.detach())
    torch.testing.assert_close(LOSSES[name](changed, labels), loss.detach())


@pytest.mark.parametrize("name", LOSSES)
def test_without_any_label_there_is_nothing_to_learn(name: str) -> None:
    maps = random_maps(1, 4, 3, 4).softmax(dim=1).requires_grad_()
    loss = LOSSES[name](maps, torch.full_like(LABELS, IGNORE))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert float(loss.detach()) == 0 and (gradient == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    maps = random_maps(1, 4, 3, 4).softmax(dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: LOSSES[name](values, LABELS), maps)
