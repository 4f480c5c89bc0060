"""By how much a segment's map wins, and the shares that it is upsampled with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.fewshot.labels import margin_of, shares_of


@pytest.mark.parametrize(
    ("logits", "expected"),
    [(True, [1 - np.exp(-2), 0, 1 - np.exp(-6)]), (False, [2 / 3, 0, 0])],
    ids=["logits compete by their softmax", "shares as they are"],
)
def test_the_margin_of_the_chosen_segment(logits: bool, expected: list[float]) -> None:
    maps = torch.tensor([[[3.0, 4.0, -7.0]], [[1.0, 5.0, -1.0]]])
    numbers = np.array([[0, 0, 1]], np.uint8)  # the second is chosen though the other is larger: that one is absent
    assert margin_of(maps, numbers, logits)[0].tolist() == pytest.approx(expected)


def test_a_single_segment_has_no_rival() -> None:
    maps = torch.tensor([[[0.5, 2.0]]])
    for logits in (True, False):
        assert margin_of(maps, np.zeros((2, 4), np.uint8), logits).tolist() == [[1] * 4] * 2


@pytest.mark.parametrize(
    ("logits", "expected"),
    [(True, [[1 / (1 + np.exp(-2))], [1 / (1 + np.exp(2))]]), (False, [[3.0], [1.0]])],
    ids=["logits by their softmax", "shares as they are"],
)
def test_shares_are_of_the_segments_that_are_there(logits: bool, expected: list[list[float]]) -> None:
    maps = torch.tensor([[[3.0]], [[9.0]], [[1.0]]])
    shares = shares_of(maps, np.array([[0, 2], [2, 2]], np.uint8), logits)
    assert list(shares) == [0, 2]
    np.testing.assert_allclose([share[0] for share in shares.values()], expected, rtol=1e-6)
