from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.naming.names import Named, Names, NamesFile, merged_groups, read_names, write_names
from pipeline.stores.numbering import Numbering

RECORD = {
    "schema": "names",
    "schema_version": 1,
    "fits": "abc",
    "names": {"3": {"name": "road", "color": "#80b1d3"}, "5": {"name": "car"}},
    "merge": [[5, 7]],
    "drop": [9],
}
NUMBERING = Numbering("abc", tuple(range(12)))


def write(folder: Path, record: Any = RECORD, **change: Any) -> Path:
    path = folder / "names.json"
    path.write_text(record if isinstance(record, str) else json.dumps({**record, **change}))
    return path


def test_what_the_file_says(tmp_path: Path) -> None:
    content = read_names(write(tmp_path))
    assert content.fits == "abc"
    assert content.names == Names(
        {3: Named("road", (128, 177, 211)), 5: Named("car")}, merged={7: 5}, dropped=frozenset({9})
    )
    assert content.names_for(NUMBERING, "f") is content.names


def test_writing_and_reading_is_the_identity(tmp_path: Path) -> None:
    content = read_names(write(tmp_path, names={"3": {"name": "Straße 道 <b>&"}, "4": {"color": "#000000"}}))
    assert read_names(write_names(tmp_path / "again.json", content)) == content
    assert json.loads((tmp_path / "again.json").read_text())["names"]["3"] == {"name": "Straße 道 <b>&"}


def test_only_what_it_fits_is_needed(tmp_path: Path) -> None:
    content = read_names(write(tmp_path, {"schema": "names", "schema_version": 1, "fits": "abc"}))
    assert content.names == Names()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "clip"}, 'not a file of names; expected {"schema": "names"'),
        ({"schema_version": 2}, "schema version 2, this program reads 1; save the names again"),
        ({"fits": None}, "`fits` must be the hash of what numbers the labels"),
        ({"title": "x"}, "unknown member 'title'; there are: schema, schema_version, fits, names, merge, drop"),
        ({"names": ["road"]}, '`names` must be like {"3": {"name": "road"}}'),
        ({"names": {"03": {"name": "a"}}}, "`names` has '03', which is no label"),
        ({"names": {"road": {"name": "a"}}}, "`names` has 'road', which is no label"),
        ({"names": {"70000": {"name": "a"}}}, "a label must be a number in 0..65535, not 70000"),
        ({"names": {"3": "road"}}, "label 3: expected"),
        ({"names": {"3": {}}}, "label 3: expected"),
        ({"names": {"3": {"name": "a", "colour": "#000000"}}}, "label 3: expected"),
        ({"names": {"3": {"name": " "}}}, "label 3: a name must be text that is not empty"),
        ({"names": {"3": {"name": 7}}}, "label 3: a name must be text"),
        ({"names": {"3": {"name": "a\nb"}}}, "label 3: the name 'a\\\\nb' has characters that are no text"),
        ({"names": {"3": {"name": "a" * 201}}}, "label 3: a name may have 200 characters; .* has 201"),
        ({"names": {"3": {"color": "red"}}}, "label 3: a colour must be like #80b1d3, not 'red'"),
        ({"merge": [5, 7]}, "`merge` must be lists of labels"),
        ({"merge": [[5, "7"]]}, "a label must be a number in 0..65535, not '7'"),
        ({"merge": [[5]]}, r"merging takes two different labels or more, not \[5\]"),
        ({"merge": [[5, 5]]}, r"merging takes two different labels or more, not \[5, 5\]"),
        ({"merge": [[5, 7], [6, 7]]}, "label 7 is merged into 5 and into 6; choose one"),
        ({"merge": [[5, 7], [7, 5]]}, "merged in a circle: 7 into 5 into 7; take one of them away"),
        ({"merge": [[3, 4], [4, 6], [6, 3]]}, "merged in a circle: 4 into 3 into 6 into 4"),
        ({"names": {"5": {"name": "a"}, "7": {"name": "b"}}}, "labels 5 and 7 are merged, but named 'a' and 'b'"),
        ({"drop": 9}, "`drop` must be a list of labels"),
        ({"drop": [True]}, "a label must be a number in 0..65535, not True"),
        ({"drop": [3]}, "label 3 is named and dropped; leave one of the two out"),
        ({"drop": [7]}, "label 7 is dropped and merged into 5; leave one of the two out"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_names(write(tmp_path, **change))
    assert str(error.value).startswith(f"{tmp_path}/names.json: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file of names"),
        ("[]", "not a file of names; expected"),
        ("[" * 100_000, "not a JSON file of names"),
        (
            '{"schema": "names", "names": {"3": {"name": "a"}, "3": {"name": "b"}}}',
            "'3' is there twice; give each label",
        ),
    ],
)
def test_what_is_no_file_of_names(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_names(write(tmp_path, text))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"names.json: not a JSON file of names \(it is no text\)"):
        read_names(tmp_path / "names.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file of names"):
        read_names(tmp_path / "names.json")


@pytest.mark.parametrize(
    ("numbering", "message"),
    [
        (Numbering("another", NUMBERING.labels), "f: was made for other segments .abc. than these .another."),
        (Numbering("abc", (3, 5, 9)), "f: there is no label 7 to name, merge or drop; there are: 3, 5, 9"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, numbering: Numbering, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_names(write(tmp_path)).names_for(numbering, "f")


BASE = Names({3: Named("road", (1, 2, 3)), 5: Named("car")}, merged={7: 5}, dropped=frozenset({9}))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (Names(), BASE),
        (Names({4: Named("sky")}), Names({**BASE.named, 4: Named("sky")}, {7: 5}, BASE.dropped)),
        (Names({3: Named("path")}), Names({3: Named("path", (1, 2, 3)), 5: Named("car")}, {7: 5}, BASE.dropped)),
        (Names({3: Named(None, (9, 9, 9))}), Names({**BASE.named, 3: Named("road", (9, 9, 9))}, {7: 5}, BASE.dropped)),
        # The name of a merged segment, given at another of its labels.
        (Names({7: Named("bus")}), Names({3: BASE.named[3], 7: Named("bus")}, {7: 5}, BASE.dropped)),
        (Names({9: Named("cat")}), Names({**BASE.named, 9: Named("cat")}, {7: 5})),
        (Names(dropped=frozenset({3})), Names({5: Named("car")}, {7: 5}, frozenset({3, 9}))),
        (Names(dropped=frozenset({5})), Names({3: BASE.named[3]}, {7: 5}, frozenset({5, 9}))),
        (Names({3: Named("all")}, {5: 3}), Names({3: Named("all", (1, 2, 3))}, {7: 5, 5: 3}, BASE.dropped)),
    ],
)
def test_later_names_win(more: Names, expected: Names) -> None:
    assert BASE.with_more(more) == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (Names(merged={5: 3}), "labels 3 and 5 are merged, but named 'road' and 'car'"),
        (Names(merged={5: 7}), "merged in a circle"),
        (Names(dropped=frozenset({7})), "label 7 is dropped and merged into 5"),
    ],
)
def test_later_names_that_make_no_sense_with_the_earlier(more: Names, message: str) -> None:
    with pytest.raises(DataError, match=message):
        BASE.with_more(more)


def test_merged_groups_are_written_by_the_label_they_end_up_as() -> None:
    names = Names(merged=merged_groups([[5, 7], [7, 8], [1, 2]]))
    assert names.target(8) == 5
    assert NamesFile("abc", names).record()["merge"] == [[1, 2], [5, 7, 8]]
