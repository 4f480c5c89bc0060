"""Label maps of colours without a class list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.errors import DataError
from pipeline.media.pictures import Colour, davis_palette
from pipeline.truth.colours import classes_of_colours

RED, BLUE, WHITE, BLACK = (200, 10, 10), (10, 10, 200), (255, 255, 255), (0, 0, 0)


def stripes(path: Path, *colours: Colour) -> Path:
    """A picture of vertical stripes, two pixels wide."""
    Image.fromarray(np.repeat(np.array([colours] * 4, np.uint8), 2, axis=1)).save(path)
    return path


def palette(number: int) -> Colour:
    return tuple(map(int, davis_palette()[number]))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("colours", "ids", "ignored"),
    [
        ([RED, BLACK, BLUE], [2, 0, 1], ()),  # by (r, g, b)
        ([RED, BLUE], [2, 1], ()),  # 0 is kept for black
        ([palette(3), palette(0), palette(1)], [3, 0, 1], ()),
        ([palette(0), palette(2), palette(255)], [0, 2, 255], (255,)),
        ([BLACK, WHITE], [0, 255], ()),  # a binary mask: white is the object
        ([BLACK, (1, 1, 1), (7, 7, 7), WHITE], [0, 1, 7, 255], (255,)),
    ],
)
def test_ids_of_colours(colours: list[Colour], ids: list[int], ignored: tuple[int, ...], tmp_path: Path) -> None:
    file = stripes(tmp_path / "a.png", *colours)
    listed = classes_of_colours([file])
    assert listed is not None and listed.ignore == ignored
    np.testing.assert_array_equal(listed.read(file)[0, ::2], ids)


def test_ids_are_those_of_all_files_together(tmp_path: Path) -> None:
    first, second = stripes(tmp_path / "a.png", RED), stripes(tmp_path / "b.png", BLUE)
    one, other = classes_of_colours([first, second]), classes_of_colours([second, first])
    assert one == other and one is not None and [entry.name for entry in one.classes] == ["#0a0ac8", "#c80a0a"]
    assert classes_of_colours([]) is None


def test_what_is_refused(tmp_path: Path) -> None:
    coloured = stripes(tmp_path / "a.png", RED, BLUE)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "ids.png")
    with pytest.raises(DataError, match="a.png: holds colours, but .*ids.png holds ids; save all"):
        classes_of_colours([tmp_path / "ids.png", coloured])
    disc = Image.fromarray(np.repeat((np.mgrid[:64, :64].sum(0) > 64)[..., None], 3, 2).astype(np.uint8) * 255)
    disc.filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "soft.png")
    with pytest.raises(DataError, match="soft.png: .* are its edges smoothed, or was it a JPEG"):
        classes_of_colours([tmp_path / "soft.png"])
    many = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(np.kron(many, np.ones((2, 2, 1), np.uint8))).save(tmp_path / "many.png")
    with pytest.raises(DataError, match="many.png: with it there are 257 colours in the label maps"):
        classes_of_colours([tmp_path / "many.png"])
