"""The window loop on arrays."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.parameters import SegmentParams, SegmentParity
from pipeline.segmentation.correspondence import Matches
from pipeline.segmentation.window_loop import (
    Clip,
    Start,
    Window,
    fill_void,
    fit_context,
    opened_by,
    predict_window,
    refine_window,
    segment_windows,
    single_label_note,
    update_context,
    window_before,
    window_ranges,
)

TOKENS, CHANNELS = 24, 8
MERGED = SegmentParity(label_merge="first_frame")
SETTINGS = SegmentParams(clusters=3, restarts=2, window=4, neighbors=2)


class Scene:
    """A still scene of three groups of tokens; in `flicker` frames, one token looks like another group.

    Attributes:
        truth: (n,) group of each token: 12, 8 and 4 tokens, so K-Means numbers them alike.
        reads: the ranges of frames that were read.
    """

    def __init__(self, frames: int, flicker: tuple[int, ...] = (), drift: float = 0.0) -> None:
        rng = np.random.default_rng(3)
        self.frames = frames
        self.truth = np.repeat([0, 1, 2], (12, 8, 4))
        seen = np.tile(self.truth, (frames, 1))
        seen[list(flicker), 0] = 2
        noise = 0.02 * rng.standard_normal((frames, TOKENS, CHANNELS))
        drifted = drift * np.arange(frames)[:, None, None]
        self.features = (np.eye(3, CHANNELS)[seen] + noise + drifted).astype(np.float32)
        self.reads: list[tuple[int, int]] = []

    def clip(self, cuts: tuple[int, ...] = ()) -> Clip:
        return Clip(self.frames, self._read, self._matches, (4, 6), cuts)

    def _read(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return self.features[start:stop]

    def _matches(self, start: int, stop: int) -> Matches:
        still = np.tile(np.arange(TOKENS, dtype=np.int32), (stop - start - 1, 1))
        return Matches(still, np.ones_like(still, np.float32))


def run(scene: Scene, settings: SegmentParams, start: Start | None = None) -> list[Window]:
    return list(segment_windows(scene.clip(), start or fit_context(scene.features, settings), settings))


def refined(windows: list[Window]) -> np.ndarray:
    return np.concatenate([window.refined for window in windows])


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (1, [(0, 1)]),
        (3, [(0, 3)]),
        (4, [(0, 4)]),
        (9, [(0, 4), (4, 8), (8, 9)]),
    ],
    ids=["one frame", "fewer than B", "B", "partial last window"],
)
def test_every_frame_is_segmented_once(frames: int, expected: list[tuple[int, int]]) -> None:
    scene = Scene(frames)
    windows = run(scene, SETTINGS)
    assert scene.reads == expected
    assert [window.start for window in windows] == [start for start, _ in expected]
    np.testing.assert_array_equal(refined(windows), np.tile(scene.truth, (frames, 1)))


def test_the_vote_removes_a_flicker_that_prediction_has() -> None:
    scene = Scene(8, flicker=(5,))
    without = np.concatenate([window.initial for window in run(scene, SETTINGS)])
    assert without[5, 0] == 2
    assert refined(run(scene, SETTINGS))[5, 0] == 0
    assert refined(run(scene, replace(SETTINGS, vote="none")))[5, 0] == 2


def test_the_loop_by_hand_is_the_loop() -> None:
    scene = Scene(9, flicker=(2, 6), drift=0.05)
    windows = run(scene, SETTINGS)
    start = fit_context(scene.features[:1], SETTINGS)
    for window, part in zip(windows, window_ranges(9, 4), strict=True):
        features = scene.features[part.start : part.stop]
        initial = predict_window(features, start, SETTINGS, part.start)
        voted = refine_window(initial, scene.clip().matches(part.start, part.stop), SETTINGS).labels
        start = Start(update_context(start.context, features, voted, SETTINGS))
        np.testing.assert_array_equal(initial, window.initial)
        np.testing.assert_array_equal(voted, window.refined)
        np.testing.assert_array_equal(start.context.features, window.context.features)
        np.testing.assert_array_equal(start.context.labels, window.context.labels)


@pytest.mark.parametrize(("rule", "label"), [("keep", 1), ("predict", 0)])
def test_first_frame_keeps_its_labels_or_is_predicted(rule: str, label: int) -> None:
    scene = Scene(3)
    mask = scene.truth.copy()
    mask[0] = 1  # a wrong label that the other neighbours outvote
    settings = replace(SETTINGS, init="mask", parity=SegmentParity(first_frame=rule), neighbors=5)
    windows = run(scene, settings, fit_context(scene.features, settings, mask))
    assert windows[0].initial[0, 0] == label
    assert windows[0].initial[1, 0] == 0


def test_a_given_mask_is_carried_through_the_clip() -> None:
    scene = Scene(6)
    mask = np.array([40, 7, 300])[scene.truth]
    settings = replace(SETTINGS, init="mask", clusters=99)  # K plays no part
    np.testing.assert_array_equal(
        refined(run(scene, settings, fit_context(scene.features, settings, mask))), np.tile(mask, (6, 1))
    )


def test_clusters_take_the_mask_labels() -> None:
    scene = Scene(2)
    mask = np.array([9, 5, 9])[scene.truth]
    mask[:5] = 5  # a minority of group 0
    settings = replace(SETTINGS, parity=MERGED)
    start = fit_context(scene.features, settings, mask)
    assert start.first_labels is not None
    np.testing.assert_array_equal(start.first_labels, np.array([9, 5, 9])[scene.truth])


def test_kmeans_of_the_first_frame_or_of_the_window() -> None:
    scene = Scene(4)
    scene.features[1:, 12:20] *= -1  # from frame 2 on, group 1 looks unlike anything in frame 1
    first = fit_context(scene.features, SETTINGS).context.labels
    np.testing.assert_array_equal(first, scene.truth)
    settings = replace(SETTINGS, parity=SegmentParity(kmeans_frames="window"), clusters=4)
    whole = fit_context(scene.features, settings).context.labels
    assert len(set(whole[:12])) == len(set(whole[12:20])) == 1
    assert set(whole) != {0, 1, 2}  # the fourth cluster is larger than group 1 of frame 1 alone


def test_a_context_of_another_clip_predicts_from_the_first_frame_on() -> None:
    learnt = run(Scene(6), SETTINGS)[-1].context
    other = Scene(5)
    windows = run(other, SETTINGS, Start(learnt))
    np.testing.assert_array_equal(refined(windows), np.tile(other.truth, (5, 1)))


def test_updating_follows_features_that_change() -> None:
    """The model adapts window by window: with a frozen first frame the drift would cross over."""
    scene = Scene(16)
    turn = np.linspace(0, np.pi / 2, 16)
    for frame, angle in enumerate(turn):  # group 0 turns into where group 1 was, group 1 moves away
        scene.features[frame, :12] = np.cos(angle) * np.eye(CHANNELS)[0] + np.sin(angle) * np.eye(CHANNELS)[1]
        scene.features[frame, 12:20] = np.cos(angle) * np.eye(CHANNELS)[1] + np.sin(angle) * np.eye(CHANNELS)[4]
    start = fit_context(scene.features, SETTINGS)
    frozen = predict_window(scene.features, Start(start.context), SETTINGS)
    assert (frozen[-1, :12] == 1).all()
    np.testing.assert_array_equal(refined(run(scene, SETTINGS, start))[-1], scene.truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "mask"}, "segment.init: mask needs a mask"),
        ({"parity": MERGED}, "label_merge: first_frame"),
    ],
)
def test_a_missing_mask_is_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message + ".*--seed DIR"):
        fit_context(Scene(1).features, replace(SETTINGS, **change))


def test_bad_numbers_are_named() -> None:
    scene = Scene(2)
    with pytest.raises(UsageError, match=r"segment.clusters is 25, but there are only 24 tokens"):
        run(scene, replace(SETTINGS, clusters=25))
    with pytest.raises(UsageError, match=r"segment.neighbors is 25.*remembers only 24"):
        run(scene, replace(SETTINGS, neighbors=25))


def test_nan_names_its_frame_in_the_clip() -> None:
    scene = Scene(7)
    scene.features[6, 3, 2] = np.nan
    with pytest.raises(DataError, match="features of frame 6 have NaN"):
        run(scene, SETTINGS)


@pytest.mark.parametrize(("labels", "noted"), [({4}, True), ({4, 5}, False), (set(), False)])
def test_one_label_everywhere_is_noted(labels: set[int], noted: bool) -> None:
    note = single_label_note(labels)
    assert (note is not None) == noted
    if note:
        assert "one label (4)" in note


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.array([1, 255, 2, 255], np.uint8), [1, 1, 2, 2]),
        (np.array([0, 255, 0, 255], np.uint8), [0, 255, 0, 255]),
        (np.array([1, 255, 300, 255], np.uint16), [1, 255, 300, 255]),
    ],
    ids=["void", "binary mask", "16 bit"],
)
def test_void_of_a_mask_takes_the_label_of_similar_tokens(mask: np.ndarray, expected: list[int]) -> None:
    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], np.float32)
    assert fill_void(features, mask, neighbors=1).tolist() == expected


def test_a_mask_of_void_only_is_refused() -> None:
    with pytest.raises(DataError, match="void \\(255\\) everywhere"):
        fill_void(np.zeros((2, 2), np.float32), np.full(2, 255, np.uint8), neighbors=1)


# Cuts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "start", "cuts", "expected"),
    [
        (9, 0, (), [(0, 4), (4, 8), (8, 9)]),
        (9, 0, (4,), [(0, 4), (4, 8), (8, 9)]),
        (9, 0, (5,), [(0, 4), (4, 5), (5, 9)]),
        (9, 0, (1, 2, 8), [(0, 1), (1, 2), (2, 6), (6, 8), (8, 9)]),
        (9, 5, (2, 5, 6), [(5, 6), (6, 9)]),
    ],
)
def test_no_window_crosses_a_cut(
    frames: int, start: int, cuts: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    windows = window_ranges(frames, 4, start, cuts)
    assert [(window.start, window.stop) for window in windows] == expected
    for earlier, later in pairwise(windows):
        assert window_before(later.start, 4, cuts) == earlier


def test_nothing_is_before_the_first_frame_and_a_cut_opens_a_shot() -> None:
    assert not window_before(0, 4, (3,))
    assert [opened_by(frame, (3, 6)) for frame in (0, 3, 4, 6)] == ["clip", "shot", None, "shot"]


def test_after_a_cut_the_context_goes_on_with_the_same_labels() -> None:
    scene = Scene(9)
    cut = list(segment_windows(scene.clip((5,)), fit_context(scene.features, SETTINGS), SETTINGS))
    assert [(window.start, len(window.refined)) for window in cut] == [(0, 4), (4, 1), (5, 4)]
    np.testing.assert_array_equal(refined(cut), np.tile(scene.truth, (9, 1)))
    assert cut[-1].born == {}


@pytest.mark.parametrize("kmeans_frames", ["first", "window"])
def test_a_restart_gives_each_shot_the_labels_that_it_has_alone(kmeans_frames: str) -> None:
    settings = replace(SETTINGS, after_cut="restart", parity=SegmentParity(kmeans_frames=kmeans_frames))
    scene, cuts = Scene(16, flicker=(2, 6, 12), drift=0.3), (5, 11)
    first = scene.features[: 4 if kmeans_frames == "window" else 1]
    whole = refined(list(segment_windows(scene.clip(cuts), fit_context(first, settings), settings)))
    for number, (start, stop) in enumerate(((0, 5), (5, 11), (11, 16))):
        alone = Scene(stop - start)
        alone.features = scene.features[start:stop]
        fitted = fit_context(alone.features[: 4 if kmeans_frames == "window" else 1], settings)
        labels = refined(list(segment_windows(alone.clip(), fitted, settings)))
        np.testing.assert_array_equal(whole[start:stop], labels + 3 * number)


def test_a_restart_says_which_segments_are_later_ones() -> None:
    settings = replace(SETTINGS, after_cut="restart", memory="first_and_last")
    scene = Scene(9)
    windows = list(segment_windows(scene.clip((5,)), fit_context(scene.features, settings), settings))
    assert [window.born for window in windows] == [{}, {}, {3: (5, 8), 4: (5, 8), 5: (5, 8)}]
    assert set(windows[-1].context.labels) == {3, 4, 5}  # nothing of the shot before is remembered


@pytest.mark.parametrize(
    ("change", "setting"),
    [({"init": "mask"}, "init: mask"), ({"parity": MERGED}, "parity.label_merge: first_frame")],
)
def test_segments_that_are_given_cannot_be_found_anew(change: dict[str, Any], setting: str) -> None:
    with pytest.raises(UsageError, match=f"segment.after_cut: restart .* segment.{setting} takes them from a mask"):
        replace(SETTINGS, after_cut="restart", **change)
