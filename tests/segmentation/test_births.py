"""Segments that are born later, with features that an oracle gives: what each token shows, and a little noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.parameters import SegmentParams, SegmentParity
from pipeline.segmentation.births import Numbers, sightings
from pipeline.segmentation.correspondence import Matches, next_tokens
from pipeline.segmentation.novelty import distances_nearby
from pipeline.segmentation.window_loop import Clip, Window, fit_context, segment_windows

GRID, CHANNELS = (12, 20), 24
BACKGROUND = 4  # kinds of background, in bands
SETTINGS = SegmentParams(
    clusters=4, restarts=2, window=7, neighbors=5, vote="none", births="distance", birth_reach=4, birth_tokens=6
)
OBJECTS = 10
STAYS = 14  # frames from where an object enters on the left to where it has left


@dataclass(frozen=True)
class Visit:
    """An object of 4x4 tokens that crosses the picture from the left, `kind` being what it looks like."""

    kind: int
    enters: int
    row: int = 4
    side: int = 4
    stays: int = STAYS


def painted(frames: int, visits: list[Visit]) -> np.ndarray:
    """What each token shows, (f, h, w): bands of background, and the objects before it."""
    height, width = GRID
    shown = np.tile(np.arange(height)[:, None] // 3, (frames, 1, width))
    for visit in visits:
        for frame in range(visit.enters, min(visit.enters + visit.stays, frames)):
            right = 2 * (frame - visit.enters + 1)
            shown[frame, visit.row : visit.row + visit.side, max(0, right - visit.side) : right] = (
                BACKGROUND + visit.kind
            )
    return shown


def segmented(
    shown: np.ndarray, settings: SegmentParams, noise: float = 0.05, cuts: tuple[int, ...] = ()
) -> list[Window]:
    frames = len(shown)
    rng = np.random.default_rng(5)
    features = np.eye(CHANNELS)[shown.reshape(frames, -1)]
    features = (features + noise * rng.standard_normal(features.shape)).astype(np.float32)
    moves = next_tokens(features, GRID, 8, "constrained", cuts=cuts)

    def matches(start: int, stop: int) -> Matches:
        return Matches(moves.next[start : stop - 1], moves.similarity[start : stop - 1])

    clip = Clip(frames, lambda start, stop: features[start:stop], matches, GRID, cuts)
    return list(segment_windows(clip, fit_context(features[:1], settings), settings))


def refined(windows: list[Window]) -> np.ndarray:
    return np.concatenate([window.refined for window in windows]).reshape(-1, *GRID)


def labels_of(kind: int, shown: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Share of an object's tokens that each label has."""
    values, counts = np.unique(labels[shown == BACKGROUND + kind], return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


def test_ten_objects_enter_and_leave_and_each_is_born_once() -> None:
    visits = [Visit(kind, 5 + 11 * kind, row=(3 * kind) % 9) for kind in range(OBJECTS)]
    shown = painted(125, visits)
    windows = segmented(shown, SETTINGS)
    labels, born = refined(windows), windows[-1].numbers.born
    named = [
        max(shares.items(), key=lambda item: item[1]) for shares in (labels_of(k, shown, labels) for k in range(10))
    ]
    found = {label for label, share in named if label in born and share > 0.6}
    assert len(found) == OBJECTS  # none missed, no two one
    assert born == found  # none false
    first = {label: window.born[label][0] for window in reversed(windows) for label in window.born}
    assert [first[label] for label, _ in named] == sorted(first.values())  # numbered in order


def test_nothing_is_born_where_nothing_enters_and_births_can_be_off() -> None:
    still = painted(28, [])
    assert not segmented(still, SETTINGS)[-1].numbers.born
    visited = painted(28, [Visit(0, 9)])
    assert segmented(visited, SETTINGS)[-1].numbers.born == {4}
    off = segmented(visited, replace(SETTINGS, births="none"))
    assert set(np.unique(refined(off))) == {0, 1, 2, 3}


@pytest.mark.parametrize(("memory", "numbers"), [("prototypes:8", {4}), ("last_window", {4, 5})])
def test_an_object_that_comes_back_is_known_where_prototypes_are_kept(memory: str, numbers: set[int]) -> None:
    shown = painted(56, [Visit(0, 9, stays=7), Visit(0, 37, row=7, stays=14)])
    windows = segmented(shown, replace(SETTINGS, memory=memory))
    assert windows[-1].numbers.born == numbers
    assert max(labels_of(0, shown[40:], refined(windows)[40:]).items(), key=lambda item: item[1])[0] == max(numbers)


def test_an_object_that_enters_in_the_first_window_is_born() -> None:
    shown = painted(7, [Visit(0, 2)])
    (window,) = segmented(shown, SETTINGS)
    assert window.born == {4: (2, 6)}
    assert (window.refined[0] < 4).all()


@pytest.mark.parametrize(
    ("visit", "change"),
    [
        (Visit(0, 9, stays=2), {}),
        (Visit(0, 9, side=2), {}),
        (Visit(0, 9), {"birth_tokens": 17}),
        (Visit(0, 9), {"birth_factor": 99.0}),
    ],
    ids=["too short", "too small", "too small for birth_tokens", "too near for birth_factor"],
)
def test_what_is_not_born(visit: Visit, change: dict[str, Any]) -> None:
    assert not segmented(painted(21, [visit]), replace(SETTINGS, **change))[-1].numbers.born


def test_a_region_larger_than_a_segment_of_frame_1_is_cut_by_k_means() -> None:
    shown = painted(21, [])
    shown[10:, :, :12] = BACKGROUND + (np.arange(12)[:, None] // 4) % 2  # a scene of two things covers most of it
    windows = segmented(shown, SETTINGS)
    assert len(windows[-1].numbers.born) == 2
    labels = refined(windows)[11]
    assert len(set(labels[:4, :10].ravel())) == len(set(labels[5:7, :10].ravel())) == 1


def test_more_segments_than_most_labels_stop_with_the_frame() -> None:
    message = (
        r"segment.most_labels is 4, and one more segment would be born in frame 9; raise it, or raise "
        r"segment.birth_factor or segment.birth_tokens"
    )
    with pytest.raises(UsageError, match=message):
        segmented(painted(21, [Visit(0, 9)]), replace(SETTINGS, most_labels=4))


def test_births_that_nobody_asked_for_end_at_most_labels() -> None:
    """What enters then takes labels that there are; what was born before stays."""
    shown = painted(21, [Visit(0, 9, row=0), Visit(1, 9, row=8)])
    both, one = (
        refined(segmented(shown, change))
        for change in (
            replace(SETTINGS, births="auto"),
            replace(SETTINGS, births="auto", most_labels=5),
        )
    )
    assert set(np.unique(both)) == {0, 1, 2, 3, 4, 5}
    assert set(np.unique(one)) == {0, 1, 2, 3, 4}
    assert (one[both == 4] == 4).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 1}, "segment.births: distance needs a segment.window of at least 2"),
        ({"birth_frames": 8}, "segment.birth_frames is 8, more than the 7 frames of segment.window"),
        ({"most_labels": 3}, r"segment.most_labels is 3, fewer than segment.clusters \(4\)"),
    ],
)
def test_thresholds_that_nothing_can_reach_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SETTINGS, **change)
    replace(SETTINGS, **{"window": 7, **change, "births": "none"})  # then they say nothing


@pytest.mark.parametrize(
    ("change", "given", "births"),
    [
        ({}, False, "auto"),
        ({}, True, "none"),
        ({"init": "mask"}, False, "none"),
        ({"init": "mask", "direction": "both"}, False, "none"),
        ({"parity": SegmentParity(label_merge="first_frame")}, False, "none"),
        ({"window": 1}, False, "none"),
        ({"window": 2}, False, "none"),
        ({"most_labels": 4}, False, "none"),
        ({"births": "distance", "init": "mask"}, True, "distance"),
        ({"births": "none"}, False, "none"),
    ],
)
def test_auto_adds_births_where_kmeans_finds_the_segments(change: dict[str, Any], given: bool, births: str) -> None:
    params = replace(SETTINGS, **{"births": "auto", **change}).for_clip(480, given)
    assert params.births == births
    assert params.for_clip(480, given) == params


@pytest.mark.parametrize(
    ("clusters", "tokens", "size", "limit"), [(20, 1792, 26, 64), (20, 448, 12, 64), (50, 960, 14, 100)]
)
def test_thresholds_that_are_not_given_follow_the_grid_and_k(clusters: int, tokens: int, size: int, limit: int) -> None:
    params = replace(SETTINGS, clusters=clusters, birth_tokens=None)
    assert (params.birth_size(tokens), params.label_limit) == (size, limit)
    settled = params.for_clip(tokens, given=False)
    assert (settled.birth_tokens, settled.most_labels) == (size, limit)
    given = replace(params, birth_tokens=3, most_labels=70)
    assert given.for_clip(tokens, given=False) == given


@pytest.mark.parametrize(
    ("given", "following", "highest"),
    [({0, 1, 2}, 3, 9), ({0, 250}, 251, 259), ({254}, 256, 264), ({0, 255}, 256, 263), (set(range(12)), 12, 11)],
)
def test_numbers_grow_and_leave_out_what_is_void_in_a_png(given: set[int], following: int, highest: int) -> None:
    numbers = Numbers(frozenset(given))
    assert numbers.next() == following
    assert numbers.highest(replace(SETTINGS, most_labels=10)) == highest
    while len(numbers.given) < 10:
        numbers = numbers.with_born([numbers.next()])
    assert max(numbers.given) == highest
    assert 255 not in numbers.born


def test_sightings_look_where_the_vote_left_a_segment_and_else_where_it_was() -> None:
    initial = np.array([[7, 8, 0], [7, 8, 0], [0, 0, 0]])
    voted = np.array([[7, 0, 0], [7, 0, 0], [7, 0, 0]])
    assert sightings(voted, initial, 14, {7, 8, 9}) == {7: (14, 16), 8: (14, 15)}


@pytest.mark.parametrize(("reach", "counted", "own"), [(1, 1, False), (2, 2, True), (9, 5, True), (1, 9, False)])
def test_distances_nearby_are_those_of_the_plain_loops(reach: int, counted: int, own: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 12, 5)).astype(np.float32)
    before = features if own else rng.standard_normal((2, 12, 5)).astype(np.float32)
    got = distances_nearby(features, before, (3, 4), reach, counted, own=range(3) if own else None)
    for frame in range(3):
        for token in range(12):
            row, column = divmod(token, 4)
            near = [at for at in range(12) if (at // 4 - row) ** 2 + (at % 4 - column) ** 2 <= reach**2]
            found = [
                min(np.linalg.norm(features[frame, token] - other[at]) for at in near)
                for past, other in enumerate(before)
                if not (own and past == frame)
            ]
            np.testing.assert_allclose(got[frame, token], np.mean(sorted(found)[:counted]), rtol=1e-4)


# Cuts -------------------------------------------------------------------------------------------------------

#: A shot of 10 frames, another one of other things, and the first one again.
AWAY = np.concatenate([painted(10, []), painted(10, []) + 8, painted(10, [])])
BACK = np.concatenate([painted(10, []), painted(10, [])[:, ::-1, ::-1]])  # the same things at other places


def test_a_shot_of_what_is_remembered_elsewhere_is_recognised_and_nothing_is_born() -> None:
    windows = segmented(BACK, SETTINGS, cuts=(10,))
    assert windows[-1].numbers.born == frozenset()
    labels = refined(windows)
    np.testing.assert_array_equal(labels[10:], labels[:10, ::-1, ::-1])


@pytest.mark.parametrize(("memory", "back"), [("prototypes:8", "known"), ("last_window", "new")])
def test_a_shot_of_new_things_is_born_and_the_first_shot_comes_back_where_it_is_kept(memory: str, back: str) -> None:
    windows = segmented(AWAY, replace(SETTINGS, memory=memory, clusters=4), cuts=(10, 20))
    labels = refined(windows)
    first, second, third = (set(np.unique(shot).tolist()) for shot in np.split(labels, 3))
    assert first == {0, 1, 2, 3}
    assert second == {4, 5, 6, 7}
    assert third == (first if back == "known" else {8, 9, 10, 11})
    for window in windows:
        assert all(window.start <= span[0] <= span[1] < window.start + 7 for span in window.born.values())


def test_births_of_a_shot_after_a_restart_are_those_of_the_shot_alone() -> None:
    visited = painted(21, [Visit(0, 9), Visit(1, 3, row=8)])
    joined = np.concatenate([painted(10, [Visit(2, 1)]), visited])
    settings = replace(SETTINGS, after_cut="restart")
    # The same noise in both: a file of its own draws it from the first frame on.
    whole = segmented(joined, settings, noise=0, cuts=(10,))
    alone = segmented(visited, settings, noise=0)
    offset = min(whole[2].numbers.given)
    assert offset == max(whole[1].numbers.given) + 1
    np.testing.assert_array_equal(refined(whole)[10:], refined(alone) + offset)
    assert whole[-1].numbers.born == {label + offset for label in alone[-1].numbers.born}


def test_a_shot_after_one_of_a_single_frame_is_compared_within_itself() -> None:
    shown = np.concatenate([painted(1, []), painted(10, []) + 8])
    windows = segmented(shown, SETTINGS, cuts=(1,))
    assert windows[-1].numbers.born == {4, 5, 6, 7}


@pytest.mark.parametrize("after_cut", ["continue", "restart"])
def test_most_labels_counts_shot_by_shot(after_cut: Literal["continue", "restart"]) -> None:
    few = replace(SETTINGS, most_labels=5, after_cut=after_cut)
    assert refined(segmented(AWAY, few, cuts=(10, 20))).max() == 11
    later = painted(18, [Visit(0, 8, row=0), Visit(1, 8, row=8)]) + 8
    with pytest.raises(UsageError, match="segment.most_labels is 5, and one more segment would be born in frame 18"):
        segmented(np.concatenate([painted(10, []), later]), few, cuts=(10,))


@pytest.mark.parametrize(
    ("given", "count", "first"),
    [((0, 3), 4, 4), ((), 4, 0), ((250,), 4, 251), ((250,), 5, 256), ((254,), 1, 256), ((255,), 2, 256)],
)
def test_numbers_go_on_and_leave_void_out(given: tuple[int, ...], count: int, first: int) -> None:
    numbers = Numbers(frozenset(given))
    assert numbers.next(count) == first
    assert numbers.restarted(count) == Numbers(
        frozenset(range(first, first + count)), anew=frozenset(range(first, first + count))
    )


@pytest.mark.parametrize(
    ("births", "after_cut", "cuts", "highest"),
    [
        ("none", "continue", 9, 3),
        ("none", "restart", 0, 3),
        ("none", "restart", 2, 11),
        ("none", "restart", 62, 251),
        ("none", "restart", 63, 259),  # 252 to 255 would have void among them
        ("distance", "continue", 0, 63),
        ("distance", "continue", 1, 127),
        ("distance", "continue", 3, 256),  # 255 is void
        ("distance", "restart", 1, 127),
        ("auto", "continue", 1, 127),
        ("auto", "continue", 5000, 65535),  # a long film; what a store can hold
    ],
)
def test_the_highest_number_that_is_possible(births: str, after_cut: str, cuts: int, highest: int) -> None:
    settings = replace(SETTINGS, births=births, after_cut=after_cut)
    assert Numbers(frozenset(range(4))).highest_after(cuts, settings) == highest
