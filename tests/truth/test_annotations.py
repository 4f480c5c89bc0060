from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.media.pictures import davis_palette, write_label_png
from pipeline.truth.annotations import Annotations, find_annotations, is_placeholder, no_annotations
from pipeline.truth.class_list import ClassList, LabelClass, read_classes

SIZE = (4, 6)
NAMES = ["a", "b", "c", "d"]
CLASSES = ClassList((LabelClass(0, "sky", (1, 2, 3)), LabelClass(7, "road", (4, 5, 6))), (255,))


def label_map(*values: int) -> np.ndarray:
    """A label map that holds just these values."""
    return np.resize(np.array(values), SIZE)


def folder_of(folder: Path, maps: dict[str, np.ndarray]) -> Path:
    for name, labels in maps.items():
        write_label_png(folder / f"{name}.png", labels)
    return folder


def labels_of(truth: Annotations) -> np.ndarray:
    return truth.read(0, len(truth.files))


def test_maps_are_matched_to_frames_by_stem(tmp_path: Path) -> None:
    maps = {"c": label_map(0, 7), "a": label_map(0), "other": label_map(3)}
    truth = find_annotations(folder_of(tmp_path, maps), NAMES, SIZE, CLASSES)
    assert truth.indices == (0, 2)
    np.testing.assert_array_equal(labels_of(truth), [maps["a"], maps["c"]])
    assert labels_of(truth).dtype == np.uint8
    assert (truth.listed.classes, truth.listed.ignore) == (CLASSES.classes, (255,))


def test_without_a_list_the_ids_found_become_classes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a": label_map(3, 255), "b": label_map(1, 3)})
    truth = find_annotations(folder, NAMES, SIZE)
    assert [(entry.id, entry.name) for entry in truth.listed.classes] == [(1, "1"), (3, "3")]
    assert truth.listed.classes[0].color == tuple(davis_palette()[1])
    assert truth.listed.ignore == (255,)


def test_a_mask_of_0_and_255_has_a_foreground(tmp_path: Path) -> None:
    truth = find_annotations(folder_of(tmp_path, {"a": label_map(0, 255)}), NAMES, SIZE)
    assert [entry.id for entry in truth.listed.classes] == [0, 255]
    assert truth.listed.ignore == ()


def test_ids_above_255(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a": label_map(0, 1), "b": label_map(0, 700)})
    truth = find_annotations(folder, NAMES, SIZE)
    assert labels_of(truth).dtype == np.uint16
    assert labels_of(truth).max() == 700


def test_colours_are_read_through_the_class_list(tmp_path: Path) -> None:
    Image.fromarray(np.resize(np.array([[1, 2, 3], [4, 5, 6], [9, 9, 9]], np.uint8), (*SIZE, 3))).save(
        tmp_path / "a.png"
    )
    classes = ClassList(CLASSES.classes, (255,), void_color=(9, 9, 9))
    truth = find_annotations(tmp_path, NAMES, SIZE, classes)
    np.testing.assert_array_equal(labels_of(truth)[0], label_map(0, 7, 255))


STORED = ClassList(CLASSES.classes, (255,), values={3: 0, 4: 7, 5: 7, 0: 255})


def test_stored_values_become_ids(tmp_path: Path) -> None:
    truth = find_annotations(folder_of(tmp_path, {"a": label_map(3, 4, 5, 0)}), NAMES, SIZE, STORED)
    np.testing.assert_array_equal(labels_of(truth)[0], label_map(0, 7, 7, 255))
    assert labels_of(truth).dtype == np.uint8
    with pytest.raises(DataError, match=r"b\.png: holds the value 7, which is neither a class nor ignored"):
        find_annotations(folder_of(tmp_path, {"b": label_map(3, 7)}), NAMES, SIZE, STORED)


def test_colours_and_stored_values_do_not_mix(tmp_path: Path) -> None:
    """Colours stand for classes, whatever values other files of the data set store."""
    Image.fromarray(np.resize(np.array([[1, 2, 3], [4, 5, 6]], np.uint8), (*SIZE, 3))).save(tmp_path / "a.png")
    np.testing.assert_array_equal(labels_of(find_annotations(tmp_path, NAMES, SIZE, STORED))[0], label_map(0, 7))


def test_maps_are_read_in_pieces(tmp_path: Path) -> None:
    maps = {name: label_map(number) for number, name in enumerate(NAMES)}
    annotations = find_annotations(folder_of(tmp_path, maps), NAMES, SIZE)
    np.testing.assert_array_equal(annotations.read(1, 3)[:, 0, 0], [1, 2])
    assert annotations.read(4, 9).shape == (0, *SIZE)
    assert labels_of(no_annotations(SIZE)).shape == (0, *SIZE)


def test_the_digest_follows_the_values_alone(tmp_path: Path) -> None:
    first = find_annotations(folder_of(tmp_path / "1", {"a": label_map(1, 2)}), NAMES, SIZE)
    (tmp_path / "2").mkdir()
    Image.fromarray(label_map(1, 2).astype(np.uint8)).save(tmp_path / "2" / "a.png")  # grey, no palette
    assert find_annotations(tmp_path / "2", NAMES, SIZE).digest == first.digest
    changed = folder_of(tmp_path / "2", {"a": label_map(1, 2, 2)})
    assert find_annotations(changed, NAMES, SIZE).digest != first.digest


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", SIZE[::-1]), r"a\.png: the colour \(0, 0, 0\) at row 0, column 0 belongs to no class"),
        (Image.new("RGBA", SIZE[::-1]), r"a\.png: the colour \(0, 0, 0\) at row 0, column 0 belongs to no class"),
        (Image.new("LA", SIZE[::-1]), r"a\.png: a label map of mode LA"),
        (Image.fromarray(np.full(SIZE, 700, np.uint16)), r"a\.png: holds the value 700, which is neither a class"),
    ],
)
def test_kinds_of_pngs_that_do_not_fit(tmp_path: Path, image: Image.Image, message: str) -> None:
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        find_annotations(tmp_path, NAMES, SIZE, CLASSES)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"a": np.zeros((4, 5))}, r"a\.png: the label map is 5x4 pixels, the frames are 6x4"),
        (
            {"a": label_map(0), "b": label_map(0, 9, 8)},
            r"b\.png: holds the value 8, which is neither a class nor",
        ),
        (
            {"x": label_map(0)},
            "none of its 1 PNGs has the name of a frame; frames are named like 'a', PNGs like 'x'",
        ),
        ({}, "no label PNGs in this folder"),
    ],
)
def test_ground_truth_that_does_not_fit(tmp_path: Path, maps: dict[str, np.ndarray], message: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=message):
        find_annotations(folder_of(tmp_path, maps), NAMES, SIZE, CLASSES)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of ground truth"):
        find_annotations(tmp_path / "none", NAMES, SIZE)


def test_two_maps_of_one_frame(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a": label_map(0)})
    write_label_png(folder / "a.PNG", label_map(0))
    with pytest.raises(DataError, match=r"a\.PNG and a\.png have the same stem"):
        find_annotations(folder, NAMES, SIZE)


def test_a_folder_with_just_a_readme_stands_for_none(tmp_path: Path) -> None:
    assert not is_placeholder(tmp_path)
    (tmp_path / "README.md").touch()
    assert is_placeholder(tmp_path)
    write_label_png(tmp_path / "a.png", label_map(0))
    assert not is_placeholder(tmp_path)
    assert not is_placeholder(tmp_path / "none")


@pytest.mark.parametrize(
    ("frames", "classes", "count", "found"),
    [
        ("camvid/0016E5_15hz", "camvid/classes.json", 11, 46),
        ("davis/dog", "davis/classes.json", 2, 60),
        ("vspw/1001_3iEIq5HBY1s", "vspw/classes.json", 9, 1),
    ],
)
def test_real_ground_truth(shared_data: Path, frames: str, classes: str, count: int, found: int) -> None:
    folder = shared_data / frames / "labels"
    names = [path.stem for path in sorted((shared_data / frames / "frames").iterdir())]
    with Image.open(folder / f"{names[0]}.png") as image:
        size = image.height, image.width
    truth = find_annotations(folder, names[:8], size, read_classes(shared_data / classes, folder))
    assert len(truth.listed.classes) == count
    assert truth.indices == tuple(range(min(found, 8)))
    assert truth.dtype == "uint8"
