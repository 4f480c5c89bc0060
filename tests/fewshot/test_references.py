"""References as a person leaves them in a folder, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.fewshot.references import References, read_references, warnings_about
from pipeline.fewshot.segments import SegmentTable
from pipeline.media.pictures import write_image, write_label_png
from pipeline.parameters import LearnParams
from pipeline.truth.class_list import LabelClass

SIZE = (6, 8)
CLASSES = [{"id": 0, "name": "background"}, {"id": 4, "name": "wheel"}, {"id": 9, "name": "window"}]


def image(folder: Path, name: str, size: tuple[int, int] = SIZE) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    return write_image(folder / "images" / name, np.full((*size, 3), 90, np.uint8))


def stripes(*values: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A column of each value, again and again."""
    return np.broadcast_to(np.resize(np.array(values), size[1]), size).astype(
        np.uint8 if max(values) < 256 else np.uint16
    )


def labels(folder: Path, name: str, values: np.ndarray) -> Path:
    path = folder / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
        return path
    return write_label_png(path, values)


def mask(folder: Path, name: str, columns: slice, size: tuple[int, int] = SIZE, bright: int = 255) -> Path:
    path = folder / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[:, columns] = bright
    return write_image(path, values)


def classes(folder: Path, listed: object = CLASSES, **more: object) -> None:
    (folder / "classes.json").write_text(json.dumps({"classes": listed, **more}))


def good(folder: Path) -> Path:
    """Two references with a class list."""
    for name in ("a.jpg", "b.png"):
        image(folder, name)
        labels(folder, f"{name[0]}.png", stripes(0, 4, 9, 255))
    classes(folder)
    return folder


# --- what is read


def test_label_maps_with_a_class_list(tmp_path: Path) -> None:
    references = read_references(good(tmp_path))
    assert references.names == ("a", "b") and references.table.names == ("background", "wheel", "window")
    assert references.table.background == 0
    assert references.images[0].shape == (*SIZE, 3) and references.labels[0][0].tolist() == [0, 4, 9, 255] * 2
    assert references.table.numbers(references.labels[0])[0].tolist() == [0, 1, 2, 255] * 2


def test_label_maps_without_a_class_list(tmp_path: Path) -> None:
    image(tmp_path, "one.jpg")
    labels(tmp_path, "one.png", stripes(0, 7, 255))
    references = read_references(tmp_path)
    assert references.table.names == ("background", "7") and [s.id for s in references.table.segments] == [0, 7]


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    image(tmp_path, "one.jpg")
    labels(tmp_path, "one.png", stripes(0, 255))
    references = read_references(tmp_path)
    assert references.labels[0][0].tolist() == [0, 1] * 4 and references.table.names == ("background", "1")


def test_arrays_and_pictures_of_different_sizes(tmp_path: Path) -> None:
    image(tmp_path, "small.png")
    image(tmp_path, "large.jpg", (12, 10))
    labels(tmp_path, "small.npy", stripes(0, 1).astype(np.int64))
    labels(tmp_path, "large.png", stripes(1, 2, size=(12, 10)))
    references = read_references(tmp_path)
    assert references.names == ("large", "small") and references.labels[1].dtype == np.uint8
    images, maps = references.at_size((64, 64))
    assert images.shape == (2, 64, 64, 3) and maps.shape == (2, 64, 64) and set(np.unique(maps)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("shapes", "shape", "expected"),
    [
        ([(480, 854)], "square", (128, 128)),
        ([(480, 854)], "picture", (128, 256)),
        ([(854, 480)], "picture", (256, 128)),
        ([(100, 100), (480, 854), (90, 400)], "picture", (128, 256)),
    ],
)
def test_size_of_the_network(shapes: list[tuple[int, int]], shape: Any, expected: tuple[int, int]) -> None:
    images = tuple(np.zeros((*one, 3), np.uint8) for one in shapes)
    labels = tuple(np.zeros(one, np.uint8) for one in shapes)
    table = SegmentTable.of([LabelClass(0, "a", (0, 0, 0)), LabelClass(1, "b", (9, 9, 9))])
    references = References(images, labels, tuple(map(str, range(len(shapes)))), table)
    assert references.model_size(LearnParams(size=128, shape=shape)) == expected


def test_ids_above_255(tmp_path: Path) -> None:
    image(tmp_path, "one.jpg")
    labels(tmp_path, "one.png", stripes(0, 300))
    references = read_references(tmp_path)
    assert references.labels[0].dtype == np.uint16
    numbers = references.table.numbers(references.labels[0])
    assert numbers[0].tolist() == [0, 1] * 4 and np.array_equal(references.table.labels(numbers), references.labels[0])


def test_stored_values_and_ignored_ids_of_a_class_list(tmp_path: Path) -> None:
    image(tmp_path, "one.jpg")
    labels(tmp_path, "one.png", stripes(7, 8, 0))
    classes(tmp_path, ["sky", "car"], ignore=[30], values={"7": 0, "8": 1, "0": 30})
    references = read_references(tmp_path)
    assert references.labels[0][0, :3].tolist() == [0, 1, 255] and references.table.background is None


@pytest.mark.parametrize("layout", ["{name}.{part}.png", "{name}/{part}.png", "{name}/masks/{part}.png"])
def test_a_mask_per_part(layout: str, tmp_path: Path) -> None:
    """The smaller mask wins; what no mask covers is background; one image lacks a part; names may hold dots."""
    for name in ("car.1", "car.10", "car.2"):
        image(tmp_path, f"{name}.jpg")
        mask(tmp_path, layout.format(name=name, part="body"), slice(0, 6))
        mask(tmp_path, layout.format(name=name, part="background"), slice(6, 8))
    mask(tmp_path, layout.format(name="car.1", part="wheel 2"), slice(4, 5), bright=1)
    mask(tmp_path, layout.format(name="car.1", part="wheel 10"), slice(4, 7), bright=128)
    references = read_references(tmp_path)
    assert references.names == ("car.1", "car.2", "car.10")
    assert references.table.names == ("background", "body", "wheel 2", "wheel 10")
    assert references.labels[0][0].tolist() == [1, 1, 1, 1, 2, 3, 3, 0]
    assert references.labels[1][0].tolist() == [1] * 6 + [0] * 2


def test_masks_with_a_class_list(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    mask(tmp_path, "a.window.png", slice(0, 2))
    classes(tmp_path)
    references = read_references(tmp_path)
    assert references.labels[0][0].tolist() == [9, 9] + [0] * 6
    classes(tmp_path, [{"id": 0, "name": "window"}, {"id": 300, "name": "wheel"}])
    references = read_references(tmp_path)
    assert references.labels[0][0].tolist() == [0, 0] + [255] * 6, "without a background the rest has no label"


def test_coloured_masks_count_by_their_brightest_colour(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    path = mask(tmp_path, "a.part.png", slice(0, 3), bright=1)
    palette = Image.open(path).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(path)
    assert read_references(tmp_path).labels[0][0].tolist() == [1] * 3 + [0] * 5


# --- what is warned about


def test_segments_that_hardly_can_be_learned(tmp_path: Path) -> None:
    image(tmp_path, "a.png", (64, 64))
    values = np.zeros((64, 64), np.uint8)
    values[:32] = 1
    values[41, 40:48] = 2
    labels(tmp_path, "a.png", values)
    classes(tmp_path, ["background", "large", "tiny", "missing"])
    lines = warnings_about(read_references(tmp_path), (32, 32))
    assert len(lines) == 2
    assert lines[0].startswith("segment 'tiny' covers 2.0 cells of the 32x32 grid at most: fewer than 4")
    assert lines[1].startswith("segment 'missing' appears in no reference")
    assert warnings_about(read_references(tmp_path), (64, 64)) == lines[1:]


def test_a_segment_that_vanishes_on_the_grid_is_named(tmp_path: Path) -> None:
    image(tmp_path, "a.png", (64, 64))
    values = np.zeros((64, 64), np.uint8)
    values[0, 0], values[32:] = 1, 2
    labels(tmp_path, "a.png", values)
    (line,) = warnings_about(read_references(tmp_path), (8, 8))
    assert line.startswith("segment '1' vanishes on the grid, covering 0.0 cells of the 8x8 grid at most: fewer than 4")


@pytest.mark.parametrize("elsewhere", [0, 255])
def test_nothing_is_learned_of_what_vanishes_altogether(tmp_path: Path, elsewhere: int) -> None:
    image(tmp_path, "a.png", (64, 64))
    values = np.full((64, 64), elsewhere, np.uint8)
    values[0, 0], values[0, 1], values[0, 2] = 1, 2, 0
    labels(tmp_path, "a.png", values)
    with pytest.raises(DataError, match=r"^a: no pixel of 1, 2 is left on the 8x8 grid .* or raise learn.size$"):
        warnings_about(read_references(tmp_path), (8, 8))


# --- what is refused


def without_images(folder: Path) -> None:
    (folder / "images").rename(folder / "pictures")


def without_labels(folder: Path) -> None:
    (folder / "labels").rename(folder / "masks")


def empty_images(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()


def no_match(folder: Path) -> None:
    (folder / "labels/a.png").rename(folder / "labels/c.png")
    (folder / "labels/d").mkdir()


def replaced(name: str, values: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: (labels(folder, name, values), None)[1]


def many_bare(folder: Path) -> None:
    for number in range(8):
        image(folder, f"{number}.png")


def twice(folder: Path) -> None:
    labels(folder, "a.npy", stripes(0, 4))


def mixed(folder: Path) -> None:
    (folder / "labels/b.png").unlink()
    mask(folder, "b.wheel.png", slice(0, 2))


def unknown_part(folder: Path) -> None:
    for name in "ab":
        (folder / f"labels/{name}.png").unlink()
        mask(folder, f"{name}.roof.png", slice(0, 2))


def other_mask_size(folder: Path) -> None:
    unknown_part(folder)
    classes(folder, ["background", "roof"])
    mask(folder, "b.roof.png", slice(0, 2), (5, 5))


def jpeg(folder: Path) -> None:
    Image.fromarray(stripes(0, 4)).save(folder / "labels/a.png", format="JPEG")


def empty_folder(folder: Path) -> None:
    (folder / "labels/a.png").unlink()
    (folder / "labels/a").mkdir()


def class_list(listed: object, **more: object) -> Callable[[Path], None]:
    return lambda folder: classes(folder, listed, **more)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_images, "no images/ here; expected images/NAME.jpg with labels/NAME.png"),
        (without_labels, "no labels/ here; expected images/NAME.jpg with labels/NAME.png"),
        (empty_images, "images: no picture here; one reference is the least"),
        (no_match, "do not match; images without labels: a.jpg; labels without an image: c.png, d/"),
        (many_bare, r"images without labels: 0.png, 1.png, 2.png, 3.png, 4.png and 3 more$"),
        (twice, "a.npy: a has labels twice .a.png and a.npy.; keep one"),
        (mixed, "a.png: a has a label map, other images have a mask per part"),
        (unknown_part, "labels: masks of roof, which classes.json does not name"),
        (other_mask_size, "b.roof.png: the mask is 5x5 pixels, its image 8x6"),
        (jpeg, "a.png: a JPEG, which changes label values"),
        (empty_folder, "labels/a: holds no mask; expected one PNG per part"),
        (replaced("a.png", stripes(0, 4, size=(4, 6))), "a.png: the label map is 6x4 pixels, its image 8x6"),
        (replaced("a.png", stripes(0, 4, 5, 6)), "a.png: holds the value 5, which is neither a class nor ignored"),
        (replaced("b.png", stripes(255)), "b.png: no pixel of b has a label; draw a segment or leave it out"),
        (class_list(["background"]), "neither a class nor ignored"),
        (class_list(CLASSES, ignore=[]), "holds the value 255"),
        (class_list([*CLASSES, {"id": 255, "name": "sky"}], ignore=[]), "labels: 255 means that a pixel has no label"),
        (class_list([*CLASSES, {"id": 5, "name": "wheel"}]), "the names of segments must differ, found background, "),
        (class_list([{"id": 0}]), "not a class list"),
    ],
)  # fmt: skip
def test_bad_references(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    good(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_references(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(SIZE), r"label maps are \(height, width\) integers, not \(6, 8\) of float64"),
        (np.zeros((*SIZE, 3), np.uint8), "label maps are"),
        (np.full(SIZE, -1), "ids must lie in 0..65534"),
        (np.zeros((6, 9), np.uint8), "the label map is 9x6 pixels"),
        (np.array(["a"]), "label maps are"),
        (np.array([{}]), "not an array that can be read"),
    ],
)
def test_bad_arrays(values: np.ndarray, message: str, tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    labels(tmp_path, "a.npy", values)
    with pytest.raises(DataError, match=message):
        read_references(tmp_path)


def test_an_array_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    path = labels(tmp_path, "a.npy", stripes(0, 1))
    path.write_bytes(path.read_bytes().replace(b"(6, 8)", b"(6000000000, 8)".ljust(6)))
    with pytest.raises(DataError, match="a.npy: not an array that can be read"):
        read_references(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"), [(0, "at least two segments are needed .*, found only 'background'"), (3, "found only '3'")]
)
def test_a_single_segment_is_none(value: int, message: str, tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    labels(tmp_path, "a.png", stripes(value))
    with pytest.raises(DataError, match=message):
        read_references(tmp_path)


# --- the table


def test_the_background_is_number_0_whatever_its_id() -> None:
    table = SegmentTable.of(
        LabelClass(number, name, (0, 0, 0)) for number, name in ((2, "a"), (1, "b"), (9, "Background"))
    )
    assert table.names == ("Background", "b", "a") and table.background == 0
    assert table.labels(np.array([0, 1, 2])).tolist() == [9, 1, 2]
    assert table.numbers(np.array([9, 1, 2, 5])).tolist() == [0, 1, 2, 255]


def test_a_table_survives_its_record() -> None:
    table = SegmentTable.of([LabelClass(0, "background", (1, 2, 3)), LabelClass(300, "car", (4, 5, 6))])
    record = json.loads(json.dumps(table.record()))
    assert record[0] == {"id": 0, "name": "background", "color": [1, 2, 3], "background": True}
    assert SegmentTable.of_record(record) == table


def test_too_many_segments() -> None:
    with pytest.raises(DataError, match="at most 254 segments can be told apart, not 255"):
        SegmentTable.of(LabelClass(1000 + number, str(number), (0, 0, 0)) for number in range(255))


def test_real_data(shared_data: Path, tmp_path: Path) -> None:
    """Frames of a data set as stills: CamVid's eleven classes, void 255."""
    sequence = shared_data / "camvid/0016E5_15hz"
    for place, suffix in (("images", ".jpg"), ("labels", ".png")):
        (tmp_path / place).mkdir()
        for path in sorted((sequence / {"images": "frames", "labels": "labels"}[place]).glob(f"*{suffix}"))[:3]:
            (tmp_path / place / path.name).symlink_to(path)
    (tmp_path / "classes.json").symlink_to(shared_data / "camvid/classes.json")
    references: References = read_references(tmp_path)
    assert len(references.images) == 3 and len(references.table) == 11 and references.table.background is None
    assert all((labels == 255).any() for labels in references.labels)
