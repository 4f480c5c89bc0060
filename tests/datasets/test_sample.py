from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.sample import BALLOON, CAR, CLASSES, ENTERS_AT, SampleClip, make_sample


@pytest.fixture(scope="module")
def clip() -> SampleClip:
    return make_sample(frames=42, size=(96, 160))


def test_shapes_and_classes(clip: SampleClip) -> None:
    assert clip.frames.shape == (42, 96, 160, 3) and clip.frames.dtype == np.uint8
    assert clip.labels.shape == (42, 96, 160) and clip.labels.dtype == np.uint8
    assert [entry.id for entry in CLASSES] == list(range(8))
    assert len({entry.color for entry in CLASSES}) == 8


def test_every_class_is_there_from_the_start(clip: SampleClip) -> None:
    shares = np.bincount(clip.labels[0].ravel(), minlength=8) / clip.labels[0].size
    assert shares.min() > 0.02


def test_a_car_enters_in_the_second_window(clip: SampleClip) -> None:
    left = clip.labels[:, 72:, :40]  # lower left, away from the parked car
    present = [(labels == CAR).any() for labels in left[:24]]
    assert present == [frame >= ENTERS_AT for frame in range(24)]
    assert 14 <= ENTERS_AT < 28


def test_the_balloon_leaves(clip: SampleClip) -> None:
    present = [(labels == BALLOON).any() for labels in clip.labels]
    last = max(frame for frame, there in enumerate(present) if there)
    assert all(present[: last + 1]) and 14 <= last < 35


def test_the_second_car_occludes_the_parked_one(clip: SampleClip) -> None:
    def columns(frame: int, rows: slice) -> int:
        return int((clip.labels[frame, rows] == CAR).any(axis=0).sum())

    # Apart, the two cars cover twice a car's columns; at the end they overlap.
    one = columns(10, slice(None))
    assert columns(41, slice(None)) < 1.7 * one
    assert columns(41, slice(84, None)) > 0.8 * one  # the near one is whole


@pytest.mark.parametrize(("row", "speed"), [(90, (2.0, 2.4)), (76, (1.4, 1.9))])
def test_the_ground_moves_with_the_camera_and_faster_near(clip: SampleClip, row: int, speed: tuple) -> None:
    """Pixels per frame at half the standard size, by the shift that matches two frames best."""
    first, later = (clip.frames[frame, row, 40:].astype(float).mean(axis=1) for frame in (0, 5))
    errors = {shift: np.abs(first[shift:] - later[: len(later) - shift]).mean() for shift in range(1, 24)}
    assert speed[0] <= min(errors, key=lambda shift: errors[shift]) / 5 <= speed[1]


def test_classes_differ_in_colour(clip: SampleClip) -> None:
    """The nearest class mean finds most pixels of a later frame: simple features can separate the classes."""
    means = np.array([clip.frames[0][clip.labels[0] == entry.id].mean(axis=0) for entry in CLASSES])
    pixels = clip.frames[20].astype(float)
    nearest = np.linalg.norm(pixels[:, :, None] - means, axis=3).argmin(axis=2)
    assert (nearest == clip.labels[20]).mean() > 0.6


def test_it_is_deterministic_and_a_prefix_of_a_longer_one(clip: SampleClip) -> None:
    short = make_sample(frames=3, size=(96, 160))
    np.testing.assert_array_equal(short.frames, clip.frames[:3])
    np.testing.assert_array_equal(short.labels, clip.labels[:3])
    assert (make_sample(seed=1, frames=1, size=(96, 160)).frames != short.frames[:1]).mean() > 0.2


@pytest.mark.parametrize("size", [(64, 64), (192, 320), (128, 256)])
def test_other_sizes(size: tuple[int, int]) -> None:
    clip = make_sample(frames=1, size=size)
    assert clip.frames.shape == (1, *size, 3)
    assert len(np.unique(clip.labels)) >= 6
