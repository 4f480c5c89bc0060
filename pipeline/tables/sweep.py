"""A sweep over parameters: which setting scores best, and which are within noise of it; as a page, rows and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.errors import DataError
from pipeline.tables.bootstrap import RESAMPLES, SEED, Difference
from pipeline.tables.pages import DASH, about, digits_of, markdown, number, percent, signed
from pipeline.tables.table import ALL, Row, Table, score_rows

BEST, WITHIN_NOISE = "best", "within noise"


@dataclass(frozen=True)
class Sweep:
    """Settings over the same videos, and the score that ranks them.

    Attributes:
        table: a row per setting; its leading columns are the parameters, a cell is the value of one.
        metric: key of the score, one of `Table.metrics`; more is better.
        configured: key of the row that has the values of the configuration; None = no row has.
    """

    table: Table
    metric: str
    configured: str | None = None

    @property
    def heading(self) -> str:
        """What the score is called."""
        return self.table.metrics[self.metric]

    @property
    def videos(self) -> list[str]:
        """Their names; the ranking is over all of them together."""
        return list(self.table.datasets)

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Row -> its score over all videos, a fraction of 1; None = undefined."""
        return {row.key: self.table.pool(row, self.videos).scores[self.metric] for row in self.table.rows}

    @cached_property
    def best(self) -> Row:
        """The row with the highest score, the first of equals.

        Raises:
            DataError: the score is undefined for every row.
        """
        defined = [row for row in self.table.rows if self.scores[row.key] is not None]
        if not defined:
            raise DataError(
                f"{self.heading} is undefined for these videos, whatever the setting; take another --metric"
            )
        return max(defined, key=lambda row: self.scores[row.key] or 0.0)

    @cached_property
    def behind(self) -> dict[str, Difference]:
        """Row -> its score minus that of the best, with a paired bootstrap interval over the videos."""
        return {
            row.key: self.table.difference(self.best, row, self.videos)[self.metric]
            for row in self.table.rows
            if row is not self.best
        }

    @property
    def near(self) -> list[Row]:
        """The rows within noise of the best: their interval reaches zero."""
        return [row for row in self.table.rows if self.standing(row) == WITHIN_NOISE]

    def standing(self, row: Row) -> str:
        """`BEST`, `WITHIN_NOISE` or nothing."""
        if row.key == self.best.key:
            return BEST
        return WITHIN_NOISE if self.behind[row.key].unclear else ""

    def without_effect(self) -> list[str]:
        """Parameters that change no score of any video, whatever the others are."""
        return [name for place, name in enumerate(self.table.heads) if self._is_idle(place)]

    def _is_idle(self, place: int) -> bool:
        others: dict[tuple[str, ...], list[Row]] = {}
        for row in self.table.rows:
            others.setdefault((*row.cells[:place], *row.cells[place + 1 :]), []).append(row)
        return all(_counted(row) == _counted(rows[0]) for rows in others.values() for row in rows)


def _counted(row: Row) -> list[tuple[Any, Any]]:
    return [(video["confusion"], video["vc"]) for video in row.videos.values()]


def page(sweep: Sweep) -> str:
    """The sweep as Markdown, in percent: notes, a line per setting, and in words which is best."""
    table, groups = sweep.table, sweep.table.groups()
    parts = [name for name in groups if name != ALL] if len(groups) > 1 else []
    timed, memory = (
        any(known(row) is not None for row in table.rows)
        for known in (lambda row: row.seconds_per_frame(sweep.videos), lambda row: row.peak_memory(sweep.videos))
    )
    heads = [
        *table.heads,
        *table.metrics.values(),
        *(f"{sweep.heading} {name}" for name in parts),
        *(["s/frame"] if timed else []),
        *(["peak MB"] if memory else []),
        f"{sweep.heading} behind the best",
        "",
    ]
    lines = []
    for row in table.rows:
        pooled = table.pool(row, sweep.videos).scores
        marks = [sweep.standing(row), "configured" if row.key == sweep.configured else ""]
        by_part = (table.pool(row, groups[name]).scores[sweep.metric] for name in parts)
        lines.append([
            *row.cells,
            *(percent(pooled[key], digits_of(key)) for key in table.metrics),
            *(percent(score, digits_of(sweep.metric)) for score in by_part),
            *([number(row.seconds_per_frame(sweep.videos))] if timed else []),
            *([number(row.peak_memory(sweep.videos), 0)] if memory else []),
            DASH if row is sweep.best else signed(sweep.behind[row.key], digits_of(sweep.metric)),
            ", ".join(mark for mark in marks if mark),
        ])  # fmt: skip
    return "\n\n".join([
        f"## {table.title}",
        "\n".join(f"* {note}" for note in table.notes),
        f"### {about(table, ALL, sweep.videos)}",
        markdown(heads, lines),
        verdict(sweep),
    ]) + "\n"  # fmt: skip


def verdict(sweep: Sweep) -> str:
    """Which setting is best, how many are within noise of it, and what changes nothing, in words."""
    values = ", ".join(f"{name} = {cell}" for name, cell in zip(sweep.table.heads, sweep.best.cells, strict=True))
    text = f"Best: {values} ({percent(sweep.scores[sweep.best.key])} {sweep.heading})."
    if len(sweep.videos) > 1:
        text += (
            f" Within noise of it: {len(sweep.near)} of {len(sweep.table.rows) - 1} others, whose 95 % interval "
            f"of the difference ({RESAMPLES} draws of the {len(sweep.videos)} videos, the same for both, seed {SEED}) "
            "reaches zero."
        )
    else:
        text += " One video gives no intervals: it cannot say what is noise."
    for name in sweep.without_effect():
        text += f" {name} changes no score here."
    return text


def setting_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per data set and setting with all scores, as `score_rows`; those of all videos with their standing."""
    table, rows = sweep.table, {row.key: row for row in sweep.table.rows}
    whole = next(iter(table.groups()))
    found = []
    for entry in score_rows(table):
        row, is_whole = rows[entry["row"]], entry["dataset"] == whole
        behind = sweep.behind.get(row.key) if is_whole else None
        low, high = (behind.interval if behind else None) or (None, None)
        found.append({
            **{key: value for key, value in entry.items() if not key.startswith("quoted_")},
            f"{sweep.metric}_behind": behind.value if behind else None,
            "low": low,
            "high": high,
            "standing": sweep.standing(row) if is_whole else None,
        })  # fmt: skip
    return found


def chart(sweep: Sweep) -> dict[str, Any]:
    """A Vega-Lite chart of the score, in percent: a line for one parameter, a heat map for two.

    More parameters make one heat map per combination of the third and further ones.
    """
    heads = sweep.table.heads
    fields = [f"p{place}" for place in range(len(heads))]  # a name with a dot is a path to Vega
    best = sweep.scores[sweep.best.key] or 0.0
    values = []
    for row in sweep.table.rows:
        behind, score = sweep.behind.get(row.key), sweep.scores[row.key]
        low, high = (behind.interval if behind else None) or (None, None)
        values.append({
            **dict(zip(fields, row.cells, strict=True)),
            "panel": panel_title(heads, row.cells),
            "score": None if score is None else 100 * score,
            "low": None if low is None else 100 * (best + low),
            "high": None if high is None else 100 * (best + high),
            "standing": sweep.standing(row) or "clearly behind",
        })  # fmt: skip
    colour = {"field": "score", "type": "quantitative", "title": f"{sweep.heading} in %"}
    height = {**colour, "scale": {"zero": False}}
    across = {"field": fields[0], "type": "ordinal", "sort": None, "title": heads[0], "axis": {"labelAngle": 0}}
    standing = {"field": "standing", "type": "nominal", "title": None}
    drawn: dict[str, Any]
    if len(heads) == 1:
        drawn = {
            "encoding": {"x": across},
            "layer": [
                {"mark": "rule", "encoding": {"y": {**height, "field": "low"}, "y2": {"field": "high"}}},
                {"mark": "line", "encoding": {"y": height}},
                {"mark": {"type": "point", "filled": True, "size": 80}, "encoding": {"y": height, "color": standing}},
            ],
        }
    else:
        down = {"field": fields[1], "type": "ordinal", "sort": None, "title": heads[1]}
        shown = [100 * score for score in sweep.scores.values() if score is not None]
        bright = {"test": f"datum.score > {(min(shown) + 2 * max(shown)) / 3}", "value": "black"}
        text = {
            "text": {"field": "score", "type": "quantitative", "format": ".1f"},
            "color": {"condition": bright, "value": "white"},
        }
        drawn = {
            "encoding": {"x": across, "y": down},
            "layer": [
                {"mark": "rect", "encoding": {"color": {**colour, "scale": {"scheme": "viridis", "zero": False}}}},
                {
                    "transform": [{"filter": f"datum.standing == '{BEST}' || datum.standing == '{WITHIN_NOISE}'"}],
                    "mark": {"type": "rect", "fillOpacity": 0, "strokeWidth": 3},
                    "encoding": {
                        "stroke": {**standing, "scale": {"domain": [BEST, WITHIN_NOISE], "range": ["red", "black"]}}
                    },
                },
                {"mark": "text", "encoding": text},
            ],
        }
    about_it = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "title": sweep.table.title}
    data = {"data": {"values": values}}
    size = {"width": {"step": 60}, "height": 240 if len(heads) == 1 else {"step": 40}}
    if len(heads) < 3:
        return {**about_it, **data, **size, **drawn}
    panels = list(dict.fromkeys(value["panel"] for value in values))
    facet = {"field": "panel", "type": "nominal", "sort": panels, "title": None}
    return {**about_it, **data, "facet": facet, "columns": 3, "spec": {**size, **drawn}}


def panel_title(heads: Sequence[str], cells: Sequence[str]) -> str:
    """The third and further parameters of a setting, in words: what a heat map of the first two is of."""
    return ", ".join(f"{name} = {cell}" for name, cell in list(zip(heads, cells, strict=True))[2:])
