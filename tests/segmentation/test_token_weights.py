from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmentation import token_weights
from pipeline.segmentation.kmeans import kmeans
from pipeline.segmentation.token_weights import balanced_weights


def surface_and_details() -> tuple[np.ndarray, np.ndarray]:
    """Half of the tokens vary along one direction; the others are eight small groups, of which they are unlike."""
    rng = np.random.default_rng(0)
    surface = np.zeros((400, 10), np.float32)
    surface[:, 0] = np.linspace(0, 1.2, 400)
    details = np.repeat(0.8 * np.eye(10, dtype=np.float32)[1:9], 10, axis=0)
    tokens = np.concatenate([surface, details])
    group = np.concatenate([np.zeros(400, int), np.repeat(np.arange(1, 9), 10)])
    return tokens + 0.02 * rng.standard_normal(tokens.shape).astype(np.float32), group


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_weights_are_the_distance_of_a_near_token_to_that_power(power: float) -> None:
    tokens, _ = surface_and_details()
    distances = np.sqrt(np.square(tokens[:, None].astype(float) - tokens).sum(axis=2))
    near = np.sort(distances, axis=1)[:, round(len(tokens) / 50)]
    weights = balanced_weights(tokens, power)
    assert weights is not None
    np.testing.assert_allclose(weights, near**power / (near**power).mean(), rtol=1e-3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, _ = surface_and_details()
    whole = balanced_weights(tokens, 2.0)
    monkeypatch.setattr(token_weights, "BLOCK", 7)
    parts = balanced_weights(tokens, 2.0)
    assert whole is not None and parts is not None
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "balance"),
    [(np.eye(4, dtype=np.float32), 0.0), (np.ones((5, 3), np.float32), 4.0), (np.ones((1, 3), np.float32), 4.0)],
    ids=["balance 0", "equal tokens", "one token"],
)
def test_all_count_alike(tokens: np.ndarray, balance: float) -> None:
    assert balanced_weights(tokens, balance) is None


def test_an_even_surface_is_one_segment_instead_of_many() -> None:
    tokens, group = surface_and_details()
    pieces = []
    for balance in (0.0, 4.0):
        labels = kmeans(tokens, 9, 4, 0, balanced_weights(tokens, balance)).labels
        pieces.append(len(np.unique(labels[group == 0])))
    assert pieces[1] == 1 < pieces[0]


def test_a_token_among_its_equals_still_counts() -> None:
    tokens = np.concatenate([np.zeros((50, 2)), np.arange(20).reshape(10, 2)]).astype(np.float32)
    weights = balanced_weights(tokens, 1.0)
    assert weights is not None and weights.min() > 0
