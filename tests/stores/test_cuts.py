"""Where a clip is cut: cuts.json, and what a person lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, UsageError
from pipeline.stores.cuts import FILE, Cuts, find_cuts, read_cuts, write_cuts


def written(folder: Path, cuts: Cuts, first: int = 0) -> Path:
    write_cuts(folder / "cuts", cuts, range(first, first + cuts.frames), folder / "tmp" / "cuts")
    return folder / "cuts"


@pytest.mark.parametrize("positions", [(), (4,), (1, 5, 11)])
def test_what_is_written_is_read(tmp_path: Path, positions: tuple[int, ...]) -> None:
    folder = written(tmp_path, Cuts(12, positions), first=100)
    assert read_cuts(folder, 12) == Cuts(12, positions)
    assert json.loads((folder / FILE).read_text())["source_frames"] == [100 + cut for cut in positions]
    assert [path.name for path in tmp_path.iterdir()] == ["cuts"]


@pytest.mark.parametrize(
    ("listed", "indices", "positions"),
    [
        ((), range(10), ()),
        ((4,), range(10), (4,)),
        ((9, 1), range(10), (1, 9)),
        ((24, 30), range(20, 40), (4, 10)),  # ingest.frames=20:40
        ((4, 9), range(0, 20, 5), (1, 2)),  # a stride leaves 4 and 9 out: 5 and 10 begin the shots
        ((3, 4), range(0, 20, 5), (1,)),  # of the shot 3:4 it leaves nothing
        ((3,), [0, 1, 5, 6], (2,)),  # frames 2 to 4 cannot be decoded
    ],
)
def test_listed_frames_of_the_source(listed: tuple[int, ...], indices: Any, positions: tuple[int, ...]) -> None:
    assert Cuts.at(listed, indices) == Cuts(len(indices), positions)


@pytest.mark.parametrize(
    ("listed", "indices", "message"),
    [
        ((10,), range(10), "ingest.cuts: frame 10 cuts nothing; the clip has frames 0 to 9 of the source"),
        ((25, 20), range(20, 40), "ingest.cuts: frame 20 cuts nothing; the clip has frames 20 to 39 of the source"),
        ((19, 25), range(20, 40), "ingest.cuts: frame 19 cuts nothing"),
        ((16,), range(0, 20, 5), "ingest.cuts: frame 16 cuts nothing; the clip has frames 0 to 15 of the source"),
    ],
)
def test_a_frame_that_cuts_nothing_is_named(listed: tuple[int, ...], indices: range, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Cuts.at(listed, indices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "seed"}, "it holds seed 1"),
        ({"schema_version": 2}, "it holds cuts 2"),
        ({"cuts": [5, 4]}, r"its cuts are \[5, 4\] of 12 frames"),
        ({"cuts": [0, 4]}, r"its cuts are \[0, 4\]"),
        ({"cuts": [4, 12]}, r"its cuts are \[4, 12\] of 12 frames"),
        ({"cuts": {"4": None, "x": None}}, "not readable"),
        ({"frames": None}, "not readable"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = written(tmp_path, Cuts(12, (4,))) / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        read_cuts(file.parent, 12)


def test_cuts_of_another_clip_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, Cuts(12, (4,)))
    with pytest.raises(DataError, match=r"is of a clip of 12 frames, not of 10; give the cuts/ beside its clip.zarr"):
        read_cuts(folder, 10)


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "cuts").mkdir()
    (tmp_path / "cuts" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="cuts: was not written by vidseg"):
        written(tmp_path, Cuts(12))


def test_the_folder_that_is_given_counts_else_the_one_beside_else_there_are_none(tmp_path: Path) -> None:
    beside, given = written(tmp_path / "a", Cuts(12, (4,))), written(tmp_path / "b", Cuts(12, (7,)))
    assert find_cuts(given, beside, 12).positions == (7,)
    assert find_cuts(None, beside, 12).positions == (4,)
    assert find_cuts(None, tmp_path / "none", 12) == Cuts(12)
    with pytest.raises(DataError, match="none/cuts.json: not readable"):
        find_cuts(tmp_path / "none", beside, 12)
