"""Scores of videos and of any set of videos, and their form in scores.json.

A record holds counts, not only ratios, so that videos pool exactly: confusion counts add up, a VC score is a
sum of windows divided by their number. Undefined numbers are `None` in a record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.assignment import IDENTITY, Assignment
from pipeline.scoring.davis import VOID, DavisScores, Frames, semi_supervised, unsupervised
from pipeline.scoring.metrics import Confusion, Consistency
from pipeline.scoring.protocol import Official, Protocol, Strict
from pipeline.scoring.reliability import Reliability
from pipeline.scoring.smite import score_parts

#: Name of predictions that are no class, in confusion counts.
NONE = "none"
#: A class of this name is what is left when all parts are taken away; it has no contour of its own.
BACKGROUND = "background"

DAVIS_TASKS = {"semi_supervised": semi_supervised, "unsupervised": unsupervised}


@dataclass(frozen=True)
class ScoredClasses:
    """The classes of a video's ground truth.

    Attributes:
        names: stored value -> name.
        ignore: stored values that are no class.
    """

    names: Mapping[int, str]
    ignore: tuple[int, ...] = ()

    def name(self, value: int) -> str:
        """Name of a stored value; void and values outside the list have one too."""
        return self.names.get(value, "void" if value in self.ignore else f"value {value}")

    @property
    def unassigned(self) -> int:
        """A stored value that is no class: what pixels of clusters without a class get."""
        return 255 if 255 not in self.names else 65535

    def protocol(self, name: str) -> Protocol:
        """The protocol `strict` or `official` for these classes.

        Raises:
            DataError: another name, or no classes.
        """
        if not self.names:
            raise DataError("the ground truth has no classes, only void; give `vidseg ingest` a class list")
        if name == "strict":
            return Strict(tuple(self.names), self.ignore)
        if name == "official":
            return Official(len(self.names))
        raise DataError(f"unknown protocol '{name}'; there are: strict, official")


def score_video(
    truth: Frames,
    labels: Frames,
    positions: Sequence[int],
    classes: ScoredClasses,
    protocol: Protocol,
    assignment: Assignment,
    windows: Sequence[int],
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Score the annotated frames of one video in one pass.

    Args:
        truth, labels: the A annotated frames: stored ground-truth values, and labels before assignment.
        positions: (A,) their places in the clip, ascending; windows of VC reach across no gap.
        windows: window lengths of VC.
        advance: told of each finished frame.

    Returns:
        the record's entries `confusion`, `vc`, `assigned`, `per_frame` and `unknown_predictions` (values that are no
        class, predicted where the ground truth counts).

    Raises:
        DataError: sizes differ or the ground truth holds an unknown value; the message names the frame.
    """
    count = len(protocol.class_values)
    total, consistency = Confusion(count), Consistency(windows)
    cluster_pixels: Counter[int] = Counter()
    unknown: set[int] = set()
    per_frame: list[tuple[int, float, float]] = []
    for index, position in enumerate(positions):
        if index and position != positions[index - 1] + 1:
            consistency.restart()
        clusters = labels[index]
        prediction = assignment.apply(clusters)
        try:
            frame = protocol.decode(truth[index], prediction)
            consistency.update(frame)
        except DataError as error:
            raise DataError(f"frame {position}: {error}") from error
        table = Confusion.of(frame, count)
        total += table
        scores = table.scores()
        per_frame.append((position, scores.miou, scores.pixel_accuracy))
        if assignment.table is not None:
            pixels = np.bincount(clusters[frame.truth < count])
            cluster_pixels.update({int(cluster): int(pixels[cluster]) for cluster in np.flatnonzero(pixels)})
        elif table.counts[:-1, -1].any():
            wrong = (frame.prediction == count) & (frame.truth < count)
            unknown |= set(np.unique(prediction[wrong]).tolist())
        advance(1)
    return {
        "confusion": _confusion_record(total, protocol.class_values),
        "vc": {
            str(n): {
                "sum": math.fsum(window.ratio for window in found if window.area),
                "windows": sum(window.area > 0 for window in found),
                "empty": sum(window.area == 0 for window in found),
            }
            for n, found in consistency.windows.items()
        },
        "assigned": _assignment_record(assignment, cluster_pixels, classes),
        "unknown_predictions": sorted(unknown),
        "per_frame": {
            "frame": [row[0] for row in per_frame],
            "miou": [defined(row[1]) for row in per_frame],
            "pixel_accuracy": [defined(row[2]) for row in per_frame],
        },
    }


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

    In J and F void is left out; in SMITE's own protocol it counts as wrong wherever something is predicted.

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
    strict = _Masked(numbered, _Mapped(labels, numbers.take))
    held = set().union(*(np.unique(numbered[f]).tolist() for f in range(len(truth))))
    if not held - {0, VOID, VOID + 1}:
        return None
    found = score_parts(numbered, strict, values)
    official = score_parts(numbered, _Mapped(labels, numbers.take), values) if VOID in held else found
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


@dataclass(frozen=True)
class Pool:
    """Scores over a set of videos.

    Attributes:
        scores: `miou`, `pixel_accuracy`, `class_accuracy`, `fwiou`, `vc<n>` for each window length,
            `unassigned_share`, `j_mean`, `f_mean`, `jf_mean`, `smite_miou` and `smite_f` (SMITE's protocol, means over
            the videos), `flicker`, `aurc` and `calibration_error` (of the videos whose labels have a confidence);
            None = undefined.
        per_class: one row per class: value, name, iou, and shares of ground-truth pixels.
    """

    scores: dict[str, float | None]
    per_class: list[dict[str, Any]]


def pool(videos: Iterable[tuple[Mapping[str, Any], Mapping[int, str]]], windows: Sequence[int]) -> Pool:
    """Pool the pixels, the windows and the objects of all videos.

    Args:
        videos: (record, class names by stored value) of each; classes are the same if value and name are.
        windows: window lengths.
    """
    counts: Counter[tuple[tuple[int, str], tuple[int, str] | None]] = Counter()
    keys: dict[tuple[int, str], None] = {}
    ratios = dict.fromkeys(_ratio_names(windows), (0.0, 0.0))
    clusters = unassigned = 0
    sure = []
    for record, names in videos:
        sure += [record["confidence"]] if record.get("confidence") else []
        keys |= {(value, name): None for value, name in names.items()}
        for truth, row in record["confusion"].items():
            for predicted, pixels in row.items():
                column = None if predicted == NONE else (int(predicted), names[int(predicted)])
                counts[(int(truth), names[int(truth)]), column] += pixels
        for name, (total, number) in ratio_parts(record, windows).items():
            ratios[name] = (math.fsum((ratios[name][0], total)), ratios[name][1] + number)
        for entry in record["assigned"]["clusters"] or []:
            clusters += entry["pixels"]
            unassigned += entry["pixels"] if entry["value"] is None else 0
    order = sorted(keys)
    index: dict[tuple[int, str] | None, int] = {key: place for place, key in enumerate(order)}
    index[None] = len(order)
    confusion = Confusion(len(order))
    for (row_key, column_key), pixels in counts.items():
        confusion.counts[index[row_key], index[column_key]] = pixels
    scores = confusion.scores()
    pixels_per_class = confusion.counts[:-1].sum(axis=1)
    means = {name: total / number if number else None for name, (total, number) in ratios.items()}
    j, f = means["j_mean"], means["f_mean"]
    confidence = Reliability.of_records(sure)
    return Pool(
        {
            "miou": defined(scores.miou),
            "pixel_accuracy": defined(scores.pixel_accuracy),
            "class_accuracy": defined(scores.class_accuracy),
            "fwiou": defined(scores.fwiou) if confusion.scored_pixels else None,
            **{f"vc{n}": means[f"vc{n}"] for n in windows},
            "unassigned_share": unassigned / clusters if clusters else None,
            "j_mean": j,
            "f_mean": f,
            "jf_mean": None if j is None or f is None else (j + f) / 2,
            **{name: means[name] for name in OF_APPLIED},
            "aurc": None if confidence is None else confidence.aurc,
            "calibration_error": None if confidence is None else confidence.calibration_error,
        },
        [
            {
                "value": value,
                "class": name,
                "iou": defined(scores.iou[place]),
                "share": int(pixels_per_class[place]) / max(1, confusion.scored_pixels),
            }
            for place, (value, name) in enumerate(order)
            if not math.isnan(scores.iou[place])
        ],
    )


#: Scores that only labels of segments that were shown have.
OF_APPLIED = ("smite_miou", "smite_f", "flicker")


def ratio_parts(record: Mapping[str, Any], windows: Sequence[int]) -> dict[str, tuple[float, float]]:
    """What a video adds to the scores that are a sum divided by a number: score -> (sum, number).

    Both are 0 where the video says nothing about a score.
    """
    objects, smite, flicker = (record.get(name) or {} for name in ("davis", "smite", "flicker"))
    means = {name: objects.get(name, {}).get("mean", []) for name in ("j", "f")}
    consistency = {n: record["vc"][str(n)] for n in windows}
    return {
        **{f"vc{n}": (found["sum"], found["windows"]) for n, found in consistency.items()},
        **{f"{name}_mean": (math.fsum(values), len(values)) for name, values in means.items()},
        **{f"smite_{name}": (smite.get(name, 0.0), 1 if smite else 0) for name in ("miou", "f")},
        "flicker": (flicker.get("changed", 0), flicker.get("points", 0)),
    }


def _ratio_names(windows: Sequence[int]) -> tuple[str, ...]:
    return (*(f"vc{n}" for n in windows), "j_mean", "f_mean", *OF_APPLIED)


def defined(value: float) -> float | None:
    """A number for JSON: None instead of NaN."""
    return None if math.isnan(value) else float(value)


class _Mapped:
    """Frames, each passed through a function when it is read."""

    def __init__(self, frames: Frames, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._frames, self._function = frames, function

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        return self._function(self._frames[frame])


class _Masked:
    """Predictions that are background wherever the truth is void."""

    def __init__(self, truth: Frames, labels: Frames) -> None:
        self._truth, self._labels = truth, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, frame: int, /) -> np.ndarray:
        return np.where(self._truth[frame] == VOID, 0, self._labels[frame])


def _confusion_record(confusion: Confusion, values: Sequence[int]) -> dict[str, dict[str, int]]:
    """Counts by stored value of truth and prediction; cells of 0 and ignored ground truth are left out."""
    columns = [*map(str, values), NONE]
    return {
        str(values[row]): {columns[column]: int(counts[column]) for column in np.flatnonzero(counts)}
        for row, counts in enumerate(confusion.counts[:-1])
        if counts.any()
    }


def _assignment_record(assignment: Assignment, pixels: Counter[int], classes: ScoredClasses) -> dict[str, Any]:
    if assignment.table is None:
        return {"rule": assignment.rule, "clusters": None, "unassigned_share": None}
    table = assignment.table
    entries = [
        {
            "cluster": cluster,
            "value": table.get(cluster),
            "class": classes.name(table[cluster]) if cluster in table else None,
            "pixels": pixels[cluster],
        }
        for cluster in sorted({*table, *pixels})
    ]
    total = sum(pixels.values())
    lost = sum(number for cluster, number in pixels.items() if cluster not in table)
    return {"rule": assignment.rule, "clusters": entries, "unassigned_share": lost / total if total else None}
