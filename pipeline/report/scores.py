"""What a page shows of a video's scores: numbers, classes, a curve over the frames, confusions, the worst frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.media.resize import resize_nearest
from pipeline.rendering.drawing import overlay, resized, width_within
from pipeline.rendering.palette import overlay_colours
from pipeline.report.encoding import picture
from pipeline.scoring.scores import NONE
from pipeline.stores.store import Store

#: Frames that are shown beside their truth, and the longer side of a picture.
WORST, _SIDE = 5, 400
#: How much of the picture the colours of classes hide.
_OPACITY = 0.6
#: Ground truth that is ignored, and predictions that are no class.
_NO_CLASS = (96, 96, 96)

#: Titles of the numbers, in the order in which they are shown; windows of VC come after the first.
_TITLES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
    "fwiou": "frequency weighted IoU",
    "j_mean": "J",
    "f_mean": "F",
    "jf_mean": "J&F",
    "unassigned_share": "pixels without a class",
    "aurc": "AURC",
}


@dataclass(frozen=True)
class ScoredClass:
    """A class: its colour (`#rrggbb`), IoU, and share of the ground truth's pixels, both 0..1."""

    name: str
    colour: str
    iou: float
    share: float


@dataclass(frozen=True)
class Confusions:
    """What became of each class of the ground truth.

    Attributes:
        rows, columns: names of the classes that the truth holds, and of those that were predicted.
        shares: (rows, columns), of the row's pixels, 0..1.
    """

    rows: list[str]
    columns: list[str]
    shares: list[list[float]]


@dataclass(frozen=True)
class Sureness:
    """What confidence is worth.

    Attributes:
        error, aurc: share of wrong pixels, and the area under `risk`, both 0..1.
        risk: (percent of the pixels, the surest; share of them that is wrong, 0..1).
        bins: (confidence, share that is right, share of all pixels) of pixels of similar confidence, all 0..1.
    """

    error: float
    aurc: float
    risk: list[tuple[int, float]]
    bins: list[tuple[float, float, float]]

    @property
    def top(self) -> float:
        """The least of a few round numbers that no risk exceeds."""
        most = max(risk for _, risk in self.risk)
        return next(top for top in (0.02, 0.04, 0.1, 0.2, 0.4, 1.0) if most <= top)


@dataclass(frozen=True)
class WorstFrame:
    """A frame beside its truth: data URIs of the picture, the truth, what was found, and where they differ."""

    name: str
    position: int
    miou: float
    picture: str
    truth: str
    found: str
    wrong: str


@dataclass(frozen=True)
class ScoreSheet:
    """The scores of one video.

    Attributes:
        rule: how they were made, in words.
        numbers: title and value of each that is defined.
        classes: by falling share.
        curve: (position, mIoU) of the scored frames.
        sureness: None where labels do not say how sure they are.
    """

    rule: str
    numbers: list[tuple[str, float]]
    classes: list[ScoredClass]
    curve: list[tuple[int, float]]
    confusions: Confusions
    worst: list[WorstFrame]
    sureness: Sureness | None = None


def score_sheet(record: Mapping[str, Any], protocol: str, clip: Store, labels: Store, truth: Store) -> ScoreSheet:
    """The sheet of a video's record in scores.json, which has ground truth.

    Args:
        record: entry of `videos`.
        protocol: of the scores.
        clip, labels, truth: the video's stores.
    """
    from pipeline.scoring.files import with_names
    from pipeline.scoring.scores import pool

    colours = _class_colours(truth)
    windows = [int(length) for length in record["vc"]]
    per_class = pool([with_names(record)], windows).per_class
    curve = [
        (position, miou)
        for position, miou in zip(record["per_frame"]["frame"], record["per_frame"]["miou"], strict=True)
        if miou is not None
    ]
    worst = sorted(curve, key=lambda point: (point[1], point[0]))[:WORST]
    draw = _Beside(clip, labels, truth, record, colours)
    return ScoreSheet(
        f"protocol {protocol}, segments to classes: {record['assigned']['rule']}",
        _numbers(record["scores"]),
        sorted(
            (ScoredClass(row["class"], _hex(colours[row["value"]]), row["iou"], row["share"]) for row in per_class),
            key=lambda row: -row.share,
        ),
        curve,
        _confusions(record),
        [draw.frame(position, miou) for position, miou in worst],
        _sureness(record),
    )


def _numbers(scores: Mapping[str, float | None]) -> list[tuple[str, float]]:
    windows = {key: f"VC over {key[2:]} frames" for key in scores if key.startswith("vc")}
    titles = {"miou": _TITLES["miou"], **windows, **_TITLES}
    return [(title, value) for key, title in titles.items() if (value := scores.get(key)) is not None]


def _sureness(record: Mapping[str, Any]) -> Sureness | None:
    found = record.get("confidence")
    if found is None:
        return None
    total = sum(one["pixels"] for one in found["bins"])
    return Sureness(
        found["error"],
        found["aurc"],
        [(round(100 * point["coverage"]), point["risk"]) for point in found["risk_coverage"]],
        [(one["confidence"], one["accuracy"], one["pixels"] / total) for one in found["bins"]],
    )


def _confusions(record: Mapping[str, Any]) -> Confusions:
    names = {str(entry["value"]): str(entry["name"]) for entry in record["classes"]}
    table = {value: record["confusion"][value] for value in names if value in record["confusion"]}
    found = {column for row in table.values() for column in row}
    columns = [value for value in (*names, NONE) if value in found]
    totals = {value: max(1, sum(row.values())) for value, row in table.items()}
    return Confusions(
        [names[value] for value in table],
        [names.get(value, "no class") for value in columns],
        [[row.get(column, 0) / totals[value] for column in columns] for value, row in table.items()],
    )


def _class_colours(truth: Store) -> dict[int, tuple[int, int, int]]:
    """Colours of the classes by stored value: those of the palette that people can tell apart."""
    palette = overlay_colours()
    return {
        int(entry["id"]): tuple(palette[place % len(palette)].tolist())
        for place, entry in enumerate(truth.attrs["classes"])
    }


@dataclass(frozen=True)
class _Beside:
    """Draws frames beside their truth."""

    clip: Store
    labels: Store
    truth: Store
    record: Mapping[str, Any]
    colours: Mapping[int, tuple[int, int, int]]

    def frame(self, position: int, miou: float) -> WorstFrame:
        index = [int(place) for place in self.truth.attrs["indices"]].index(position)
        truth = self.truth.read("ground_truth", index, index + 1)[0]
        found = self._classes(self.labels.read("labels", position, position + 1)[0])
        width = min(truth.shape[1], width_within(truth.shape, _SIDE))
        size = (max(1, round(truth.shape[0] * width / truth.shape[1])), width)
        truth, found = resize_nearest(truth, size), resize_nearest(found, size)
        image = self.clip.read("frames", position, position + 1)[0]
        image = resized(image, width) if image.shape[:2] == size else cv2.resize(image, size[::-1])
        table = self._table()
        known = np.isin(truth, list(self.colours))
        wrong = np.where((known & (truth != found))[..., None], np.array([213, 94, 0], np.uint8), image // 2)
        return WorstFrame(
            str(self.clip.attrs["names"][position]),
            position,
            miou,
            picture(image),
            picture(overlay(image, truth, table, _OPACITY)),
            picture(overlay(image, found, table, _OPACITY)),
            picture(wrong),
        )

    def _classes(self, labels: np.ndarray) -> np.ndarray:
        """Labels as stored values of classes; 65535 = no class."""
        clusters: Sequence[Mapping[str, Any]] | None = self.record["assigned"]["clusters"]
        if clusters is None:
            return labels
        table = np.full(65536, 65535, np.uint16)
        for entry in clusters:
            if entry["value"] is not None:
                table[entry["cluster"]] = entry["value"]
        return table.take(labels)

    def _table(self) -> np.ndarray:
        table = np.full((65536, 3), _NO_CLASS, np.uint8)
        for value, colour in self.colours.items():
            table[value] = colour
        return table


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
