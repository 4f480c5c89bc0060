"""J and F of classes as objects and as parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.scoring.assignment import IDENTITY, Assignment
from pipeline.scoring.objects import score_objects, score_segments
from pipeline.scoring.scores import ScoredClasses

OBJECTS = ScoredClasses({0: "background", 1: "bird"}, (255,))


def test_objects_take_clusters_without_a_class_for_background() -> None:
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, :3] = 1
    labels = truth + np.uint8(10)
    labels[2, 5, 5] = 99
    scored = score_objects("semi_supervised", truth, labels, OBJECTS, Assignment("majority", {10: 0, 11: 1}))
    assert scored["j"]["mean"] == [1.0] and scored["jf_mean"] == 1.0
    with pytest.raises(DataError, match="object 99 is predicted"):
        score_objects("semi_supervised", truth, np.where(labels == 99, 99, truth), OBJECTS)


@pytest.mark.parametrize(
    ("classes", "value", "void"),
    [
        (ScoredClasses({0: "background", 255: "bird"}), 255, None),  # DAVIS 2016
        (ScoredClasses({1: "bird", 2: "tree"}, (0, 255)), 1, 255),
        (ScoredClasses({0: "background", 1: "bird"}, (9,)), 1, 9),
    ],
)
@pytest.mark.parametrize("assignment", [IDENTITY, Assignment("majority", {0: 0, 1: 1, 255: 255}, 300)])
def test_objects_by_class_value(classes: ScoredClasses, value: int, void: int | None, assignment: Assignment) -> None:
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, :3] = value
    labels = truth.copy()
    labels[:, 4] = value
    if void is not None:
        truth[:, 4] = void
    j = score_objects("unsupervised", truth, labels, classes, assignment)["j"]["mean"]
    assert j == [1.0] if void is not None else j == pytest.approx([18 / 24])


@pytest.mark.parametrize("task", ["semi_supervised", "unsupervised"])
def test_objects_are_the_classes_that_the_truth_holds(task: str) -> None:
    """A class that no frame shows is not an object that was found; void that was carried along is background."""
    classes = ScoredClasses({number: str(number) for number in range(1, 125)}, (0, 255))
    truth = np.full((4, 8, 8), 3, np.uint8)
    truth[:, 3:6], truth[:, 6:] = 120, 255
    carried = score_objects(task, truth, truth, classes)
    assert carried["j"]["mean"] == [1.0, 1.0] and carried["jf_mean"] == 1.0
    missed = score_objects(task, truth, np.where(truth == 255, 3, 0), classes)
    assert missed["j"]["mean"] == [0.0, 0.0]


PARTS = ScoredClasses({4: "Background", 1: "wheel", 9: "never there"}, (255,))


def parts(void: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Three frames of a wheel, below it background; of the labels the wheel is half as wide. Above it may be void."""
    truth = np.full((3, 40, 40), 4, np.uint8)
    truth[:, 10:20] = 1
    labels = truth.copy()
    labels[:, 10:20, 20:] = 4
    if void:
        truth[:, :10] = 255
        labels[:, :10] = 1
    return truth, labels


def test_segments_in_every_frame_and_in_smites_protocol() -> None:
    """A part that is not there counts as 0 in SMITE's mean, and not at all in J."""
    truth, labels = parts()
    found = score_segments(truth, labels, PARTS)
    assert found is not None and found["davis"]["task"] == "parts"
    assert found["davis"]["j"]["mean"] == [0.5] and 0.5 < found["davis"]["f_mean"] < 1
    shares = {"4": 1200 / 1400, "1": 0.5, "9": 0.0}
    assert found["smite"]["iou_per_part"] == pytest.approx(shares)
    assert found["smite"]["miou"] == pytest.approx(sum(shares.values()) / 3)
    assert found["smite"]["f"] == found["davis"]["f_mean"] and found["smite"]["j"] == 0.5


def test_void_is_left_out_of_j_and_f_but_not_of_smites_protocol() -> None:
    truth, labels = parts(void=True)
    found = score_segments(truth, labels, PARTS)
    assert found is not None
    assert found["davis"]["j"]["mean"] == [0.5] and found["smite"]["j"] == pytest.approx(200 / 800)
    assert found["davis"]["f_mean"] != found["smite"]["f"]


def test_pixels_that_a_person_leaves_out_count_in_no_protocol() -> None:
    truth, labels = parts()
    whole = score_segments(truth, labels, PARTS)
    truth[:, 10:20, 20:30], labels[:, :5] = 77, 1
    truth[:, :5] = 77
    classes = replace(PARTS, ignore=(*PARTS.ignore, 77), left_out=77)
    found = score_segments(truth, labels, classes)
    assert whole is not None and found is not None
    shares = {"4": 1000 / 1100, "1": 200 / 300, "9": 0.0}
    assert found["smite"]["iou_per_part"] == pytest.approx(shares)
    assert found["davis"]["j"]["mean"] == pytest.approx([200 / 300])


def test_without_a_background_every_class_is_a_segment() -> None:
    """Whatever its value: 0 is a class like others."""
    truth, labels = parts()
    classes = ScoredClasses({0: "sky", 1: "wheel"})
    table = Assignment("majority", {4: 0, 1: 1})
    found = score_segments(np.where(truth == 4, 0, truth), labels, classes, table)
    assert found is not None
    assert found["davis"]["j"]["mean"] == pytest.approx([1200 / 1400, 0.5])
    assert list(found["smite"]["iou_per_part"]) == ["0", "1"]


def test_nothing_but_background_has_no_segments() -> None:
    truth, labels = parts()
    assert score_segments(np.full_like(truth, 4), labels, PARTS) is None
    many = ScoredClasses({value: str(value) for value in range(255)})
    with pytest.raises(DataError, match="at most 254 classes can be scored as parts, not 255"):
        score_segments(truth, labels, many)
