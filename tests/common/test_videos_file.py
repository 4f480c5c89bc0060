"""Reading videos.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.common import yaml_files
from stages.common.layout import item_keys, item_videos


def test_a_file_is_parsed_once_however_many_items_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a hundred items parsed anew, what asks for all of them would take a hundred times as long."""
    parse, parsed = yaml_files.parse, []

    def counted(text: str, what: str) -> Any:
        parsed.append(what)
        return parse(text, what)

    monkeypatch.setattr(yaml_files, "parse", counted)
    file = tmp_path / "videos.yaml"
    file.write_text("items: {a: [{path: x}], b: [{path: y}]}\nconcepts: {}\napplied: {}\n")
    assert [item_videos(key, file)[0]["path"] for key in item_keys(file)] == ["x", "y"]
    assert len(parsed) == 1
    file.write_text(file.read_text().replace("x", "z"))
    assert item_videos("a", file)[0]["path"] == "z"
