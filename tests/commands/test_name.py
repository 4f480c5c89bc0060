"""`vidseg name`: what a person calls the segments of a video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.naming.segments import Segment, segments_of
from pipeline.naming.stores import NAMED
from pipeline.stores.store import open_store
from stages.commands.name import named_again
from stages.common.results import Results
from tests.support.commands import error_line, tree_bytes, vidseg
from tests.support.scenes import FRAMES, Scene, label_maps

PLAIN = ("--set", "render.extras=false", "--set", "render.report=false")


def listed(folder: Path) -> dict[int, str | None]:
    return {entry["id"]: entry["name"] for entry in json.loads((folder / "labels.json").read_text())["labels"]}


def shown(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / "labels" / f"{number:05d}.png")) for number in range(FRAMES)])


def test_everything_that_shows_labels_has_the_names(folder: Path) -> None:
    labels = tree_bytes(folder / "artifacts/labels.zarr")
    options = ("--name", "3=the square", "--merge", "0,7=ground", "--color", "3=#ff00ff")
    said = vidseg("name", folder, *options, *PLAIN).stderr
    assert "named: 0 ground, 3 the square; merged: 7 into 0; without a name: 1, 2, 4" in said
    assert said.splitlines()[-2:] == [
        f"look at it: {folder}/overlay.mp4", f"next: vidseg export {folder} --format coco-instances -o {folder}-coco"
    ]  # fmt: skip
    assert tree_bytes(folder / "artifacts/labels.zarr") == labels
    expected = np.where(label_maps() == 7, 0, label_maps())
    store = open_store(folder / "artifacts/named.zarr", NAMED)
    np.testing.assert_array_equal(store.read("labels"), expected)
    np.testing.assert_array_equal(shown(folder), expected)
    assert segments_of(store) == {0: Segment(0, "ground"), 3: Segment(3, "the square", (255, 0, 255))}
    assert listed(folder) == {0: "ground", 3: "the square"}
    colours = {e["id"]: e["colour"] for e in json.loads((folder / "labels.json").read_text())["labels"]}
    assert colours[3] == [255, 0, 255]


def test_dropped_segments_are_left_out_of_pictures_and_lists(folder: Path) -> None:
    vidseg("name", folder, "--drop", "0", *PLAIN)
    np.testing.assert_array_equal(shown(folder), np.where(label_maps() == 0, 255, label_maps()))
    assert listed(folder) == {3: None, 7: None}
    assert json.loads((folder / "labels.json").read_text())["void"] == 255


def test_what_was_said_before_stays_until_a_file_takes_its_place(folder: Path, tmp_path: Path) -> None:
    vidseg("name", folder, "--name", "3=car", "--merge", "0,7", *PLAIN)
    first = (folder / "names.json").read_bytes()
    vidseg("name", folder, "--name", "0=ground", "--name", "3=bus", *PLAIN)
    assert listed(folder) == {0: "ground", 3: "bus"}
    (tmp_path / "saved.json").write_bytes(first)
    vidseg("name", folder, "--names", tmp_path / "saved.json", *PLAIN)
    assert listed(folder) == {0: None, 3: "car"}
    assert (folder / "names.json").read_bytes() == first


def test_naming_again_gives_the_same_bytes(folder: Path) -> None:
    vidseg("name", folder, "--name", "3=car", *PLAIN)
    before = tree_bytes(folder)
    vidseg("name", folder, *PLAIN)
    assert tree_bytes(folder) == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--name", "3"], 2, "--name must be like 3=road, not '3'"),
        (["--name", "road=3"], 2, "--name must be like 3=road, not 'road'"),
        (["--name", "3="], 2, "a name must be text that is not empty"),
        (["--name", "3=a", "--name", "3=b"], 2, "label 3 gets two names: 'a' and 'b'"),
        (["--name", "3=a", "--merge", "3,7=b"], 2, "label 3 gets two names: 'b' and 'a'"),
        (["--name", "7=a", "--merge", "3,7=b"], 2, "labels 3 and 7 are merged, but named 'b' and 'a'"),
        (["--name", "77=a"], 3, "there is no label 77 to name, merge or drop; there are: 0, 1, 2"),
        (["--merge", "3"], 2, "merging takes two different labels or more"),
        (["--merge", "3,7", "--merge", "7,3"], 2, "labels are merged in a circle: 7 into 3 into 7"),
        (["--drop", "a"], 2, "--drop must be like 9 or 9,11, not 'a'"),
        (["--drop", "3", "--name", "3=a"], 2, "label 3 is named and dropped"),
        (["--color", "3=red"], 2, "a colour must be like #80b1d3, not 'red'"),
        (["--names", "nowhere.json"], 3, "nowhere.json: no such file of names"),
        (["--names", "."], 3, ".: is a folder; give the file of names, like names.json"),
        ([], 2, "nothing to name: give --names FILE, or --name 3=road"),
    ],
)
def test_what_makes_no_sense_changes_nothing(folder: Path, options: list[str], code: int, message: str) -> None:
    before = tree_bytes(folder)
    assert message in error_line(vidseg("name", folder, *options, check=code))
    assert tree_bytes(folder) == before


def test_names_of_other_segments_change_nothing(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "saved.json"
    names.write_text('{"schema": "names", "schema_version": 1, "fits": "another", "names": {"3": {"name": "car"}}}')
    before = tree_bytes(folder)
    message = error_line(vidseg("name", folder, "--names", names, check=3))
    assert f"{names}: was made for other segments (another) than these (scene)" in message
    assert tree_bytes(folder) == before


def test_after_another_run_names_hold_where_the_segments_are_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(folder)
    assert named_again(results, None) == results.labels
    vidseg("name", folder, "--drop", "3", *PLAIN)
    turned = label_maps()[:, ::-1]  # as if upsampled in another way
    Scene(folder / "artifacts", mark="again").labels_store(labels=turned)
    assert named_again(results, None) == results.named
    np.testing.assert_array_equal(open_store(results.named, NAMED).read("labels"), np.where(turned == 3, 255, turned))
    Scene(folder / "artifacts", mark="third").labels_store(origin="another")
    capsys.readouterr()
    assert named_again(results, None) == results.labels
    assert "names.json: was made for other segments than this run found, and is not used" in capsys.readouterr().err
    assert not results.named.exists()
    results.names.write_text("{")
    assert named_again(results, None) == results.labels
    assert "names.json: is no file of names that can be read, and is not used" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "content"), [("names.json", "[]"), ("artifacts/named.zarr", None)])
def test_what_others_wrote_is_not_replaced(folder: Path, tmp_path: Path, place: str, content: str | None) -> None:
    if content is None:
        (folder / place).mkdir()
        (folder / place / "notes.txt").write_text("mine")
    else:
        (folder / place).write_text(content)
    names = tmp_path / "saved.json"
    names.write_text('{"schema": "names", "schema_version": 1, "fits": "scene"}')
    before = tree_bytes(folder)
    assert "was not written by vidseg" in error_line(vidseg("name", folder, "--names", names, *PLAIN, check=3))
    assert tree_bytes(folder) == before


@pytest.mark.parametrize(
    ("inside", "given", "message"),
    [
        ((), "here", "here: holds no results of `vidseg run` (no artifacts/clip.zarr); give the folder that followed"),
        (("b", "a"), "here", "(no artifacts/clip.zarr); give one of those in it: here/a, here/b"),
        (tuple("dcba"), "here", "give one of those in it: here/a, here/b, here/c, ..."),
        ((), "nowhere", "nowhere: no such folder; give the one that followed `vidseg run ... -o`"),
    ],
)
def test_a_folder_without_results(tmp_path: Path, inside: tuple[str, ...], given: str, message: str) -> None:
    (tmp_path / "here").mkdir()
    for name in inside:
        (tmp_path / "here" / name / "artifacts/labels.zarr").mkdir(parents=True)
    assert message in error_line(vidseg("name", given, "--name", "3=car", cwd=tmp_path, check=3))
