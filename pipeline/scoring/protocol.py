"""What stored label values mean when they are scored: two protocols, each a pair of lookup tables.

*strict* follows the data set's own rule: void is void everywhere. *official* gives the numbers of the
published VSPW evaluator, slips included (tests/data/metrics/README.md, section 3): class = stored value, void
areas count as consistent, "other" counts as a class. Pixels that a person leaves out belong to no area in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol as Interface

import numpy as np

from pipeline.errors import DataError

#: Class lists longer than this are most likely instance or panoptic ids; a confusion table of them is huge.
MAX_CLASSES = 2048

_VALUES = 65536  # every value a uint8 or uint16 label map can store


@dataclass(frozen=True, eq=False)
class Decoded:
    """One frame, decoded. All arrays are (H, W); C is the number of classes.

    Attributes:
        truth: class 0..C-1, or C where the ground truth is ignored.
        prediction: class 0..C-1, or C for *none* (a value that is no class: wrong wherever truth counts).
        truth_area, prediction_area: values that video consistency compares from frame to frame.
        valid: pixels that may belong to a common area; None = all.
    """

    truth: np.ndarray
    prediction: np.ndarray
    truth_area: np.ndarray
    prediction_area: np.ndarray
    valid: np.ndarray | None


class Protocol(Interface):
    """How stored values are read before they are scored."""

    @property
    def name(self) -> str: ...

    @property
    def class_values(self) -> Sequence[int]:
        """Stored value of each class, by class index."""

    def decode(self, truth: np.ndarray, prediction: np.ndarray) -> Decoded:
        """Decode one frame of stored values, (H, W) uint8 or uint16 each.

        Raises:
            DataError: the two differ in size, or the ground truth holds a value the protocol does not know.
        """


@dataclass(frozen=True)
class Strict:
    """The data set's own rule: ignored values are void in confusion and in consistency alike.

    Args:
        class_values: stored value of each class; class index = position.
        ignore_values: stored ground-truth values that are no class.
    """

    class_values: tuple[int, ...]
    ignore_values: tuple[int, ...] = ()
    name: str = field(default="strict", init=False)

    def __post_init__(self) -> None:
        _check_count(len(self.class_values))
        both = sorted(set(self.class_values) & set(self.ignore_values))
        if both:
            raise DataError(f"class list: value {both[0]} is both a class and ignored; drop one of the two")
        if len(set(self.class_values)) != len(self.class_values):
            raise DataError("class list: two classes have the same value; give each class its own")
        if any(not 0 <= value < _VALUES for value in (*self.class_values, *self.ignore_values)):
            raise DataError(f"class list: values must lie in 0..{_VALUES - 1}, the range of label maps")

    @cached_property
    def _prediction_table(self) -> np.ndarray:
        table = np.full(_VALUES, len(self.class_values), np.uint16)
        table[list(self.class_values)] = np.arange(len(self.class_values))
        return table

    @cached_property
    def _truth_table(self) -> np.ndarray:
        count = len(self.class_values)
        unknown = count + 1
        table = np.where(self._prediction_table < count, self._prediction_table, unknown)
        table[list(self.ignore_values)] = count
        return table.astype(np.uint16)

    def decode(self, truth: np.ndarray, prediction: np.ndarray) -> Decoded:
        _check_frames(truth, prediction)
        classes = self._truth_table.take(truth)
        count = len(self.class_values)
        if classes.size and classes.max() > count:
            value = int(truth[classes > count][0])
            raise DataError(
                f"ground truth holds the value {value}, which is neither a class nor ignored; "
                "add it to the class list or to the ignored values"
            )
        predicted = self._prediction_table.take(prediction)
        return Decoded(classes, predicted, classes, predicted, classes < count)


@dataclass(frozen=True)
class Official:
    """The published evaluator, made defined where it is not: class = stored value, whatever it means.

    Args:
        num_classes: C; ground truth of C and above is ignored, predictions of C and above are *none*.
        left_out: stored ground-truth value of pixels that are not scored, which the published evaluator does not know;
            None = there are none.
    """

    num_classes: int
    left_out: int | None = None
    name: str = field(default="official", init=False)

    def __post_init__(self) -> None:
        _check_count(self.num_classes)

    @property
    def class_values(self) -> Sequence[int]:
        return range(self.num_classes)

    def decode(self, truth: np.ndarray, prediction: np.ndarray) -> Decoded:
        _check_frames(truth, prediction)
        none = np.uint16(self.num_classes)
        valid = None if self.left_out is None else truth != self.left_out
        return Decoded(np.minimum(truth, none), np.minimum(prediction, none), truth, prediction, valid)


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CLASSES:
        raise DataError(f"class list: {count} classes, expected 1 to {MAX_CLASSES} (are these instance ids?)")


def _check_frames(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.ndim != 2 or truth.shape != prediction.shape:
        raise DataError(f"label map of {_size(prediction)} against ground truth of {_size(truth)}; they must match")


def _size(frame: np.ndarray) -> str:
    return "x".join(str(size) for size in reversed(frame.shape)) or "no size"
