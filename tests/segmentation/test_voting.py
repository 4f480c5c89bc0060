"""Equations 4 and 5: the vote along trajectories."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.segmentation.correspondence import Matches
from pipeline.segmentation.voting import count_votes, previous_tokens, vote

FRAMES, TOKENS = 6, 12


def literal_track(following: np.ndarray, p: int, j: int, k: int) -> int:
    """Equation 4: where token p of frame j is in frame k >= j; -1 once it has no match."""
    if p == -1 or j == k:
        return p
    return literal_track(following, int(following[j, p]), j + 1, k)


def literal_previous(matches: Matches, j: int, q: int) -> int:
    """The token of frame j-1 that moves to q, the most similar one, then the lowest; -1 if none does."""
    candidates = [p for p in range(TOKENS) if matches.next[j - 1, p] == q]
    return min(candidates, key=lambda p: (-matches.similarity[j - 1, p], p), default=-1)


def literal_equation_5(labels: np.ndarray, matches: Matches, rule: str) -> np.ndarray:
    refined = labels.copy()
    for j in range(len(labels)):
        for p in range(labels.shape[1]):
            seen = []
            for k in range(j, len(labels)):
                token = literal_track(matches.next, p, j, k)
                if token != -1:
                    seen.append(labels[k, token])
            token = p
            for k in range(j, 0, -1):
                if rule != "both":
                    break
                token = literal_previous(matches, k, token)
                if token == -1:
                    break
                seen.append(labels[k - 1, token])
            counts = Counter(seen)
            refined[j, p] = min(counts, key=lambda label: (-counts[label], label))
    return refined


def random_matches(rng: np.random.Generator, lowest: int) -> Matches:
    similarity = rng.choice([0.25, 0.5, 0.75], (FRAMES - 1, TOKENS)).astype(np.float32)  # with ties
    return Matches(rng.integers(lowest, TOKENS, (FRAMES - 1, TOKENS)).astype(np.int32), similarity)


@pytest.mark.parametrize("rule", ["forward", "both"])
@pytest.mark.parametrize("lowest", [0, -1], ids=["all matched", "some unmatched"])
@pytest.mark.parametrize("seed", range(4))
def test_equation_5_against_the_literal_version(rule: str, lowest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice([3, 7, 250, 9], (FRAMES, TOKENS)).astype(np.uint8)
    matches = random_matches(rng, lowest)
    refined = vote(labels, matches, rule)
    np.testing.assert_array_equal(refined, literal_equation_5(labels, matches, rule))
    assert refined.dtype == labels.dtype


def test_forward_leaves_the_last_frame(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 4, (FRAMES, TOKENS))
    np.testing.assert_array_equal(vote(labels, random_matches(rng, 0), "forward")[-1], labels[-1])


def still(frames: int) -> Matches:
    return Matches(np.zeros((frames - 1, 1), np.int32), np.ones((frames - 1, 1), np.float32))


@pytest.mark.parametrize(
    ("labels", "rule", "expected"),
    [
        ([5, 2, 2], "forward", [2, 2, 2]),  # a flicker is outvoted
        ([2, 5, 2, 5], "forward", [2, 5, 2, 5]),  # ties: the smallest of 2, 5; then 5 leads; ...
        ([9, 4], "forward", [4, 4]),
        ([2, 2, 5], "forward", [2, 2, 5]),
        ([2, 2, 5], "both", [2, 2, 2]),
        ([5, 2, 9], "none", [5, 2, 9]),
        ([7], "forward", [7]),
        ([7], "both", [7]),
    ],
)
def test_small_cases_by_hand(labels: list[int], rule: str, expected: list[int]) -> None:
    voted = vote(np.array(labels)[:, None], still(len(labels)), rule)
    assert voted[:, 0].tolist() == expected


def test_previous_takes_the_most_similar_then_the_lowest() -> None:
    matches = Matches(np.array([[2, 2, 2, -1, 0]], np.int32), np.array([[0.1, 0.9, 0.9, 1.0, 0.2]], np.float32))
    assert previous_tokens(matches).tolist() == [[4, -1, 1, -1, -1]]


def test_matches_of_another_clip_are_refused() -> None:
    with pytest.raises(DataError, match=r"matches have shape \(2, 1\), labels of 5 frames with 1 tokens need \(4, 1\)"):
        vote(np.zeros((5, 1), int), still(3), "forward")


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(UsageError, match=r"segment.vote must be one of forward, both, none, not 'back'"):
        vote(np.zeros((2, 1), int), still(2), "back")


def test_the_share_of_votes_that_a_label_gets() -> None:
    labels, matches = np.array([5, 5, 2, 5, 2])[:, None], still(5)
    expected = {"forward": [3 / 5, 1 / 2, 2 / 3, 1 / 2, 1], "both": [3 / 5] * 5, "none": [1] * 5}
    for rule, shares in expected.items():
        assert count_votes(labels, matches, rule).share[:, 0].tolist() == pytest.approx(shares)
