"""The layout of SMITE-50's ground truth, on a small copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.fewshot.smite50 import read_smite50
from pipeline.media.pictures import write_image
from pipeline.truth.annotations import find_annotations
from pipeline.truth.class_list import read_classes
from tests.support.commands import error_line, vidseg

PARTS = ("eye", "mouth10", "mouth9")


def video(folder: Path, frames: tuple[str, ...] = ("5", "10"), inner: str = "") -> Path:
    """Per frame: an eye within a mouth, and another mouth that grows."""
    for number, frame in enumerate(frames):
        place = folder / frame / inner
        place.mkdir(parents=True)
        for part, (rows, columns) in zip(
            PARTS,
            ((slice(2, 4), slice(2, 4)), (slice(0, 6), slice(0, 6)), (slice(7, 8), slice(0, 1 + number))),
            strict=True,
        ):
            mask = np.zeros((8, 12), np.uint8)
            mask[rows, columns] = 128
            write_image(place / f"{part}.png", mask)
    (folder / "frames_numbers.txt").write_text("frames: [5, 10]\nanything else\n")
    return folder


@pytest.mark.parametrize("inner", ["", "masks"])
def test_parts_are_numbered_in_natural_order(inner: str, tmp_path: Path) -> None:
    truth = read_smite50(video(tmp_path, inner=inner))
    assert truth.frames == (5, 10) and truth.parts == ("background", "eye", "mouth9", "mouth10")
    assert truth.labels.shape == (2, 8, 12) and truth.labels.dtype == np.uint8
    assert truth.labels[0, 2, 1:5].tolist() == [3, 1, 1, 3], "the smaller mask wins"
    assert truth.labels[:, 7, :3].tolist() == [[2, 0, 0], [2, 2, 0]], "frames in natural order"


def test_label_maps_at_another_size(tmp_path: Path) -> None:
    truth = read_smite50(video(tmp_path), (16, 16))
    assert truth.labels.shape == (2, 16, 16) and set(np.unique(truth.labels)) == {0, 1, 2, 3}


def test_as_label_maps_that_videos_are_scored_by(tmp_path: Path) -> None:
    said = vidseg("dataset", "smite50", video(tmp_path / "gt"), "labels", cwd=tmp_path).stderr
    assert "labels: 2 frames with eye, mouth9, mouth10; give it to `vidseg apply` with --ground-truth" in said
    found = find_annotations(
        tmp_path / "labels", ["00004", "00005"], (8, 12), read_classes(tmp_path / "labels/classes.json")
    )
    assert found.indices == (1,) and found.read(0, 1)[0, 2, 1:5].tolist() == [3, 1, 1, 3]
    assert [each.name for each in found.listed.classes] == ["background", "eye", "mouth9", "mouth10"]
    line = error_line(vidseg("dataset", "smite50", "gt", "labels", cwd=tmp_path, check=2))
    assert "labels: is there already; choose another folder" in line


def spoiled(folder: Path, what: str) -> None:
    if what == "list":
        (folder / "frames_numbers.txt").unlink()
    elif what == "line":
        (folder / "frames_numbers.txt").write_text("5 10")
    elif what == "frame":
        (folder / "15").mkdir()
    elif what == "part":
        (folder / "10/eye.png").rename(folder / "10/nose.png")
    elif what == "size":
        write_image(folder / "10/eye.png", np.zeros((4, 4), np.uint8))
    else:
        for path in (folder / "10").iterdir():
            write_image(path, np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("list", r"frames_numbers.txt: cannot be read .*; it lists the annotated frames, as in \[0, 5, 10\]"),
        ("line", "expected a list of frame numbers as in .*, found '5 10'"),
        ("frame", "3 folders of masks, but frames_numbers.txt lists 2 frames"),
        ("part", "10: has the parts mouth9, mouth10, nose; the first frame has eye, mouth9, mouth10"),
        ("size", r"10: masks of different sizes: \(4, 4\), \(8, 12\)"),
        ("sizes", r"10: masks of \(4, 4\), the first frame's are \(8, 12\); give a size"),
    ],
)
def test_other_layouts(what: str, message: str, tmp_path: Path) -> None:
    video(tmp_path)
    spoiled(tmp_path, what)
    with pytest.raises(DataError, match=message):
        read_smite50(tmp_path)
