from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.files import with_names
from pipeline.scoring.scores import pool
from pipeline.tables.bootstrap import ClipCounts, Difference, differences
from tests.support.records import WINDOWS, noisy_video, video


def counts(videos: list[dict[str, Any]]) -> ClipCounts:
    return ClipCounts.of([with_names(record) for record in videos], WINDOWS)


@pytest.mark.parametrize("chosen", [[0, 1, 2], [0, 0, 2], [1, 1, 1], [2]], ids=str)
def test_a_weighting_equals_pooling_the_clips_that_often(chosen: list[int]) -> None:
    """Also where the clips' classes differ, and where one of them is only predicted."""
    videos = [
        noisy_video(0),
        noisy_video(1, names=("sky", "tree")),
        video(np.zeros((6, 2, 2), np.uint8), np.tile(np.array([[0, 1], [9, 0]], np.uint8), (6, 1, 1)), ("sky", "road")),
    ]
    weights = np.bincount(chosen, minlength=3)[None]
    found = counts(videos).pooled(weights)
    expected = pool([with_names(videos[clip]) for clip in chosen], WINDOWS).scores
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {name: expected[name] for name in ("miou", "vc2", "vc3")}, rel=1e-12
    )


def test_a_method_that_is_better_on_every_clip_is_clearly_better() -> None:
    worse = [noisy_video(seed, 0.5) for seed in range(8)]
    better = [noisy_video(seed, 0.95) for seed in range(8)]
    found = differences(counts(worse), counts(better))["miou"]
    assert found.interval is not None and found.value is not None
    assert 0 < found.interval[0] < found.value < found.interval[1]
    assert not found.unclear


def test_the_same_method_differs_by_nothing() -> None:
    same = counts([noisy_video(seed) for seed in range(4)])
    for found in differences(same, same).values():
        assert found == Difference(0.0, (0.0, 0.0))
        assert found.unclear


def test_a_difference_between_two_clips_is_unclear() -> None:
    """One clip says yes, the other no: half of the draws see both, a quarter each sees one alone."""
    right, wrong = np.zeros((6, 2, 2), np.uint8), np.ones((6, 2, 2), np.uint8)
    names = ("sky", "road")
    good, bad = video(right, right, names), video(right, wrong, names)
    found = differences(counts([good, bad]), counts([bad, good]))["miou"]
    assert found == Difference(0.0, (-1.0, 1.0))


def test_pairing_removes_what_clips_have_in_common() -> None:
    """Clips of very different difficulty: half of them are equally good, half a little better, none worse."""
    easy, hard = 0.98, 0.3
    base = counts([noisy_video(seed, easy if seed % 2 else hard) for seed in range(10)])
    other = counts([noisy_video(seed, easy if seed % 2 else hard + 0.2) for seed in range(10)])
    assert not differences(base, other)["miou"].unclear


def test_intervals_are_reproducible() -> None:
    base, other = counts([noisy_video(s) for s in range(5)]), counts([noisy_video(s + 9) for s in range(5)])
    assert differences(base, other) == differences(base, other)
    few, others = (differences(base, other, resamples=20, seed=seed)["miou"].interval for seed in (0, 1))
    assert few != others


def test_one_clip_has_no_interval() -> None:
    found = differences(counts([noisy_video(0, 0.5)]), counts([noisy_video(0, 0.9)]))["miou"]
    assert found.value is not None and found.interval is None
    assert not found.unclear


def test_undefined_scores_stay_undefined() -> None:
    short = [noisy_video(seed) for seed in range(2)]
    for record in short:
        record["vc"]["3"] = {"sum": 0.0, "windows": 0, "empty": 0}
    assert differences(counts(short), counts(short))["vc3"] == Difference(None, None)


def test_draws_without_windows_say_nothing_about_consistency() -> None:
    """The clip that is too short for VC_3 may be drawn alone."""
    base, other = ([noisy_video(seed, share) for seed in range(2)] for share in (0.6, 0.9))
    for record in (base[1], other[1]):
        record["vc"]["3"] = {"sum": 0.0, "windows": 0, "empty": 0}
    found = differences(counts(base), counts(other))["vc3"]
    assert found.value is not None
    assert found.interval == pytest.approx((found.value, found.value))


def test_different_clips_are_refused() -> None:
    with pytest.raises(DataError, match="cannot compare 2 clips with 1: a paired bootstrap needs the same clips"):
        differences(counts([noisy_video(0), noisy_video(1)]), counts([noisy_video(0)]))
