"""Annotated images to refs.zarr."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.fewshot.reference_store import read_stored_references
from pipeline.fewshot.references import read_references
from pipeline.fewshot.segments import IGNORE
from pipeline.media.pictures import write_image, write_label_png
from pipeline.stores.schemas import REFS
from pipeline.stores.store import Store, open_store
from stages import references
from tests.support.commands import error_line, tree_bytes, vidseg

#: Names and sizes (H, W) of the images: none holds the others.
SIZES = {"a": (6, 8), "b": (4, 10), "c10": (3, 3)}
CLASSES = [{"id": 0, "name": "background"}, {"id": 4, "name": "wheel"}, {"id": 300, "name": "window"}]


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_image(tmp_path / "cars/images" / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        (tmp_path / "cars/labels").mkdir(exist_ok=True)
        np.save(tmp_path / "cars/labels" / f"{name}.npy", rng.choice([0, 4, 300, IGNORE], size))
    (tmp_path / "cars/classes.json").write_text(json.dumps({"classes": CLASSES}))
    return tmp_path / "cars"


def stored(path: Path) -> Store:
    return open_store(path, REFS)


def test_what_is_read_back_is_what_was_drawn(cars: Path, tmp_path: Path) -> None:
    store = stored(references.run(cars, tmp_path / "out"))
    made, drawn = read_stored_references(store), read_references(cars)
    assert (made.names, made.table) == (drawn.names, drawn.table)
    for name in ("images", "labels"):
        for one, other in zip(getattr(made, name), getattr(drawn, name), strict=True):
            np.testing.assert_array_equal(one, other)
    assert store.array("labels").shape == (3, 6, 10)
    assert (store.read("labels")[2, 3:] == IGNORE).all()
    assert [entry["background"] for entry in store.attrs["segments"]] == [True, False, False]


def test_equal_references_are_one_wherever_they_lie(cars: Path, tmp_path: Path) -> None:
    path = references.run(cars, tmp_path / "out")
    before = path.stat().st_mtime_ns
    assert references.run(cars, tmp_path / "out").stat().st_mtime_ns == before
    other = references.run(cars.rename(tmp_path / "elsewhere"), tmp_path / "other")
    assert tree_bytes(other) == tree_bytes(path)


@pytest.mark.parametrize("changed", ["image", "labels", "classes", "one less"])
def test_whatever_changes_makes_other_references(cars: Path, tmp_path: Path, changed: str) -> None:
    mark = stored(references.run(cars, tmp_path / "out")).fingerprint
    if changed == "image":
        write_image(cars / "images/a.png", np.zeros((6, 8, 3), np.uint8))
    elif changed == "labels":
        np.save(cars / "labels/a.npy", np.full((6, 8), 4))
    elif changed == "classes":
        (cars / "classes.json").write_text(json.dumps({"classes": [*CLASSES, {"id": 7, "name": "door"}]}))
    else:
        (cars / "images/a.png").unlink()
        (cars / "labels/a.npy").unlink()
    assert stored(references.run(cars, tmp_path / "out")).fingerprint != mark


def test_another_class_list(cars: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mine.json"
    listed.write_text(json.dumps({"classes": [*CLASSES[:2], {"id": 300, "name": "glass"}]}))
    vidseg("references", cars, tmp_path / "out", "--classes", listed)
    assert read_stored_references(stored(tmp_path / "out/refs.zarr")).table.names == ("background", "wheel", "glass")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none", "out"], 3, "none: no images/ here; expected images/NAME.jpg with labels/NAME.png"),
        (["CARS", "out", "--classes", "none.json"], 3, "none.json: no such class list"),
        (["CARS"], 2, "give REFERENCES and OUT_DIR, or --item KEY"),
    ],
)
def test_bad_input(cars: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    given = [argument.replace("CARS", str(cars)) for argument in arguments]
    result = vidseg("references", *given, cwd=tmp_path, check=code)
    assert message in error_line(result)
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_replaced(cars: Path, tmp_path: Path) -> None:
    write_label_png(tmp_path / "out/refs.zarr/mine.png", np.zeros((2, 2), np.uint8))
    line = error_line(vidseg("references", cars, tmp_path / "out", check=3))
    assert "refs.zarr: was not written by vidseg" in line


VIDEOS = """\
items: {}
concepts:
  cars: {references: cars, classes: inputs/none}
  glass: {references: cars, classes: mine.json}
applied: {}
"""


def test_results_lie_under_the_key_of_the_concept(cars: Path, tmp_path: Path) -> None:
    (tmp_path / "videos.yaml").write_text(VIDEOS)
    (tmp_path / "mine.json").write_text(json.dumps({"classes": [*CLASSES[:2], {"id": 300, "name": "glass"}]}))
    for key, name in (("cars", "window"), ("glass", "glass")):
        vidseg("references", "--item", f"references@{key}", cwd=tmp_path)
        assert read_stored_references(stored(tmp_path / f"data/references/{key}/refs.zarr")).table.names[-1] == name


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("dogs", VIDEOS, "videos.yaml: no concept 'dogs'; there are: cars, glass"),
        ("cars", VIDEOS.replace("references: cars,", ""), "concept 'cars': `references` must be text, not None"),
        ("cars", VIDEOS.replace("{references: cars,", "{references: cars, class: x,"), "unknown entry 'class'"),
        ("cars", VIDEOS.replace("concepts:", "concept:"), "is of an earlier version, without `concepts`"),
    ],
)
def test_a_concept_must_be_whole(cars: Path, tmp_path: Path, key: str, content: str, message: str) -> None:
    (tmp_path / "videos.yaml").write_text(content)
    assert message in error_line(vidseg("references", "--item", key, cwd=tmp_path, check=2))
