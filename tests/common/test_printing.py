"""Tables for people: the same wherever they are printed."""

from __future__ import annotations

import pytest

from stages.common.printing import text_table
from tests.support.commands import vidseg

LONG = "a/very/long/path/" * 20


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([("a", 1), ("long", 12)], {}, ["a     1", "long  12"]),
        ([("a", 1), ("long", 12)], {"left": (0,)}, ["a      1", "long  12"]),
        ([("a", None)], {"heads": ("name", "n"), "left": (0,)}, ["name  n", "a     -"]),
        ([("a", "b")], {"indent": 2}, ["  a  b"]),
        ([], {"heads": ("name", "n")}, ["name  n"]),
        ([(LONG, 1)], {}, [f"{LONG}  1"]),
        ([("[red]x[/]", ":smile:")], {}, ["[red]x[/]  :smile:"]),  # no markup
        ([("a\x1b[31m\nb", 1)], {}, ["a\\x1b[31m\\nb  1"]),  # what a terminal would obey
        ([("日本", 1), ("abcd", 2)], {}, ["日本  1", "abcd  2"]),  # as wide as four letters
    ],
)
def test_columns_are_aligned(rows, options, expected) -> None:  # type: ignore[no-untyped-def]
    assert text_table(rows, **options).splitlines() == expected


@pytest.mark.parametrize("terminal", [{"COLUMNS": "20"}, {"FORCE_COLOR": "1", "COLUMNS": "20"}, {}])
def test_lines_stay_whole_on_a_narrow_terminal(terminal: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = vidseg("preset", "list").stdout
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    assert vidseg("preset", "list").stdout == plain
    assert max(map(len, plain.splitlines())) > 80 and "\x1b" not in plain
