"""`vidseg report`: pages of runs and items, an index, two runs side by side."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.parameters import EvaluateParams
from pipeline.report.thinning import Thinning
from pipeline.stores.schemas import TRUTH, ArraySpec
from pipeline.stores.writer import StoreWriter
from stages import evaluate
from stages.common.layout import DATA, Place
from tests.support.commands import error_line, vidseg
from tests.support.scenes import FRAMES, SIZE, Scene, label_maps


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def write_truth(folder: Path) -> Path:
    """truth.zarr of frames 0, 2 and 4: the scene's labels, but for a corner."""
    truth = label_maps()[::2]
    truth[:, :6, :6] = 7
    specs = {"ground_truth": ArraySpec(truth.shape, "uint8")}
    classes = [{"id": i, "name": n, "color": [i, i, i]} for i, n in ((0, "ground"), (3, "box & co"), (7, "strip"))]
    attrs = {"indices": [0, 2, 4], "names": [f"{i:05d}" for i in range(FRAMES)], "classes": classes, "ignore": [255]}
    store = StoreWriter(folder / "truth.zarr", folder / "tmp", TRUTH, "truth", specs, params={}, attrs=attrs)
    store.write("ground_truth", 0, truth)
    return store.commit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like one of `vidseg run`, scored."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    scene = Scene(folder / "artifacts")
    scene.folder.mkdir(parents=True)
    scene.clip(scene.video_source())
    scene.labels_store(confidence=np.where(label_maps() == 7, 64, 255).astype(np.uint8))
    scene.features()
    scene.coarse()
    truth = write_truth(scene.folder)
    evaluate.run(scene.folder / "labels.zarr", truth, folder, EvaluateParams(), name="shots")
    return folder


def test_the_page_of_a_run_has_its_scores(run: Path) -> None:
    assert vidseg("report", run).stdout.split() == [str(run / "report.html")]
    text = (run / "report.html").read_text()
    assert "box &amp; co" in text
    scores = json.loads((run / "scores.json").read_text())["videos"][0]["scores"]
    assert f"<b>{scores['miou']:.3f}</b>" in text
    for shown in ("IoU by class", "What each class was taken for", "The 3 worst frames", "mIoU by frame",
                  "What confidence is worth", "Surer than"):  # fmt: skip
        assert shown in text
    assert text.count("Show it in the player") == 3


def test_a_long_clip_is_thinned_and_the_page_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.footage._plan", lambda *_: Thinning(FRAMES, 3, 640))
    vidseg("report", run)
    text = (run / "report.html").read_text()
    assert "the player shows every 3rd frame: 2 of 5" in text
    assert (data_of(run / "report.html")["positions"], data_of(run / "report.html")["step"]) == ([0, 3], 3)


def test_two_runs_side_by_side_in_step(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "second"
    shutil.copytree(run, other)
    swapped = np.select([label_maps() == 3, label_maps() == 7], [0, 1], 2).astype(np.uint8)
    shutil.rmtree(other / "artifacts" / "labels.zarr")
    Scene(other / "artifacts").labels_store(labels=swapped)
    page = tmp_path / "both.html"
    assert vidseg("report", "--compare", run, other, "-o", page).stdout.strip() == str(page)
    first, second = data_of(page)["runs"]
    assert (first["title"], second["title"]) == ("A: first", "B: second")
    assert first["fits"] is None and second["fits"] is None
    colours = {one["id"]: one["color"] for one in first["segments"]}
    keys = {one["id"]: (one["key"], one["color"]) for one in second["segments"]}
    assert keys == {2: (0, colours[0]), 0: (3, colours[3]), 1: (7, colours[7])}


def test_a_folder_of_runs_has_an_index(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b b"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "notes").mkdir()
    printed = vidseg("report", tmp_path).stdout.split("\n")
    assert printed[:-1] == [str(tmp_path / name) for name in ("a/report.html", "b b/report.html", "index.html")]
    text = (tmp_path / "index.html").read_text()
    assert 'href="b%20b/report.html"' in text and "mIoU" in text


def test_without_a_project_the_index_of_runs_lies_beside_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "c"):
        shutil.copytree(run, tmp_path / name)
    assert Path(vidseg("report", "runs/a", "runs/b").stdout.split("\n")[-2]).resolve() == tmp_path / "runs/index.html"
    line = error_line(vidseg("report", "runs/a", "c", check=2))
    assert "these runs lie in several folders; -o DIR says where the index of them goes" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "runs"]


def test_items_of_a_project(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"clip": "ingest", "truth": "ingest", "labels": "upsample", "features": "extract", "coarse": "segment"}
    for key, video in (("one", None), ("two", "a"), ("two", "b")):
        for name, stage in places.items():
            shutil.copytree(run / "artifacts" / f"{name}.zarr", Place(DATA / stage / key, video) / f"{name}.zarr")
        shutil.copytree(run / "artifacts" / "source", Place(DATA / "ingest" / key, video) / "source")
    Path("videos.yaml").write_text(
        "items: {one: [{path: x}], two: [{path: x}, {path: y}]}\nconcepts: {}\napplied: {}\n"
    )
    for key in ("one", "two"):
        evaluate.run_item(key, None, None)
    assert vidseg("report").stdout.strip() == str(Path("data/report/index.html"))
    assert data_of(Path("data/report/one.html"))["title"] == "one"
    assert "this file repeats" not in Path("data/report/one.html").read_text()
    assert data_of(Path("data/report/two/b.html"))["title"] == "two/b"
    index = Path("data/report/index.html").read_text()
    assert re.findall(r'<a href="([^"#]+)">', index) == ["one.html", "two/a.html", "two/b.html"]
    line = error_line(vidseg("report", "three", check=2))
    assert "three: neither a folder nor a key in videos.yaml; there are: one, two" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "nowhere: no such folder, and there is no videos.yaml here"),
        ([], 2, "give the folder of a run, or run in the folder of a project"),
        (["--compare", "RUN"], 2, "--compare takes two runs of one video each"),
        (["empty"], 3, "empty: holds no results of `vidseg run`"),
        (["--compare", "RUN", "SHORT"], 3, "are of different frames; --compare takes two runs on the same ones"),
        (["RUN", "-o", "all.html"], 2, "-o all.html: must be a folder, for the pages of items and the index"),
        (["FOREIGN"], 3, "report.html: was not written by vidseg"),
        (["DAMAGED"], 3, "run.json: not valid JSON; run `vidseg run` again, or delete it"),
    ],
)
def test_bad_input(run: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    if "SHORT" in arguments:
        scene = Scene(tmp_path / "SHORT" / "artifacts", labels=label_maps(2, SIZE))
        scene.folder.mkdir(parents=True)
        scene.clip(scene.video_source(), [0, 1])
        scene.labels_store()
    if "FOREIGN" in arguments:
        shutil.copytree(run, tmp_path / "FOREIGN")
        (tmp_path / "FOREIGN" / "report.html").write_text("mine")
    if "DAMAGED" in arguments:
        shutil.copytree(run, tmp_path / "DAMAGED")
        (tmp_path / "DAMAGED" / "run.json").write_text('{"schema"')
    words = [str(run) if word == "RUN" else word for word in arguments]
    assert message in error_line(vidseg("report", *words, cwd=tmp_path, check=code))
    assert not (tmp_path / "compare.html").exists()
