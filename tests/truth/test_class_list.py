from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.truth.class_list import ClassList, LabelClass, read_classes, write_classes

CLASSES = ClassList((LabelClass(0, "sky", (1, 2, 3)), LabelClass(7, "road", (4, 5, 6))), (255,))
STORED = ClassList(CLASSES.classes, (255,), values={3: 0, 4: 7, 5: 7, 0: 255})


def class_file(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


SKY = {"id": 3, "name": "sky", "color": [70, 130, 180]}


@pytest.mark.parametrize(
    ("content", "classes", "ignore"),
    [
        ({"classes": [SKY], "ignore": [0, 255]}, (LabelClass(3, "sky", (70, 130, 180)),), (0, 255)),
        (
            {"classes": [SKY], "void_id": 11, "void_color": [0, 0, 0]},
            (LabelClass(3, "sky", (70, 130, 180)),),
            (11,),
        ),
        ({"classes": [SKY], "void_id": None}, (LabelClass(3, "sky", (70, 130, 180)),), ()),
        (
            {"classes": ["sky", "road"]},
            (LabelClass(0, "sky", (0, 0, 0)), LabelClass(1, "road", (128, 0, 0))),
            (255,),
        ),
        ({"classes": [{"id": 255, "name": "dog"}]}, (LabelClass(255, "dog", (224, 224, 192)),), ()),
    ],
)
def test_class_lists(tmp_path: Path, content: Any, classes: tuple[LabelClass, ...], ignore: tuple[int, ...]) -> None:
    listed = read_classes(class_file(tmp_path / "classes.json", content))
    assert (listed.classes, listed.ignore) == (classes, ignore)


@pytest.mark.parametrize("listed", [CLASSES, STORED, ClassList(CLASSES.classes, (9,), void_color=(7, 7, 7))])
def test_a_class_list_that_was_written_is_read_again(tmp_path: Path, listed: ClassList) -> None:
    assert read_classes(write_classes(tmp_path / "classes.json", listed)) == listed


def test_one_of_several_lists(tmp_path: Path) -> None:
    path = class_file(tmp_path / "all.json", {"dog": {"classes": ["dog"]}, "cow": {"classes": ["cow"]}})
    assert read_classes(f"{path}#cow").classes[0].name == "cow"
    assert read_classes(path, Path("davis/dog/labels")).classes[0].name == "dog"
    with pytest.raises(DataError, match="no class list named 'cat'; there are: dog, cow"):
        read_classes(f"{path}#cat")
    with pytest.raises(DataError, match=r"several class lists; name one, e\.g\. all\.json#dog"):
        read_classes(path, Path("davis/cat/labels"))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"classes": []},
        {"classes": [{"id": 1}]},
        {"classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        {"classes": [{"id": -1, "name": "a"}]},
        {"classes": [{"id": 1, "name": "a", "color": [1, 2]}]},
        {"classes": 3},
        {"classes": ["a"], "ignore": [], "values": {"1": 0, "2": 5}},
        {"classes": ["a", "b"], "values": {"1": 0, "0": 255}},
        {"classes": ["a"], "ignore": [], "values": {"-1": 0}},
        {"classes": ["a"], "ignore": [], "values": [1]},
    ],
)
def test_what_is_no_class_list(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"c\.json: not a class list"):
        read_classes(class_file(tmp_path / "c.json", content))


def test_unreadable_class_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such class list"):
        read_classes(tmp_path / "c.json")
    (tmp_path / "c.json").write_text("classes: sky")
    with pytest.raises(DataError, match="not a JSON class list"):
        read_classes(tmp_path / "c.json")
    with pytest.raises(DataError, match="/dev/zero: not a class list, it is longer than 10000000 characters"):
        read_classes("/dev/zero")
