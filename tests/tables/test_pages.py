"""Tables of measured rows: pooling, differences, Markdown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.scoring.files import with_names
from pipeline.scoring.scores import pool
from pipeline.tables import pages
from pipeline.tables.bootstrap import Difference
from pipeline.tables.quoted import TABLE_1, Quoted
from pipeline.tables.table import ALL, Pair, Row, Table, class_rows, difference_rows, perfect, plot, score_rows
from tests.support.records import WINDOWS, noisy_video

DATASETS = {"a": "camvid-val", "b": "camvid-val", "c": "mine"}


def row(key: str, share: float, **more: Any) -> Row:
    videos = {name: noisy_video(seed, share) for seed, name in enumerate(DATASETS)}
    return Row(key, (key.upper(),), videos, **more)


def table(**changes: Any) -> Table:
    quoted = {"camvid-val": Quoted(20.6, 92.3, None)}
    rows = (row("good", 0.9, seconds={"a": 3.0, "b": 6.0}, quoted=quoted), row("bad", 0.4))
    pairs = (Pair("good → bad", "good", "bad"),)
    plain = Table("t", "Some | table", ("made so",), ("method",), rows, pairs, DATASETS, WINDOWS, False)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("pooled", "datasets", "expected"),
    [
        (False, DATASETS, {"camvid-val": ["a", "b"], "mine": ["c"]}),
        (True, DATASETS, {ALL: ["a", "b", "c"], "camvid-val": ["a", "b"], "mine": ["c"]}),
        (True, dict.fromkeys(DATASETS, "mine"), {ALL: ["a", "b", "c"]}),
    ],
)
def test_groups(pooled: bool, datasets: dict[str, str], expected: dict[str, list[str]]) -> None:
    assert table(pooled=pooled, datasets=datasets).groups() == expected


def test_scores_are_pooled_by_data_set() -> None:
    made = table()
    rows = score_rows(made)
    assert [(entry["dataset"], entry["row"]) for entry in rows] == [
        ("camvid-val", "good"), ("camvid-val", "bad"), ("mine", "good"), ("mine", "bad"),
    ]  # fmt: skip
    videos = [with_names(made.rows[0].videos[name]) for name in "ab"]
    expected = pool(videos, WINDOWS).scores
    assert rows[0]["miou"] == expected["miou"] and rows[0]["vc2"] == expected["vc2"]
    assert (rows[0]["videos"], rows[0]["scored_frames"]) == (2, 12)
    assert rows[0]["seconds_per_frame"] == 9 / 12
    assert rows[2]["seconds_per_frame"] is None  # video c was not timed
    assert (rows[0]["quoted_miou"], rows[0]["quoted_vc16"], rows[2]["quoted_miou"]) == (20.6, None, None)


def test_differences_of_all_rows() -> None:
    rows = difference_rows(table())
    assert {(entry["base"], entry["other"]) for entry in rows} == {("good", "bad")}
    assert {entry["score"] for entry in rows} == {"miou", "vc2", "vc3"}
    camvid, mine = (next(e for e in rows if e["dataset"] == name) for name in ("camvid-val", "mine"))
    assert camvid["low"] <= camvid["difference"] <= camvid["high"] < 0
    assert mine["low"] is None and mine["high"] is None  # one video


def test_iou_by_class_of_all_rows() -> None:
    made = table()
    rows = [entry for entry in class_rows(made) if (entry["dataset"], entry["row"]) == ("camvid-val", "bad")]
    expected = pool([with_names(made.rows[1].videos[name]) for name in "ab"], WINDOWS).per_class
    assert [(entry["class"], entry["iou"]) for entry in rows] == [(entry["class"], entry["iou"]) for entry in expected]
    assert [entry["class"] for entry in rows] == ["sky", "road", "car"]


def test_the_page_shows_scores_differences_and_quoted_figures() -> None:
    text = pages.page(table(quoted_only={"Other (supervised)": {"camvid-val": Quoted(76.5)}}))
    camvid, mine = text.split("### ")[1:]
    assert text.startswith("## Some | table\n\n* made so\n")
    assert camvid.startswith("camvid-val: 2 videos, 12 frames, 3 classes, 6x5\n")
    assert mine.startswith("mine: 1 video, 6 frames")
    assert "| method | mIoU | mVC_2 | mVC_3 | s/frame | *quoted from the paper: mIoU / mVC_8 / mVC_16* |" in camvid
    assert "| 0.8 | 20.6 / 92.3 / - |" in camvid
    assert "| *Other (supervised)* | - | - | - | - | 76.5 / - / - |" in camvid
    assert "quoted" not in mine
    assert "over the 2 videos (10000 resamples, seed 0)" in camvid
    assert "one video gives no interval" in mine
    assert "IoU by class" not in text


def test_the_page_shows_classes_that_the_ground_truth_holds() -> None:
    made = table(per_class=True)
    text = pages.page(made).split("### ")[1]
    heads, _, *lines = text.split("IoU by class:\n\n")[1].strip().splitlines()
    assert heads == "| class | share of pixels | good | bad |"
    assert [line.split(" | ")[0] for line in lines] == ["| sky", "| road", "| car"]
    assert sum(float(line.split(" | ")[1]) for line in lines) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize(
    ("quoted", "expected"),
    [((50.0, 40.0), "| -10.0 | yes |"), ((40.0, 50.0), "| +10.0 | no |"), ((40.0, None), "| - | - |")],
)
def test_signs_are_compared_with_the_paper(quoted: tuple[float, float | None], expected: str) -> None:
    rows = tuple(
        row(key, share, quoted={ALL: Quoted(figure)})
        for key, share, figure in zip(("good", "bad"), (0.95, 0.3), quoted, strict=True)
    )
    line = next(line for line in pages.page(table(rows=rows)).splitlines() if line.startswith("| good → bad"))
    assert expected in line


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Difference(0.0213, (-0.003, 0.0441)), "+2.1 [-0.3, +4.4]"),
        (Difference(-0.1, None), "-10.0"),
        (Difference(None, None), "-"),
    ],
)
def test_differences_as_text(found: Difference, text: str) -> None:
    assert pages.signed(found) == text


def test_cells_cannot_break_a_table() -> None:
    assert pages.markdown(["a|b"], [["c"]]) == "| a\\|b |\n| --- |\n| c |"


def test_perfect_labels_score_one() -> None:
    record = noisy_video(0, 0.2)
    scores = pool([with_names(perfect(record))], WINDOWS).scores
    assert {scores[key] for key in ("miou", "vc2", "vc3", "pixel_accuracy", "fwiou")} == {1.0}


def test_rows_over_different_videos_are_refused() -> None:
    odd = row("bad", 0.4)
    with pytest.raises(DataError, match="t: row 'bad' was not scored on the same videos: c"):
        table(rows=(row("good", 0.9), replace(odd, videos={name: odd.videos[name] for name in "ab"})))


def test_the_chart_holds_all_scores_and_is_json() -> None:
    chart = json.loads(json.dumps(plot(table()), allow_nan=False))
    values = chart["data"]["values"]
    assert len(values) == 2 * 2 * 3
    assert values[0]["row"] == "GOOD" and values[0]["quoted"] == 20.6
    assert chart["$schema"].endswith("vega-lite/v5.json")


@pytest.mark.parametrize(
    ("dataset", "sd", "svd"), [("vspw", 17.2, 13.5), ("cityscapes", 15.8, 25.2), ("camvid", 13.7, 9.3)]
)
def test_quoted_figures_agree_with_the_papers_text(dataset: str, sd: float, svd: float) -> None:
    """Section 5.3 prints the differences of Table 1."""
    for backbone, printed in (("SD", sd), ("SVD", svd)):
        ours, emerdiff = (TABLE_1[f"{name} ({backbone})"][dataset].miou for name in ("Ours", "EmerDiff"))
        assert ours is not None and emerdiff is not None
        assert ours - emerdiff == pytest.approx(printed)
