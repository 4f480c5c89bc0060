"""Which file is the mask of which frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataError, UsageError, VidsegError
from pipeline.truth.mask_files import Masks, find_masks, parse_masks


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], None),
        (["first.png"], Path("first.png")),
        (["./0=first.png"], Path("./0=first.png")),
        (["a=b.png"], Path("a=b.png")),
        (["0=first.png"], {0: Path("first.png")}),
        (["45=b=c.png", "0=a.png"], {45: Path("b=c.png"), 0: Path("a.png")}),
        (["007=~/a.png"], {7: Path.home() / "a.png"}),
    ],
)
def test_what_mask_says(texts: list[str], expected: Masks | None) -> None:
    assert parse_masks(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["0=a.png", "b.png"], "--mask b.png: of several masks each needs the number of its frame, from 0"),
        (["-1=a.png", "0=b.png"], "--mask -1=a.png: of several masks"),
        (["3=a.png", "03=b.png"], "two masks of frame 3: a.png and b.png"),
    ],
)  # fmt: skip
def test_what_mask_cannot_say(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_masks(texts)


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_matched_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "c.png", "b.PNG", "x.png", "a.txt", ".hidden.png")
    found = find_masks(folder, ["a", "b", "c"], [10, 12, 14])
    assert found.files == {1: folder / "b.PNG", 2: folder / "c.png"} and list(found.files) == [1, 2]
    assert found.unused == [folder / "x.png"]


def test_numbers_are_of_the_source() -> None:
    assert find_masks({14: Path("c"), 10: Path("a")}, ["a", "b", "c"], [10, 12, 14]).files == {
        0: Path("a"),
        2: Path("c"),
    }
    assert find_masks(Path("none.png"), ["a"], [4]).files == {0: Path("none.png")}


@pytest.mark.parametrize(
    ("masks", "kind", "message"),
    [
        ({13: Path("c")}, UsageError, "13=c: frame 13 is not in the clip, which has 3 frames from 10 to 14: 10, 12"),
        ({12: Path()}, UsageError, "--mask 12=.: is a folder"),
        (["x.png"], DataError, "holds no PNG that is named like a frame, .* are named like 'a', the first PNG 'x'"),
        (["a.jpg"], DataError, "holds no PNG that is named like a frame, .* are named like 'a'$"),
        (["a.png", "a.PNG"], DataError, "a.PNG and a.png have the same stem"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(
    masks: dict[int, Path] | list[str], kind: type[VidsegError], message: str, tmp_path: Path
) -> None:
    given = folder_of(tmp_path, *masks) if isinstance(masks, list) else masks
    with pytest.raises(kind, match=message):
        find_masks(given, ["a", "b", "c"], [10, 12, 14])


def test_a_clip_without_gaps_names_its_ends() -> None:
    with pytest.raises(UsageError, match="which has frames 3 to 5$"):
        find_masks({2: Path("c")}, ["a", "b", "c"], [3, 4, 5])
