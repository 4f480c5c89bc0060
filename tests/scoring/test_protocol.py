"""Decoding of stored values under the two protocols."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.protocol import Official, Protocol, Strict

VSPW = Strict(tuple(range(1, 125)), (0, 255))
TRUTH = np.array([[0, 1, 124, 255]], np.uint8)
PREDICTION = np.array([[255, 0, 124, 1]], np.uint8)


def test_strict_makes_void_of_ignored_values_and_none_of_unknown_predictions() -> None:
    frame = VSPW.decode(TRUTH, PREDICTION)
    assert frame.truth.tolist() == [[124, 0, 123, 124]]
    assert frame.prediction.tolist() == [[124, 124, 123, 0]]
    assert frame.valid is not None and frame.valid.tolist() == [[False, True, True, False]]


def test_official_takes_stored_values_for_classes() -> None:
    frame = Official(124).decode(TRUTH, PREDICTION)
    assert frame.truth.tolist() == [[0, 1, 124, 124]]
    assert frame.prediction.tolist() == [[124, 0, 124, 1]]
    assert frame.truth_area is TRUTH and frame.prediction_area is PREDICTION and frame.valid is None


@pytest.mark.parametrize("protocol", [Strict((7, 300, 65535), (9,)), Official(300)], ids=["strict", "official"])
def test_sixteen_bit_values(protocol: Protocol) -> None:
    truth = np.array([[300, 7, 9]], np.uint16)
    frame = protocol.decode(truth, truth.astype(np.uint16))
    count = len(protocol.class_values)
    expected = [[1, 0, count]] if isinstance(protocol, Strict) else [[300, 7, 9]]
    assert frame.truth.tolist() == expected
    assert frame.prediction.tolist() == expected


def test_eight_bit_values_against_more_than_256_classes() -> None:
    frame = Official(1000).decode(TRUTH, PREDICTION)
    assert frame.truth.tolist() == TRUTH.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Strict((1, 2, 1)), "two classes have the same value"),
        (lambda: Strict((0, 1), (255, 1)), "value 1 is both a class and ignored"),
        (lambda: Strict((0, -1)), "values must lie in 0..65535"),
        (lambda: Strict(()), "0 classes, expected 1 to 2048"),
        (lambda: Official(3000), r"3000 classes, .* \(are these instance ids\?\)"),
        (
            lambda: VSPW.decode(np.full((1, 1), 125, np.uint8), np.zeros((1, 1), np.uint8)),
            "holds the value 125",
        ),
        (lambda: VSPW.decode(np.zeros((4, 6), np.uint8), np.zeros((4, 5), np.uint8)), "map of 5x4 .* of 6x4"),
        (
            lambda: Official(3).decode(np.zeros((2, 4, 6), np.uint8), np.zeros((2, 4, 6), np.uint8)),
            "must match",
        ),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()  # type: ignore[operator]
