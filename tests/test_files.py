"""Files and folders that appear whole or not at all, and never over what somebody else wrote."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.ahead import mapped
from pipeline.errors import DataError
from pipeline.files import Mark, refuse_foreign, replacing, replacing_folder

OURS = Mark("meta.json", "ours")
NESTED = Mark("zarr.json", "clip", ("attributes", "schema"))
ONLY = Mark("seed.json", holds=frozenset({"seed.json", "mask.png"}))


def fill(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("mark", "files", "ours"),
    [
        (OURS, {"meta.json": '{"schema": "ours"}', "more": ""}, True),
        (OURS, {"meta.json": '{"schema": "theirs"}'}, False),
        (OURS, {"meta.json": "[1]"}, False),
        (OURS, {"meta.json": "{"}, False),
        (OURS, {"other.json": '{"schema": "ours"}'}, False),
        (OURS, {"a/meta.json": '{"schema": "ours"}', "b/meta.json": '{"schema": "ours"}'}, True),  # several videos
        (OURS, {"a/meta.json": '{"schema": "ours"}', "mine.txt": ""}, False),
        (OURS, {}, True),
        (NESTED, {"zarr.json": '{"attributes": {"schema": "clip"}}'}, True),
        (NESTED, {"zarr.json": '{"attributes": []}'}, False),
        (ONLY, {"seed.json": "anything", "mask.png": ""}, True),
        (ONLY, {"seed.json": "anything", "mine.txt": ""}, False),
        (ONLY, {"mask.png": ""}, False),
    ],
)
def test_what_somebody_else_wrote_is_refused(tmp_path: Path, mark: Mark, files: dict[str, str], ours: bool) -> None:
    folder = fill(tmp_path / "out", files)
    if ours:
        refuse_foreign(folder, mark)
    else:
        with pytest.raises(DataError, match="out: was not written by vidseg; choose another place"):
            refuse_foreign(folder, mark)


def test_a_file_is_refused_where_a_folder_goes_and_nothing_is_fine(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="out: was not written by vidseg"):
        refuse_foreign(tmp_path / "out", OURS)
    refuse_foreign(tmp_path / "none", OURS)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_files_whose_long_names_begin_alike_are_written_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ahead.cores", lambda: 2)
    meeting = threading.Barrier(2, timeout=60)
    paths = [tmp_path / f"{'a long name ' * 6}{frame}.png" for frame in range(2)]

    def written(path: Path) -> str:
        with replacing(path) as temporary:
            temporary.write_text(path.name)
            meeting.wait()
        return path.read_text()

    assert list(mapped(written, paths)) == [path.name for path in paths]
    assert sorted(tmp_path.iterdir()) == paths


def test_what_a_kill_leaves_goes_with_the_next_write(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        left = temporary
    left.write_text("half")
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("scratch", [None, "tmp/mark/out", "new/other/out"])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, scratch: str | None) -> None:
    target, place = fill(tmp_path / "out", {"old": ""}), None if scratch is None else tmp_path / scratch
    if place is not None:
        fill(place, {"left by a killed run": ""})
    with pytest.raises(RuntimeError), replacing_folder(target, place) as made:
        (made / "half").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    with replacing_folder(target, place) as made:
        (made / "new").touch()
        assert [path.name for path in made.iterdir()] == ["new"]
    assert [path.name for path in target.iterdir()] == ["new"]
    assert not (tmp_path / "tmp").exists()


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "a/out", tmp_path / "a/tmp/x"):
        raise RuntimeError
    assert not any(tmp_path.iterdir())
