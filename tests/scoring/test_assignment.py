"""Clusters to classes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.scoring.assignment import (
    IDENTITY,
    Assignment,
    assign,
    hungarian,
    majority,
    official_majority,
    with_born,
)

VOID = 255


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, (6, 7), np.uint8), rng.choice([0, 1, 2, VOID], (6, 7)).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(), (VOID,), (0, VOID)]))
def test_majority_is_the_literal_count(seed: int, ignore: tuple[int, ...]) -> None:
    labels, truth = pair(seed)
    expected = {}
    for cluster in np.unique(labels):
        votes = Counter(int(v) for v in truth[labels == cluster] if v not in ignore)
        if votes:
            expected[int(cluster)] = min(votes, key=lambda value: (-votes[value], value))
    assert majority(labels, truth, ignore) == expected


@pytest.mark.parametrize(
    ("values", "official", "valid"),
    [
        ([1, 1, 2, 2], {0: 1}, {0: 1}),  # a tie: the smaller value
        ([VOID, VOID, 2, 2], {0: 2}, {0: 2}),  # void is the largest value and loses ties
        ([VOID, VOID, VOID, 2], {0: VOID}, {0: 2}),  # void wins
        ([VOID] * 4, {0: VOID}, {}),  # void only: no class
    ],
)
def test_void_and_ties(values: list[int], official: dict[int, int], valid: dict[int, int]) -> None:
    truth = np.array([values], np.uint8)
    labels = np.zeros_like(truth)
    assert official_majority(labels, truth) == official
    assert majority(labels, truth, [VOID]) == valid


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_hungarian_is_the_best_of_all_one_to_one_tables(seed: int) -> None:
    labels, truth = pair(seed)
    table = hungarian(labels, truth, [VOID])
    assert len(set(table.values())) == len(table)

    def overlap(candidate: dict[int, int]) -> int:
        return sum(np.count_nonzero((labels == k) & (truth == v)) for k, v in candidate.items())

    clusters = np.unique(labels).tolist()
    best = max(overlap(dict(zip(chosen, (0, 1, 2), strict=True))) for chosen in itertools.permutations(clusters, 3))
    assert overlap(table) == best


def test_hungarian_leaves_clusters_without_overlap_unassigned() -> None:
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    truth = np.array([[3, 3, 3, VOID]], np.uint8)
    assert hungarian(labels, truth, [VOID]) == {0: 3}
    assert hungarian(labels, np.full_like(truth, VOID), [VOID]) == {}


def test_apply_gives_unassigned_clusters_a_value_that_is_no_class() -> None:
    labels = np.array([[0, 1, 300]], np.uint16)
    assert Assignment("majority", {0: 7}, unassigned=65535).apply(labels).tolist() == [[7, 65535, 65535]]
    assert IDENTITY.apply(labels) is labels


def test_assign_by_name() -> None:
    labels = np.repeat(np.repeat(np.array([[0, 1], [2, 2]], np.uint8), 4, 0), 4, 1)
    truth = np.repeat(np.repeat(np.array([[5, VOID], [6, 6]], np.uint8), 4, 0), 4, 1)
    labels[0, 0] = 9  # a corner that the coarse grid misses
    tables = {
        rule: assign(rule, labels, truth, [VOID], (2, 2), VOID).table
        for rule in ("none", "majority", "official", "hungarian")
    }
    assert tables == {
        "none": None,
        "majority": {0: 5, 2: 6, 9: 5},
        "official": {0: 5, 1: VOID, 2: 6},
        "hungarian": {0: 5, 2: 6},
    }
    with pytest.raises(DataError, match="unknown assignment 'best'"):
        assign("best", labels, truth, [VOID], (2, 2), VOID)


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match=r"cluster map of shape \(2, 3\) against ground truth of shape \(3, 2\)"):
        majority(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_a_born_cluster_takes_the_class_of_the_first_annotated_frame_that_shows_it() -> None:
    first, second, third = np.zeros((2, 4), int), np.array([[0, 0, 7, 7]] * 2), np.array([[0, 8, 7, 7]] * 2)
    truths = [np.full((2, 4), 3), np.array([[3, 3, 5, 255]] * 2), np.array([[3, 4, 6, 6]] * 2)]
    read = []

    def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, pair in enumerate(zip((first, second, third, third), [*truths, truths[2]], strict=True)):
            read.append(number)
            yield pair

    rule = assign("majority", first, truths[0], (VOID,), (1, 1), VOID)
    assert with_born(rule, {7, 8}, frames(), (VOID,)).table == {0: 3, 7: 5, 8: 4}
    assert read == [0, 1, 2, 3]  # no further than to the frame after the last of them
    assert with_born(rule, {0}, frames(), (VOID,)).table == {0: 3}
    assert with_born(IDENTITY, {7}, frames(), (VOID,)) is IDENTITY
