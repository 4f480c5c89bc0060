"""J and F of the classes of a video as objects or parts: the entries `davis` and `smite` of its record."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.assignment import IDENTITY, Assignment
from pipeline.scoring.davis import VOID, DavisScores, Frames, semi_supervised, unsupervised
from pipeline.scoring.scores import ScoredClasses, defined
from pipeline.scoring.smite import score_parts

#: A class of this name is what is left when all parts are taken away; it has no contour of its own.
BACKGROUND = "background"

DAVIS_TASKS = {"semi_supervised": semi_supervised, "unsupervised": unsupervised}


def object_records(
    task: str | None, truth: Frames, labels: Frames, classes: ScoredClasses, assignment: Assignment
) -> dict[str, Any]:
    """The entry `davis`, and `smite` for the task `parts`; `davis` is None where nothing is scored so.

    Args:
        task: one of `DAVIS_TASKS`, `parts`, or None; the others: as `score_video` takes them.
    """
    if task == "parts":
        return score_segments(truth, labels, classes, assignment) or {"davis": None}
    return {"davis": score_objects(task, truth, labels, classes, assignment) if task else None}


def score_objects(
    task: str, truth: Frames, labels: Frames, classes: ScoredClasses, assignment: Assignment = IDENTITY
) -> dict[str, Any]:
    """The record of DAVIS J and F: each class that the truth holds is an object, 0 and ignored labels are background.

    Classes are numbered without gaps for it: DAVIS takes an id that no frame holds for an object, and an empty
    prediction of it for a perfect one.

    Args:
        task: `semi_supervised` or `unsupervised`.
        truth, labels: as in `score_video`; a cluster without a class counts as background here.
    """
    background = [0, *classes.names, *classes.ignore]
    if assignment.table is not None:
        labels = _Mapped(labels, assignment.apply)
        background.append(assignment.unassigned)
    held = set().union(*(np.flatnonzero(np.bincount(truth[f].ravel())).tolist() for f in range(len(truth))))
    found = sorted(held & set(classes.names) - {0})
    objects = np.maximum(np.arange(65536), len(found) + 1).astype(np.uint16)  # no class: above every object
    objects[background] = 0
    objects[found] = np.arange(1, len(found) + 1)
    in_truth = objects.copy()
    in_truth[[value for value in classes.ignore if value]] = VOID
    return davis_record(task, DAVIS_TASKS[task](_Mapped(truth, in_truth.take), _Mapped(labels, objects.take)))


def score_segments(
    truth: Frames, labels: Frames, classes: ScoredClasses, assignment: Assignment = IDENTITY
) -> dict[str, Any] | None:
    """J and F of every class, and SMITE's scores, over all frames; None where the truth holds no class to be outlined.

    In J and F void is left out; in SMITE's own protocol it counts as wrong wherever something is predicted, but for the
    pixels that a person leaves out (`ScoredClasses.left_out`).

    Args:
        truth, labels: as in `score_video`; a cluster without a class is none of the classes.

    Returns:
        the entries `davis` (task `parts`: one result per class, the background aside) and `smite`: `miou`, `j`, `f`
        and `iou_per_part` by stored value, fractions of 1, a class that no frame holds as 0.

    Raises:
        DataError: more classes than parts can be numbered.
    """
    parts = sorted(classes.names, key=lambda value: (classes.names[value].casefold() != BACKGROUND, value))
    background = bool(parts) and classes.names[parts[0]].casefold() == BACKGROUND
    if not background:
        parts = [-1, *parts]  # number 0 is the background's, whether there is one or not
    if len(parts) > VOID:
        raise DataError(f"at most {VOID - 1} classes can be scored as parts, not {len(parts) - 1}")
    numbers = np.full(65536, VOID + 1, np.uint16)  # no class: no part's number
    numbers[parts[1:]] = range(1, len(parts))
    if background:
        numbers[parts[0]] = 0
    in_truth = numbers.copy()
    in_truth[list(classes.ignore)] = VOID
    numbered = _Mapped(truth, in_truth.take)
    if assignment.table is not None:
        labels = _Mapped(labels, assignment.apply)
    values = [str(value) for value in parts]
    predicted: Frames = _Mapped(labels, numbers.take)
    strict = _Masked(numbered, VOID, predicted, 0)
    held = set().union(*(np.unique(numbered[f]).tolist() for f in range(len(truth))))
    if not held - {0, VOID, VOID + 1}:
        return None
    found = score_parts(numbered, strict, values)
    if classes.left_out is not None:  # what a person leaves out is no part in either, and nothing is predicted there
        predicted = _Masked(truth, classes.left_out, predicted, VOID + 1)
    official = score_parts(numbered, predicted, values) if VOID in held else found
    shares = {value: share / 100 for value, share in official.iou_per_part.items() if value != "-1"}
    return {
        "davis": davis_record("parts", DavisScores(found.region.T, found.contour.T)),
        "smite": {
            "miou": math.fsum(shares.values()) / len(shares),
            "j": official.jaccard,
            "f": official.f_measure,
            "iou_per_part": shares,
        },
    }


def davis_record(task: str, scores: DavisScores) -> dict[str, Any]:
    """J and F of one video as a record: mean, recall and decay per result, and their means."""
    measures = {
        name: {"mean": list(s.mean), "recall": list(s.recall), "decay": list(s.decay)}
        for name, s in (("j", scores.j), ("f", scores.f))
    }
    return {
        "task": task,
        **measures,
        "j_mean": defined(scores.j.overall),
        "f_mean": defined(scores.f.overall),
        "jf_mean": defined(scores.jf_mean),
    }


class _Mapped:
    """Frames, each passed through a function when it is read."""

    def __init__(self, frames: Frames, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._frames, self._function = frames, function

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        return self._function(self._frames[frame])


class _Masked:
    """Predictions that are another value wherever the truth has a given one."""

    def __init__(self, truth: Frames, at: int, labels: Frames, instead: int) -> None:
        self._truth, self._at, self._labels, self._instead = truth, at, labels, instead

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        return np.where(self._truth[frame] == self._at, self._instead, self._labels[frame])
