"""Confusion and video consistency against slow literal versions, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.scoring.metrics import Confusion, Consistency, Window
from pipeline.scoring.protocol import Official, Protocol, Strict

CLASSES, VOID = 3, 255
PROTOCOLS = {"strict": Strict((0, 1, 2), (VOID,)), "official": Official(CLASSES)}


def videos(frames: int, seed: int, values: tuple[int, ...] = (0, 1, 2, VOID)) -> tuple[np.ndarray, np.ndarray]:
    """Two label videos (F, 3, 4) in which most pixels keep their value from frame to frame."""
    rng = np.random.default_rng(seed)
    both = rng.choice(values, (2, frames, 3, 4)).astype(np.uint8)
    for f in range(1, frames):
        keep = rng.random((2, 3, 4)) < 0.8
        both[:, f] = np.where(keep, both[:, f - 1], both[:, f])
    return both[0], both[1]


def confusion_of(protocol: Protocol, truth: np.ndarray, prediction: np.ndarray) -> Confusion:
    table = Confusion(CLASSES)
    for pair in zip(truth, prediction, strict=True):
        table += Confusion.of(protocol.decode(*pair), CLASSES)
    return table


def consistency_of(
    protocol: Protocol, truth: np.ndarray, prediction: np.ndarray, lengths: tuple[int, ...]
) -> dict[int, list[Window]]:
    consistency = Consistency(lengths)
    for pair in zip(truth, prediction, strict=True):
        consistency.update(protocol.decode(*pair))
    return consistency.windows


def literal_windows(strict: bool, truth: np.ndarray, prediction: np.ndarray, n: int) -> list[Window]:
    """Section 5 of the reference, pixel by pixel."""
    windows = []
    for i in range(len(truth) - n):
        area = common = 0
        for y, x in np.ndindex(truth.shape[1:]):
            g, p = truth[i : i + n, y, x].tolist(), prediction[i : i + n, y, x].tolist()
            if strict:  # all predictions that are no class become one value
                p = [value if value < CLASSES else CLASSES for value in p]
            constant = len(set(g)) == 1 and not (strict and g[0] == VOID)
            area += constant
            common += constant and len(set(p)) == 1
        windows.append(Window(area, common))
    return windows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(sorted(PROTOCOLS)))
def test_consistency_is_the_literal_definition(frames: int, n: int, seed: int, name: str) -> None:
    truth, prediction = videos(frames, seed, (0, 1, 2, 3, VOID) if name == "official" else (0, 1, 2, VOID))
    found = consistency_of(PROTOCOLS[name], truth, prediction, (n, n + 2))
    for length in (n, n + 2):
        assert found[length] == literal_windows(name == "strict", truth, prediction, length)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_confusion_is_the_literal_count(frames: int, seed: int) -> None:
    truth, prediction = videos(frames, seed)
    table = confusion_of(PROTOCOLS["strict"], truth, prediction)
    for i, g in enumerate((0, 1, 2)):
        for j, p in enumerate((0, 1, 2, VOID)):
            assert table.counts[i, j] == np.count_nonzero((truth == g) & (prediction == p))
    scores = table.scores()
    scored = truth != VOID
    ious = []
    for i in range(CLASSES):
        g, p = (truth == i) & scored, (prediction == i) & scored
        if g.any():
            ious.append(np.count_nonzero(g & p) / np.count_nonzero(g | p))
    assert scores.miou == pytest.approx(np.mean(ious) if ious else math.nan, nan_ok=True)
    right = np.count_nonzero((truth == prediction) & scored)
    expected = right / scored.sum() if scored.any() else math.nan
    assert scores.pixel_accuracy == pytest.approx(expected, nan_ok=True)


def test_tables_add_up() -> None:
    truth, prediction = videos(6, seed=1)
    whole = confusion_of(PROTOCOLS["strict"], truth, prediction)
    parts = confusion_of(PROTOCOLS["strict"], truth[:2], prediction[:2])
    parts += confusion_of(PROTOCOLS["strict"], truth[2:], prediction[2:])
    np.testing.assert_array_equal(whole.counts, parts.counts)


def test_a_class_that_is_only_predicted_is_in_no_mean_but_costs_the_classes_it_covers() -> None:
    truth = np.zeros((1, 1, 4), np.uint8)
    scores = confusion_of(PROTOCOLS["strict"], truth, np.array([[[0, 0, 0, 2]]], np.uint8)).scores()
    assert scores.iou[0] == scores.miou == 0.75
    assert scores.iou[2] == 0.0 and math.isnan(scores.iou[1])
    assert scores.present.tolist() == [True, False, False, False]


def test_nothing_scored_is_undefined_except_fwiou() -> None:
    void = np.full((2, 3, 4), VOID, np.uint8)
    table = confusion_of(PROTOCOLS["strict"], void, np.zeros_like(void))
    scores = table.scores()
    assert math.isnan(scores.miou) and math.isnan(scores.pixel_accuracy) and math.isnan(scores.class_accuracy)
    assert scores.fwiou == 0.0
    assert table.scored_pixels == 0 and not table.predicted_none


def test_none_on_ignored_pixels_is_noticed_but_not_scored() -> None:
    void = np.full((1, 3, 4), VOID, np.uint8)
    table = confusion_of(PROTOCOLS["strict"], void, np.full_like(void, 77))
    assert table.predicted_none and table.scored_pixels == 0


def test_a_constant_wrong_prediction_is_consistent() -> None:
    truth = np.zeros((6, 3, 4), np.uint8)
    windows = consistency_of(PROTOCOLS["strict"], truth, np.full_like(truth, 2), (2,))[2]
    assert [window.ratio for window in windows] == [1.0] * 4


def test_void_in_place_is_common_area_for_official_only() -> None:
    void = np.full((6, 3, 4), VOID, np.uint8)
    changing = np.arange(6, dtype=np.uint8)[:, None, None] % 2 + np.zeros_like(void)
    official, strict = (consistency_of(PROTOCOLS[name], void, changing, (2,))[2] for name in ("official", "strict"))
    assert [window.ratio for window in official] == [0.0] * 4
    assert all(math.isnan(window.ratio) for window in strict)


@pytest.mark.parametrize("n", [255, 256, 300])
def test_windows_longer_than_a_byte_counts(n: int) -> None:
    truth = np.zeros((n + 3, 1, 2), np.uint8)
    prediction = truth.copy()
    prediction[:2, 0, 1] = 1  # constant from frame 2 on
    windows = consistency_of(PROTOCOLS["strict"], truth, prediction, (n, 2))[n]
    assert windows == [Window(2, 1), Window(2, 1), Window(2, 2)]


def test_no_window_reaches_across_a_gap() -> None:
    truth = np.zeros((7, 3, 4), np.uint8)
    consistency = Consistency((2,))
    for f, pair in enumerate(zip(truth, truth, strict=True)):
        if f == 4:
            consistency.restart()
        consistency.update(PROTOCOLS["strict"].decode(*pair))
    assert len(consistency.windows[2]) == (4 - 2) + (3 - 2)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="window length 0"):
        Consistency((8, 0))
    consistency = Consistency((8,))
    small, large = np.zeros((3, 4), np.uint8), np.zeros((4, 4), np.uint8)
    consistency.update(PROTOCOLS["official"].decode(small, small))
    with pytest.raises(DataError, match="label map of 4x4 after 4x3"):
        consistency.update(PROTOCOLS["official"].decode(large, large))
