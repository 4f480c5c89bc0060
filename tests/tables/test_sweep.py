"""Sweeps: which setting is best, what is within noise of it, and how both are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.tables.sweep import BEST, WITHIN_NOISE, Sweep, chart, page, panel_title, setting_rows
from pipeline.tables.table import Row, Table
from tests.support.records import WINDOWS, noisy_video

VIDEOS = 6


def sweep(
    settings: dict[tuple[str, ...], list[float]], heads: tuple[str, ...] = ("segment.clusters",), **more: Any
) -> Sweep:
    """Settings by their cells, each with the share of right pixels in every video."""
    rows = tuple(
        Row(" ".join(cells), cells, {f"v{n}": noisy_video(n, share) for n, share in enumerate(shares)})
        for cells, shares in settings.items()
    )
    datasets = {name: "a" if name < "v3" else "b" for name in rows[0].videos}
    return Sweep(Table("s", "Sweep", ("made so",), heads, rows, (), datasets, WINDOWS, True), "miou", **more)


GOOD, BAD = [0.95] * VIDEOS, [0.5] * VIDEOS
#: Better on half of the videos, worse on the others.
MIXED = [0.99, 0.9] * (VIDEOS // 2)


def test_the_best_and_what_is_within_noise_of_it() -> None:
    made = sweep({("4",): BAD, ("8",): MIXED, ("12",): GOOD})
    ranked = {row.cells[0]: made.standing(row) for row in made.table.rows}
    assert ranked["4"] == "" and sorted([ranked["8"], ranked["12"]]) == [BEST, WITHIN_NOISE]
    assert all(behind.value is not None and behind.value <= 0 for behind in made.behind.values())


def test_of_equals_the_first_is_best_and_the_others_are_within_noise() -> None:
    made = sweep({("4",): GOOD, ("8",): GOOD})
    assert made.best.cells == ("4",) and [row.cells for row in made.near] == [("8",)]
    assert made.without_effect() == ["segment.clusters"]
    assert "segment.clusters changes no score here." in page(made)


def test_only_a_parameter_that_never_changes_a_score_is_said_to_do_nothing() -> None:
    heads = ("segment.clusters", "segment.neighbors")
    idle = {(k, n): GOOD if k == "4" else BAD for k in ("4", "8") for n in ("1", "3")}
    assert sweep(idle, heads).without_effect() == ["segment.neighbors"]
    assert sweep({**idle, ("8", "3"): MIXED}, heads).without_effect() == []


def test_one_video_tells_no_noise() -> None:
    made = sweep({("4",): [0.9], ("8",): [0.95]})
    assert made.near == []
    assert "One video gives no intervals" in page(made)


def test_a_score_that_no_setting_has_is_refused() -> None:
    made = sweep({("4",): GOOD})
    for video in made.table.rows[0].videos.values():
        video["vc"]["3"] = {"sum": 0.0, "windows": 0, "empty": 0}  # type: ignore[index]
    with pytest.raises(DataError, match="mVC_3 is undefined for these videos"):
        _ = Sweep(made.table, "vc3").best


def test_the_page() -> None:
    text = page(sweep({("4",): BAD, ("12",): GOOD}, configured="4"))
    lines = text.splitlines()
    assert lines[:3] == ["## Sweep", "", "* made so"]
    assert "### All data sets: 6 videos, 36 frames, 3 classes, 6x5" in text
    (head,) = [line for line in lines if line.startswith("| segment.clusters")]
    assert head == ("| segment.clusters | mIoU | mVC_2 | mVC_3 | mIoU a | mIoU b | mIoU behind the best |  |")
    rows = [line for line in lines if line.startswith(("| 4 ", "| 12 "))]
    assert rows[0].endswith("| configured |") and rows[1].endswith("| - | best |")
    assert "Best: segment.clusters = 12 (" in lines[-1] and "Within noise of it: 0 of 1 others" in lines[-1]


def test_seconds_and_memory_are_shown_where_they_are_known() -> None:
    made = sweep({("4",): BAD, ("12",): GOOD})
    known = {name: 3.0 for name in made.videos}
    timed = replace(made.table, rows=(replace(made.table.rows[0], seconds=known, memory=known), made.table.rows[1]))
    lines = page(replace(made, table=timed)).splitlines()
    assert any("| s/frame | peak MB | mIoU behind the best |" in line for line in lines)
    assert any("| 0.5 | 3 |" in line for line in lines) and any("| - | - |" in line for line in lines)


def test_rows_for_files() -> None:
    rows = setting_rows(sweep({("4",): BAD, ("12",): GOOD}))
    assert [(row["dataset"], row["row"], row["standing"]) for row in rows] == [
        ("all", "4", ""), ("all", "12", BEST), ("a", "4", None), ("a", "12", None), ("b", "4", None), ("b", "12", None),
    ]  # fmt: skip
    assert rows[0]["miou_behind"] == pytest.approx(rows[0]["miou"] - rows[1]["miou"])
    assert rows[0]["low"] <= rows[0]["miou_behind"] <= rows[0]["high"] < 0
    assert not [key for key in rows[0] if key.startswith("quoted")]


@pytest.mark.parametrize(
    ("parameters", "marks", "facets"), [(1, ["rule", "line"], False), (2, ["rect"], False), (3, ["rect"], True)]
)
def test_charts_by_number_of_parameters(parameters: int, marks: list[str], facets: bool) -> None:
    heads = tuple(f"segment.p{n}" for n in range(parameters))
    made = chart(sweep({("1",) * parameters: BAD, ("2",) * parameters: GOOD}, heads))
    inner = made["spec"] if facets else made
    assert ("facet" in made) is facets
    assert [layer["mark"] for layer in inner["layer"]][: len(marks)] == marks
    assert inner["encoding"]["x"]["title"] == "segment.p0"
    values = made["data"]["values"]
    assert values[1]["standing"] == BEST and values[0]["score"] < values[0]["high"] < values[1]["score"]


def test_panels_are_named_by_the_further_parameters() -> None:
    heads = ("segment.clusters", "segment.neighbors", "segment.vote")
    assert panel_title(heads, ("4", "1", "none")) == "segment.vote = none"
    assert panel_title(heads[:2], ("4", "1")) == ""
