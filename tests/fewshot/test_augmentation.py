"""References changed at random: picture and labels stay together, and what shows nothing has no label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.fewshot.augmentation import ATTEMPTS, augmented, blurred, cropped, generator, rotated
from pipeline.fewshot.segments import IGNORE
from pipeline.parameters import LearnAugment

SIZE = (96, 128)
COLOURS = np.array([[60, 90, 120], [200, 60, 60], [60, 200, 60]], np.uint8)
NOTHING = LearnAugment(zoom_out=0, blur=0, dropout=0, flip=0, min_crop=1, rotation=0)
#: Each change alone, certain to happen.
ALONE = {
    "zoom_out": replace(NOTHING, zoom_out=1),
    "dropout": replace(NOTHING, dropout=1),
    "flip": replace(NOTHING, flip=1),
    "min_crop": replace(NOTHING, min_crop=0.5),
    "rotation": replace(NOTHING, rotation=1),
    "all": LearnAugment(zoom_out=1, blur=0, dropout=1, flip=1, min_crop=0.5, rotation=1),
}


def scene(size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Three segments, each in a colour of its own; a strip without a label."""
    numbers = np.zeros(size, np.uint8)
    numbers[size[0] // 4 : size[0] // 2, : size[1] // 2] = 1
    numbers[size[0] // 2 : -8, size[1] // 2 :] = 2
    image = COLOURS[numbers]
    numbers[-4:] = IGNORE
    return image, numbers


def test_without_changes_only_the_size_is_another() -> None:
    image, numbers = scene()
    seen, labels = augmented(image, numbers, SIZE, NOTHING, generator(0, 0))
    assert np.array_equal(seen, image) and np.array_equal(labels, numbers)
    seen, labels = augmented(image, numbers, (64, 64), NOTHING, generator(0, 0))
    assert seen.shape == (64, 64, 3) and labels.shape == (64, 64) and set(np.unique(labels)) <= {0, 1, 2, IGNORE}


@pytest.mark.parametrize("change", ALONE)
@pytest.mark.parametrize("iteration", range(4))
def test_labels_move_with_the_picture(change: str, iteration: int) -> None:
    """Nearly every labelled pixel has its segment's colour; borders are blends."""
    image, numbers = scene()
    seen, labels = augmented(image, numbers, SIZE, ALONE[change], generator(1, iteration), iteration)
    assert seen.shape == (*SIZE, 3) and seen.dtype == np.uint8 and labels.shape == SIZE and labels.dtype == np.uint8
    known = labels != IGNORE
    off = np.abs(seen[known].astype(int) - COLOURS[labels[known]]).max(axis=-1)
    assert (off <= 30).mean() > 0.85 and known.mean() > 0.1
    assert not np.array_equal(labels, numbers)


@pytest.mark.parametrize("change", ["zoom_out", "dropout", "rotation"])
@pytest.mark.parametrize(("fill", "value"), [("ignore", IGNORE), ("background", 0)])
def test_what_shows_nothing_is_filled(change: str, fill: str, value: int) -> None:
    image, numbers = np.full((*SIZE, 3), 200, np.uint8), np.ones(SIZE, np.uint8)
    params = replace(ALONE[change], fill=fill)
    seen, labels = augmented(image, numbers, SIZE, params, generator(0, 3))
    black = (seen == 0).all(axis=-1)
    assert black.any() and (labels[black] == value).all() and set(np.unique(labels)) == {1, value}


def test_the_same_iteration_draws_the_same() -> None:
    image, numbers = scene()
    draws = [augmented(image, numbers, SIZE, ALONE["all"], generator(*key)) for key in ((0, 5), (0, 5), (0, 6), (1, 5))]
    assert np.array_equal(draws[0][0], draws[1][0]) and np.array_equal(draws[0][1], draws[1][1])
    assert not np.array_equal(draws[0][0], draws[2][0]) and not np.array_equal(draws[0][0], draws[3][0])


def test_what_is_given_is_not_changed() -> None:
    image, numbers = scene()
    before = image.copy(), numbers.copy()
    augmented(image, numbers, SIZE, ALONE["all"], generator(0, 0))
    assert np.array_equal(image, before[0]) and np.array_equal(numbers, before[1])


@pytest.mark.parametrize("turn", range(6))
def test_crops_hold_the_segment_whose_turn_it_is(turn: int) -> None:
    image, numbers = scene()
    params = replace(NOTHING, min_crop=0.3, least_part=0.6)
    for iteration in range(20):
        _, labels = cropped((image, numbers), params, generator(0, iteration), turn)
        wanted = turn % 3
        assert (labels == wanted).sum() > 0.6 * (numbers == wanted).sum()


def test_a_crop_that_cannot_be_had_is_not_made() -> None:
    image, numbers = scene()
    assert ATTEMPTS < 1000
    _, labels = cropped((image, numbers), replace(NOTHING, min_crop=0.3, least_part=1), generator(0, 0), 0)
    assert np.array_equal(labels, numbers)
    unlabelled = np.full(SIZE, IGNORE, np.uint8)
    assert cropped((image, unlabelled), LearnAugment(), generator(0, 0), 0)[1].shape == SIZE


def test_rotation_turns_around_the_middle() -> None:
    image, numbers = scene((65, 65))
    seen, labels = rotated((image, numbers), 90, IGNORE)
    assert np.array_equal(labels, np.rot90(numbers)) and np.array_equal(seen, np.rot90(image))


def test_blur_leaves_means() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    assert np.array_equal(blurred(image, 1), image)
    assert abs(blurred(image, 3).mean() - image.mean()) < 1 and blurred(image, 3).std() < image.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zoom_smallest": 0.9}, "learn.augment.zoom_smallest must not be above learn.augment.zoom_largest"),
        ({"largest_hole": 0.01}, "learn.augment.smallest_hole must not be above learn.augment.largest_hole"),
    ],
)
def test_ranges_must_have_their_order(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(NOTHING, **change)
