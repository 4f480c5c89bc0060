"""`vidseg export`: the segments of a run, for other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.naming.names import Named, Names, NamesFile, write_names
from stages.common.layout import DATA, Place
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.scenes import Scene, label_maps

PLAIN = ("--set", "render.extras=false", "--set", "render.report=false")


def labels(folder: Path) -> np.ndarray:
    with np.load(folder / "labels.npz") as file:
        return np.asarray(file["labels"])


def test_named_labels_are_exported_where_there_are_any(folder: Path, tmp_path: Path) -> None:
    vidseg("export", folder, "--format", "npz", "-o", tmp_path / "a")
    np.testing.assert_array_equal(labels(tmp_path / "a"), label_maps())
    vidseg("name", folder, "--merge", "0,7=ground", *PLAIN)
    vidseg("export", folder, "-f", "npz", "-o", tmp_path / "b")
    np.testing.assert_array_equal(labels(tmp_path / "b"), np.where(label_maps() == 7, 0, label_maps()))
    vidseg("export", folder, "-f", "npz", "-o", tmp_path / "c", "--labels")
    assert tree_bytes(tmp_path / "c") == tree_bytes(tmp_path / "a")


def test_names_of_labels_that_are_no_more_are_not_exported(folder: Path, tmp_path: Path) -> None:
    vidseg("name", folder, "--name", "3=car", *PLAIN)
    Scene(folder / "artifacts", mark="again").labels_store()
    message = error_line(vidseg("export", folder, "-f", "npz", "-o", tmp_path / "new", check=3))
    assert "named.zarr: was made of other labels than those beside it; run `vidseg name" in message
    assert not (tmp_path / "new").exists()


def test_items_of_one_and_of_several_videos(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stores = made / "artifacts"
    for key, video in (("one", None), ("two", "a"), ("two", "b")):
        shutil.copytree(stores / "clip.zarr", Place(DATA / "ingest" / key, video) / "clip.zarr")
        shutil.copytree(stores / "source", Place(DATA / "ingest" / key, video) / "source")
        shutil.copytree(stores / "labels.zarr", Place(DATA / "upsample" / key, video) / "labels.zarr")
    write_names(Path("mine.json"), NamesFile("scene", Names({3: Named("car")}, merged={7: 0})))
    items = {"one": [{"path": "x", "names": "mine.json"}], "two": [{"path": "a"}, {"path": "b"}]}
    Path("videos.yaml").write_text(json.dumps({"items": items, "concepts": {}, "applied": {}}))
    vidseg("export", "one", "-f", "npz", "-o", "one-out")
    np.testing.assert_array_equal(labels(Path("one-out")), np.where(label_maps() == 7, 0, label_maps()))
    vidseg("export", "one", "-f", "npz", "-o", "found", "--labels")
    np.testing.assert_array_equal(labels(Path("found")), label_maps())
    vidseg("export", "two", "-f", "davis", "-o", "two-out")
    assert {str(path.parent) for path in Path("two-out").rglob("00000.png")} == {
        f"two-out/{video}/Annotations/{video}" for video in "ab"
    }
    message = error_line(vidseg("export", "three", "-f", "npz", "-o", "new", check=2))
    assert "three: neither a folder nor a key in videos.yaml; there are: one, two" in message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-f", "coco"], 2, "--format coco: there is no such format; there are: coco-panoptic"),
        (["-f", "alpha"], 2, "--format alpha: say what stays visible with --segment"),
        (
            ["-f", "alpha", "--segment", "dog"],
            2,
            "--segment dog: this video has no such segment; there are: 0 (label 0)",
        ),
        (["-f", "npz", "--components"], 2, "--components is for --format coco-instances, not npz"),
    ],
)
def test_what_makes_no_sense_writes_nothing(
    folder: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in error_line(vidseg("export", folder, "-o", tmp_path / "new", *arguments, check=code))
    assert not (tmp_path / "new").exists()


def test_a_folder_without_results(tmp_path: Path) -> None:
    message = error_line(vidseg("export", tmp_path, "-f", "npz", "-o", tmp_path / "new", check=3))
    assert "holds no results of `vidseg run`" in message
