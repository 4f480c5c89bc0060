"""How sure tokens are."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmentation.confidence import token_confidence, token_parts
from pipeline.segmentation.context import fit
from pipeline.segmentation.voting import Voted


def voted(labels: list[int], share: float = 1.0) -> Voted:
    return Voted(np.array([labels], np.int32), np.full((1, len(labels)), share, np.float32))


#: Remembered tokens on a line, one apart from the next, so that a token's nearest other is 1 away.
LINE = np.arange(6, dtype=np.float32)[:, None]
HALVES = fit(LINE, np.array([3, 3, 3, 8, 8, 8]))


@pytest.mark.parametrize(
    ("place", "label", "neighbours", "nearness"),
    [
        (0.0, 3, 1, 1),
        (2.4, 3, 0.5, 1),
        (2.4, 8, 0.5, 1),
        (1.0, 8, 0, 1),
        (7.5, 8, 1, 0.5),
    ],
    ids=["inside", "at the border", "the other side of it", "the wrong label", "twice as far as usual"],
)
def test_neighbours_agree_and_are_as_near_as_remembered_tokens_are(
    place: float, label: int, neighbours: float, nearness: float
) -> None:
    """With two neighbours each, half of the remembered tokens have them 1.5 away on average or nearer."""
    features = np.array([[[place]]], np.float32)
    parts = token_parts(voted([label], 0.75), features, HALVES.neighbours(features, 2), HALVES)
    usual = np.median([1.5, 1, 1, 1, 1, 1.5])
    distance = np.sort(np.abs(LINE[:, 0] - place))[:2].mean()
    assert parts.neighbours.item() == neighbours
    assert parts.votes.item() == 0.75
    assert parts.nearness.item() == pytest.approx(min(1, usual / distance))
    assert parts.nearness.item() == pytest.approx(nearness, abs=0.17)
    assert parts.product.item() == pytest.approx(neighbours * 0.75 * parts.nearness.item())


def test_a_segment_that_is_not_remembered_is_compared_with_itself() -> None:
    """Four tokens of a new segment, of which one lies apart, and one of a known one."""
    features = np.array([[[20.0], [20.5], [21.0], [40.0], [0.0]]], np.float32)
    parts = token_parts(voted([9, 9, 9, 9, 3]), features, HALVES.neighbours(features, 2), HALVES)
    assert parts.neighbours[0].tolist() == [1, 1, 1, 1, 1]
    assert parts.nearness[0, [0, 1, 2, 4]].tolist() == [1, 1, 1, 1]
    assert parts.nearness[0, 3] < 0.1


def test_where_all_that_is_remembered_is_alike_distances_say_nothing() -> None:
    alike = fit(np.ones((4, 2), np.float32), np.array([1, 1, 1, 2]))
    features = np.array([[[1.0, 1.0], [5.0, 5.0]]], np.float32)
    found = token_confidence(voted([1, 1]), features, alike.neighbours(features, 4), alike)
    assert found.tolist() == [[0.75, 0.75]]
    single = fit(np.ones((1, 2), np.float32), np.array([1]))
    assert token_confidence(voted([1, 1]), features, single.neighbours(features, 1), single).tolist() == [[1, 1]]
