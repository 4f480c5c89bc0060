"""Scores of videos and of any set of videos, and their form in scores.json.

A record holds counts, not only ratios, so that videos pool exactly: confusion counts add up, a VC score is a
sum of windows divided by their number. Undefined numbers are `None` in a record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.scoring.assignment import Assignment
from pipeline.scoring.davis import Frames
from pipeline.scoring.metrics import Confusion, Consistency
from pipeline.scoring.protocol import Official, Protocol, Strict
from pipeline.scoring.reliability import Reliability, SureFrames

#: Name of predictions that are no class, in confusion counts.
NONE = "none"


@dataclass(frozen=True)
class ScoredClasses:
    """The classes of a video's ground truth.

    Attributes:
        names: stored value -> name.
        ignore: stored values that are no class.
        left_out: the one of them that pixels have which are not scored because their labels are unsure; None = none.
    """

    names: Mapping[int, str]
    ignore: tuple[int, ...] = ()
    left_out: int | None = None

    def name(self, value: int) -> str:
        """Name of a stored value; void and values outside the list have one too."""
        return self.names.get(value, "void" if value in self.ignore else f"value {value}")

    @property
    def unassigned(self) -> int:
        """A stored value that is no class: what pixels of clusters without a class get."""
        return 255 if 255 not in self.names else 65535

    @property
    def beyond_official(self) -> list[int]:
        """The stored values that the protocol `official` leaves out, where the ids have gaps."""
        values, count = sorted(self.names), len(self.names)
        whole = values in (list(range(count)), list(range(1, count + 1)))
        return [] if whole else [value for value in values if value >= count]

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
            return Official(len(self.names), self.left_out)
        raise DataError(f"unknown protocol '{name}'; there are: strict, official")


def sure_truth(
    truth: Frames, confidence: Frames | None, below: float, classes: ScoredClasses
) -> tuple[Frames, ScoredClasses]:
    """Ground truth in which unsure pixels are void, and the classes with that void; both as they are where none is.

    Args:
        confidence, below: as `SureFrames` takes them; None or 0 leaves no pixel out.
    """
    if confidence is None or not below:
        return truth, classes
    void = next(value for value in (65535, 65534) if value not in {*classes.names, *classes.ignore})
    known = replace(classes, ignore=(*classes.ignore, void), left_out=void)
    return SureFrames(truth, confidence, below, void), known


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


def share_of_none(confusion: Mapping[str, Mapping[str, int]]) -> float:
    """Share of the scored pixels whose prediction is no class, of a record's `confusion` that holds pixels."""
    rows = confusion.values()
    return sum(row.get(NONE, 0) for row in rows) / sum(sum(row.values()) for row in rows)


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
