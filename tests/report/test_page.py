from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.report.charts import curve
from pipeline.report.page import IndexRow, refuse_foreign_page, write_index
from stages import render
from stages.commands import report
from tests.support.scenes import FRAMES, Scene

EVIL = "<img src=x onerror=alert(1)>"


def data_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = Scene(tmp_path_factory.mktemp("scene"))
    source = scene.video_source()
    evil = source.with_name(f"{EVIL}.mp4")
    source.rename(evil)
    stores = {"clip": scene.clip(evil), "labels": scene.labels_store(), "features": scene.features()}
    return render.run(out=scene.folder / "out", params=render.RenderParams(), **stores) / "report.html"


def test_names_of_files_are_text(page: Path) -> None:
    text = page.read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.mp4" in text
    assert data_of(page)["title"] == f"{EVIL}.mp4"


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    page = write_index(tmp_path / "index.html", "bytes \udcff", [])
    assert "bytes \\udcff" in page.read_text(encoding="utf-8")


def test_nothing_is_loaded(page: Path) -> None:
    """All addresses are data, anchors within the page, or names of standards."""
    text = page.read_text()
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text and "script-src 'sha256-" in text


def test_a_page_of_render_says_what_it_leaves_out(page: Path) -> None:
    """It depends on no clock and no score: of equal stores it has equal bytes."""
    assert "scores, times and warnings, so that this file repeats; `vidseg report` adds them" in page.read_text()


def test_what_the_player_reads(page: Path) -> None:
    data = data_of(page)
    assert (len(data["pictures"]), data["fps"], data["size"]) == (FRAMES, 10.0, [48, 80])
    (run,) = data["runs"]
    assert [(one["id"], one["first"], one["last"]) for one in run["segments"]] == [(0, 0, 4), (3, 0, 4), (7, 1, 2)]
    assert sum(one["share"] for one in run["segments"]) == pytest.approx(1, abs=1e-5)
    assert run["fits"]


def test_index_is_escaped_and_sortable(tmp_path: Path) -> None:
    rows = [IndexRow(EVIL, "a.html", None, {"frames": 3, "mIoU": 0.5}), IndexRow("b", "b.html", None, {"frames": 4})]
    text = write_index(tmp_path / "index.html", "all", rows).read_text()
    assert "<img src=x" not in text and "&lt;img" in text
    assert text.count('<button type="button">') == 3  # video, frames, mIoU
    assert 'data-value="0.5"' in text and 'data-value=""' in text


def test_pages_of_others_are_kept(tmp_path: Path) -> None:
    mine = tmp_path / "index.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(DataError, match="index.html: was not written by vidseg"):
        refuse_foreign_page(mine)
    with pytest.raises(DataError, match="is a folder; give a file for the page"):
        refuse_foreign_page(tmp_path)
    write_index(mine, "all", [])
    refuse_foreign_page(mine)


@pytest.mark.parametrize("values", [[(0, 0.5)], [(0, 0.0), (1, 1.0)], [(30, 0.2), (60, 0.4), (990, 0.3)]])
def test_a_curve_stays_in_its_chart(values: list[tuple[int, float]]) -> None:
    line = curve(values)
    assert all(44 <= x <= 628 and 12 <= y <= 172 for x, y, _, _ in line.dots)
    assert next(text for _, text in line.along) == str(values[0][0])


def test_a_run_s_pages_go_where_the_command_says(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no results of `vidseg run`"):
        report.run_folder(tmp_path)
