"""Tables of methods over a set of videos: pooled scores, differences with intervals, and both as rows for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from pipeline.errors import DataError
from pipeline.scoring.files import with_names
from pipeline.scoring.scores import Pool, pool
from pipeline.tables.bootstrap import ClipCounts, Difference, differences
from pipeline.tables.quoted import Quoted

#: All videos together, beside the single data sets.
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One measured method.

    Attributes:
        key: its short name.
        cells: how the table shows it, one text per leading column.
        videos: name -> record of scores.json, of the scored videos.
        seconds: name -> seconds that the video took; unknown ones are left out.
        memory: name -> the most memory that a stage held meanwhile, in MB; unknown ones are left out.
        quoted: data set of the table -> the paper's figures; `ALL` for those that stand beside any data set.
    """

    key: str
    cells: tuple[str, ...]
    videos: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    quoted: Mapping[str, Quoted] = field(default_factory=dict)

    def quoted_for(self, dataset: str) -> Quoted | None:
        """What the paper reports for a data set; None where it reports nothing."""
        return self.quoted.get(dataset, self.quoted.get(ALL))

    def seconds_per_frame(self, names: Sequence[str]) -> float | None:
        """Mean over the frames of these videos; None unless all of them were timed."""
        if any(name not in self.seconds for name in names):
            return None
        return sum(self.seconds[name] for name in names) / sum(self.videos[name]["frames"] for name in names)

    def peak_memory(self, names: Sequence[str]) -> float | None:
        """The most of these videos; None unless it is known of all of them."""
        return max(self.memory[name] for name in names) if all(name in self.memory for name in names) else None


@dataclass(frozen=True)
class Pair:
    """Two rows whose difference the page shows: scores of `other` minus those of `base`."""

    title: str
    base: str
    other: str


@dataclass(frozen=True)
class Table:
    """Rows over the same videos.

    Attributes:
        name: its file name, e.g. `table2`.
        title: heading of its page.
        notes: lines under the heading: how it was made.
        heads: leading columns, one per cell of a row.
        rows: the measured methods.
        pairs: differences that the page shows; files hold those of all rows.
        datasets: name of each video -> its data set.
        windows: n of VC_n.
        pooled: also (and first) all data sets together.
        per_class: whether the page shows IoU by class; files hold it of all tables.
        more: further scores that are shown: key -> heading.
        quoted: scores of which the paper's figures are shown.
        quoted_only: rows of the paper that nothing measured stands beside: title -> data set of the table -> figures.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    datasets: Mapping[str, str]
    windows: tuple[int, ...]
    pooled: bool
    per_class: bool = False
    quoted_only: Mapping[str, Mapping[str, Quoted]] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    quoted: tuple[str, ...] = ("miou", "vc8", "vc16")

    def __post_init__(self) -> None:
        for row in self.rows:
            if set(row.videos) != set(self.datasets):
                odd = sorted(set(row.videos) ^ set(self.datasets))
                raise DataError(f"{self.name}: row '{row.key}' was not scored on the same videos: {', '.join(odd)}")

    @property
    def metrics(self) -> dict[str, str]:
        """Shown scores: key -> heading."""
        return {"miou": "mIoU", **{f"vc{n}": f"mVC_{n}" for n in self.windows}, **self.more}

    def groups(self) -> dict[str, list[str]]:
        """Data set -> its videos; `ALL` comes first where wanted and where there is more than one."""
        found = {
            name: [video for video, dataset in self.datasets.items() if dataset == name]
            for name in dict.fromkeys(self.datasets.values())
        }
        if not self.pooled:
            return found
        return {ALL: list(self.datasets), **(found if len(found) > 1 else {})}

    def pool(self, row: Row, names: Sequence[str]) -> Pool:
        """Pooled scores of one row over these videos."""
        return pool((with_names(row.videos[name]) for name in names), self.windows)

    def difference(self, base: Row, other: Row, names: Sequence[str]) -> dict[str, Difference]:
        """Scores of `other` minus those of `base` over these videos, with bootstrap intervals."""
        first, second = (
            ClipCounts.of([with_names(row.videos[name]) for name in names], self.windows, tuple(self.more))
            for row in (base, other)
        )
        return differences(first, second)


def score_rows(table: Table) -> list[dict[str, Any]]:
    """One row per data set and method, fractions of 1 but for the quoted percentages."""
    return [
        {
            "dataset": dataset,
            "row": row.key,
            **dict(zip(table.heads, row.cells, strict=True)),
            **{key: pooled[key] for key in (*table.metrics, "pixel_accuracy", "fwiou", "unassigned_share")},
            "seconds_per_frame": row.seconds_per_frame(names),
            "peak_memory_mb": row.peak_memory(names),
            "videos": len(names),
            "scored_frames": sum(row.videos[name]["scored_frames"] for name in names),
            **{f"quoted_{key}": getattr(row.quoted_for(dataset), key, None) for key in table.quoted},
        }
        for dataset, names in table.groups().items()
        for row in table.rows
        for pooled in [table.pool(row, names).scores]
    ]


def class_rows(table: Table) -> list[dict[str, Any]]:
    """One row per data set, method and class that is in the ground truth or predicted; fractions of 1."""
    return [
        {"dataset": dataset, "row": row.key, **entry}
        for dataset, names in table.groups().items()
        for row in table.rows
        for entry in table.pool(row, names).per_class
    ]


def difference_rows(table: Table) -> list[dict[str, Any]]:
    """One row per data set, pair of methods and score: `other` minus `base`, its interval, the quoted points."""
    return [
        {
            "dataset": dataset,
            "base": base.key,
            "other": other.key,
            "score": key,
            "difference": found.value,
            "low": found.interval[0] if found.interval else None,
            "high": found.interval[1] if found.interval else None,
            "quoted_points": quoted_difference(base, other, dataset, key),
        }
        for dataset, names in table.groups().items()
        for base, other in combinations(table.rows, 2)
        for key, found in table.difference(base, other, names).items()
    ]


def quoted_difference(base: Row, other: Row, dataset: str, key: str) -> float | None:
    """The difference of the paper's figures, in percent points; None where it reports none."""
    first, second = (getattr(row.quoted_for(dataset), key, None) for row in (base, other))
    return None if first is None or second is None else round(second - first, 1)


def perfect(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record that labels equal to the ground truth would have got."""
    return {
        **record,
        "confusion": {value: {value: sum(row.values())} for value, row in record["confusion"].items()},
        "vc": {n: {**entry, "sum": float(entry["windows"])} for n, entry in record["vc"].items()},
        "assigned": {"rule": "none", "clusters": None, "unassigned_share": None},
        "davis": None,
        "smite": None,
        "flicker": None,
    }


def plot(table: Table) -> dict[str, Any]:
    """A Vega-Lite chart: a bar per row and score, the paper's figure as a tick."""
    values = [
        {
            "dataset": entry["dataset"],
            "row": " ".join(entry[head] for head in table.heads),
            "score": heading,
            "measured": None if entry[key] is None else 100 * entry[key],
            "quoted": entry.get(f"quoted_{key}"),
        }
        for entry in score_rows(table)
        for key, heading in table.metrics.items()
    ]
    rows = {"field": "row", "type": "nominal", "sort": None, "title": ", ".join(table.heads)}
    marks: list[tuple[str, str, dict[str, Any]]] = [
        ("bar", "measured", {"opacity": 0.7}),
        ("tick", "quoted", {"color": "black", "thickness": 2}),
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": table.title,
        "data": {"values": values},
        "facet": {"row": {"field": "dataset"}, "column": {"field": "score", "sort": None}},
        "spec": {
            "layer": [
                {
                    "mark": {"type": mark, **style},
                    "encoding": {"y": rows, "x": {"field": key, "type": "quantitative", "title": "%"}},
                }
                for mark, key, style in marks
            ]
        },
    }
