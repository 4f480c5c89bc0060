"""The authors' passes and refinement against literal versions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.segmentation.authors_code import (
    Trajectories,
    authors_kept,
    authors_passes,
    authors_trajectories,
    authors_vote,
)


@pytest.mark.parametrize(
    ("frames", "batch", "expected"),
    [
        (14, 14, [(0, 14), (0, 14)]),
        (14, 7, [(0, 7), (7, 14), (7, 14)]),
        (14, 6, [(0, 6), (6, 12), (8, 14)]),
        (5, 14, [(0, 5)]),
        (3, 1, [(0, 1), (1, 2), (2, 3), (2, 3)]),
    ],
)
def test_last_batch_is_repeated_or_moved_back(frames: int, batch: int, expected: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in authors_passes(frames, batch)] == expected


def literal_trajectory(features: np.ndarray, token: int, mixed: bool) -> list[int]:
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    visited = [token]
    for j in range(len(features) - 1):
        p = visited[-1]
        score = unit[j + 1] @ unit[j, p]
        if mixed:
            score = j / (j + 1) * score + 1 / (j + 1) * (unit[0] @ unit[j, p])
        visited.append(int(np.argmax(score)))
    return visited


@pytest.mark.parametrize("similarity", ["mixed", "plain"])
def test_trajectories(similarity: str, rng: np.random.Generator) -> None:
    features = rng.standard_normal((5, 12, 6))
    tokens = authors_trajectories(features, similarity).tokens
    for start in range(12):
        assert tokens[:, start].tolist() == literal_trajectory(features, start, similarity == "mixed")
    if similarity == "mixed":
        np.testing.assert_array_equal(tokens[1], tokens[0])  # the first step is the identity


@pytest.mark.parametrize(
    ("path", "positive", "symmetric"),
    [
        ([5, 6, 6], True, True),
        ([5, 4, 9], True, True),  # left, then down and right
        ([5, 7, 7], False, False),  # two to the right
        ([7, 5, 5], True, False),  # two to the left: never tested by the released code
        ([0, 8, 8], False, False),  # two down
        ([8, 0, 0], True, False),  # two up
    ],
)
def test_keep_on_a_3_by_4_grid(path: list[int], positive: bool, symmetric: bool) -> None:
    trajectories = Trajectories(np.array(path)[:, None], np.zeros((2, 1)))
    assert authors_kept(trajectories, (3, 4), "positive").tolist() == [positive]
    assert authors_kept(trajectories, (3, 4), "symmetric").tolist() == [symmetric]


def test_vote_overwrites_in_token_order_with_the_earliest_label_on_ties(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, (4, 8))
    trajectories = Trajectories(rng.integers(0, 8, (4, 8)), np.zeros((3, 8)))
    keep = rng.random(8) < 0.7
    expected = labels.copy()
    for start in range(8):
        if keep[start]:
            along = [labels[j, trajectories.tokens[j, start]] for j in range(4)]
            winner = Counter(along).most_common(1)[0][0]  # insertion order decides ties
            for j in range(4):
                expected[j, trajectories.tokens[j, start]] = winner
    np.testing.assert_array_equal(authors_vote(labels, trajectories, keep), expected)
