from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.media.resize import model_size, resize_frame, resize_nearest
from tests.support.places import SHARED


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("recorded arrays are not here (the folder ../shared/reference is absent)")
    return folder


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((194, 346), "native", (192, 320)),
        ((480, 854), "native", (448, 832)),
        ((40, 1000), "native", (64, 960)),
        ((480, 854), 256, (256, 448)),
        ((480, 854), "256", (256, 448)),
        ((854, 480), 256, (448, 256)),
        ((480, 854), 280, (256, 448)),
        ((480, 854), 288, (320, 576)),
        ((100, 100), 1, (64, 64)),
        ((100, 3000), 64, (64, 1920)),
        ((480, 854), "256x448", (256, 448)),
        ((480, 854), "256X64", (256, 64)),
        ((1024, 2048), "1/16", (256, 512)),
        ((480, 854), "1/2", (320, 576)),
        ((480, 854), "1/10000", (64, 64)),
    ],
)
def test_model_size(source: tuple[int, int], size: str | int, expected: tuple[int, int]) -> None:
    assert model_size(*source, size) == expected


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("250x448", "multiples of 64; the nearest is 256x448"),
        ("0x64", "multiples of 64"),
        ("big", "must be native"),
        (0, "must be native"),
        (-64, "must be native"),
        ("1/0", "must be native"),
        ("2/3", "must be native"),
    ],
)
def test_model_size_refuses(size: str | int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_size(480, 854, size)


def test_frames_are_resized_as_the_authors_do(reference: Path) -> None:
    with np.load(reference / "clip.npz") as clip:
        frame, expected = clip["frames"][0], clip["network_frame0"]
    np.testing.assert_array_equal(resize_frame(frame, model_size(*frame.shape[:2], "native")), expected)


def test_masks_are_reduced_as_the_authors_do(reference: Path) -> None:
    """By the pixel-centre convention; the corner one, floor(i h / H), differs in a fifth of the tokens."""
    with np.load(reference / "case_c_B6_L14_gt.npz") as case:
        mask, expected = case["gt_mask_frame0"], case["p0_gt_mask_small"]
    np.testing.assert_array_equal(resize_nearest(mask, expected.shape), expected)


def test_a_frame_of_that_size_stays_as_it_is(rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    assert resize_frame(frame, (64, 128)) is frame


@pytest.mark.parametrize("size", [(3, 5), (7, 11), (14, 10), (1, 1), (20, 33)])
def test_values_take_the_pixel_under_the_centre(rng: np.random.Generator, size: tuple[int, int]) -> None:
    labels = rng.integers(0, 999, (7, 11)).astype(np.uint16)
    literal = np.empty(size, np.uint16)
    for row in range(size[0]):
        for column in range(size[1]):
            literal[row, column] = labels[int((row + 0.5) * 7 / size[0]), int((column + 0.5) * 11 / size[1])]
    resized = resize_nearest(labels, size)
    np.testing.assert_array_equal(resize_nearest(np.stack([labels] * 3, -1), size), np.stack([literal] * 3, -1))
    np.testing.assert_array_equal(resized, literal)
    assert resized.dtype == np.uint16
