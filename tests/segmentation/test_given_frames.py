"""Labels that are given of frames anywhere in a clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.parameters import SegmentParams
from pipeline.segmentation.correspondence import NO_MATCH, Matches
from pipeline.segmentation.given_frames import (
    check_direction,
    first_start,
    inverted,
    labels_given,
    segment_from_given,
)
from pipeline.segmentation.window_loop import Clip, Window, fit_context, segment_windows

GRID, TOKENS, CHANNELS = (4, 6), 24, 8
FORWARD = SegmentParams(init="mask", window=4, neighbors=1)
BOTH = replace(FORWARD, direction="both")
#: Each token's group in every frame: the still scene of two halves.
TRUTH = np.repeat([0, 1], 12)


def scene(frames: int, enters: int | None = None) -> np.ndarray:
    """Features (f, n, c) that change slowly; from frame `enters` on, the first 4 tokens show something else."""
    rng = np.random.default_rng(0)
    groups = np.tile(TRUTH, (frames, 1))
    if enters is not None:
        groups[enters:, :4] = 2
    drift = 0.01 * np.arange(frames)[:, None, None] * np.eye(1, CHANNELS, 7)
    return (np.eye(3, CHANNELS)[groups] + 0.02 * rng.standard_normal((frames, TOKENS, CHANNELS)) + drift).astype(
        np.float32
    )


def clip_of(features: np.ndarray) -> Clip:
    def still(start: int, stop: int) -> Matches:
        following = np.tile(np.arange(TOKENS, dtype=np.int32), (stop - start - 1, 1))
        return Matches(following, np.ones_like(following, np.float32))

    return Clip(len(features), lambda start, stop: features[start:stop], still, GRID)


def run(features: np.ndarray, masks: dict[int, np.ndarray], params: SegmentParams) -> list[Window]:
    clip = clip_of(features)
    return list(segment_from_given(clip, masks, first_start(clip, masks, params), params))


def labels(windows: list[Window]) -> np.ndarray:
    """(f, n) refined labels; the windows must be in order and without gaps."""
    assert [window.start for window in windows] == list(
        np.cumsum([0, *(len(window.refined) for window in windows[:-1])])
    )
    return np.concatenate([window.refined for window in windows])


def given(value: int) -> np.ndarray:
    """A mask (n,) u8 of the scene whose second half has that label."""
    return np.where(TRUTH == 1, value, 0).astype(np.uint8)


@pytest.mark.parametrize("params", [FORWARD, BOTH], ids=["forward", "both"])
def test_one_mask_of_the_first_frame_is_the_plain_loop(params: SegmentParams) -> None:
    features, mask = scene(11), given(3)
    plain = list(segment_windows(clip_of(features), fit_context(features, params, mask), params))
    for found, expected in zip(run(features, {0: mask}, params), plain, strict=True):
        np.testing.assert_array_equal(found.refined, expected.refined)
        np.testing.assert_array_equal(found.context.features, expected.context.features)


def test_a_later_mask_holds_from_its_frame_on() -> None:
    found = labels(run(scene(12), {0: given(3), 6: given(5)}, FORWARD))
    np.testing.assert_array_equal(found, [given(3)] * 6 + [given(5)] * 6)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({0: 3, 6: 5}, [3] * 4 + [5] * 7),  # frame 3 is as near to both: the earlier one has it
        ({0: 3, 7: 5}, [3] * 4 + [5] * 7),
        ({4: 3}, [3] * 11),
        ({10: 3}, [3] * 11),
        ({2: 3, 3: 5, 9: 6}, [3] * 3 + [5] * 4 + [6] * 4),
        ({0: 3, 10: 5}, [3] * 6 + [5] * 5),
    ],
)
def test_both_gives_each_frame_the_labels_of_the_nearer_mask(places: dict[int, int], expected: list[int]) -> None:
    windows = run(scene(11), {place: given(value) for place, value in places.items()}, BOTH)
    np.testing.assert_array_equal(labels(windows), [given(value) for value in expected])
    assert windows[-1].context.windows  # the model after the last frame of the clip


def test_what_is_given_is_kept_whatever_is_voted() -> None:
    """A token that is labelled unlike its track; void tokens take the label of what resembles them."""
    features, mask = scene(10), given(3)
    mask[0], mask[20] = 9, 255
    for params in (FORWARD, BOTH):
        found = labels(run(features, {0: given(3), 5: mask}, params))
        assert (found[5, 0], found[5, 20]) == (9, 3)


def test_a_new_label_may_begin_later_and_void_says_nothing() -> None:
    later = np.full(TOKENS, 255, np.uint8)
    later[:4] = 7
    found = labels(run(scene(12, enters=5), {0: given(3), 6: later}, FORWARD))
    assert (found[6:, :4] == 7).all() and (found[:5, :4] == 0).all()
    np.testing.assert_array_equal(found[:, 4:], np.tile(given(3)[4:], (12, 1)))
    assert labels_given({0: given(3), 6: later}) == {0, 3, 7}


def test_births_take_no_number_that_a_later_mask_gives() -> None:
    params = replace(FORWARD, births="distance", birth_tokens=2, birth_frames=2, birth_reach=1)
    windows = run(scene(12, enters=5), {0: given(1), 9: given(2)}, params)
    assert windows[-1].numbers.born == {3} and windows[-1].numbers.given == {0, 1, 2, 3}


def test_frames_before_the_first_mask_need_a_direction() -> None:
    with pytest.raises(UsageError, match=r"first mask is of frame 40, .*the 2 frames.*=both, or .*ingest.frames=40:"):
        check_direction({2: given(3)}, FORWARD, [20, 30, 40])
    check_direction({2: given(3)}, BOTH, [20, 30, 40])
    check_direction({0: given(3)}, FORWARD, [20, 30, 40])


def test_inverted_matches_lead_back() -> None:
    """Where two tokens move to one, it came from the more similar; similarities follow."""
    following = np.array([[1, 1, 2], [0, 2, 1]], np.int32)
    back = inverted(Matches(following, np.array([[0.5, 0.9, 0.3], [0.1, 0.2, 0.4]], np.float32)))
    np.testing.assert_array_equal(back.next, [[0, 2, 1], [NO_MATCH, 1, 2]])
    np.testing.assert_allclose(back.similarity, [[0.1, 0.4, 0.2], [0, 0.9, 0.3]])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"init": "kmeans"}, "it needs segment.init: mask"), ({"births": "distance"}, "set segment.births to none")],
)
def test_both_needs_masks_and_no_births(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(BOTH, **change)


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ((7,), [3] * 7 + [5] * 4),  # each frame is labelled from the mask of its own shot
        ((1,), [3] + [5] * 10),
        ((2, 6), [3] * 6 + [5] * 5),  # of the shot between, the cut that is nearest to the middle decides
        ((10,), [3] * 5 + [5] * 6),  # beyond both masks: the middle
    ],
)
def test_a_cut_between_two_masks_divides_the_frames(cuts: tuple[int, ...], expected: list[int]) -> None:
    clip, masks = replace(clip_of(scene(11)), cuts=cuts), {0: given(3), 9: given(5)}
    windows = list(segment_from_given(clip, masks, first_start(clip, masks, BOTH), BOTH))
    assert labels(windows)[:, -1].tolist() == expected
    crossed = [cut for cut in cuts for window in windows if window.start < cut < window.start + len(window.refined)]
    assert not crossed


def test_a_mask_at_a_cut_holds_from_there_and_no_window_crosses_another_one() -> None:
    clip, masks = replace(clip_of(scene(11)), cuts=(4, 6)), {0: given(3), 4: given(5)}
    windows = list(segment_from_given(clip, masks, first_start(clip, masks, FORWARD), FORWARD))
    assert [window.start for window in windows] == [0, 4, 6, 10]
    assert labels(windows)[:, -1].tolist() == [3] * 4 + [5] * 7
