"""What pages tell a reader to type about segments that are shown is typed, with a tiny model instead of `compact`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from pipeline.media.video import write_video
from tests.support.commands import vidseg
from tests.support.concepts import halves, write_references
from tests.support.places import ROOT

README, HOW_TO = ROOT / "README.md", ROOT / "docs/how-to/your-own-segments.md"
#: What is typed, in order, and what makes it seconds rather than minutes.
SETS = {
    "run --references": ["extract.encoder=none", "segment.encoder_weight=0", "correspond.encoder_weight=0"],
    "learn": ["learn.epochs=1", "learn.size=64", "learn.tune=none"],
    "concept show": [],
    "concept check": ["learn.size=64", "learn.tune=none"],
    "apply": ["extract.encoder=none"],
}


def shown_commands(page: Path) -> list[list[str]]:
    """The words of each line of a page's code blocks that begins with `vidseg`, without its comment."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("vidseg ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def kind(words: list[str]) -> str:
    if words[0] == "run":
        return " ".join(["run", *(word for word in words if word.startswith("--"))])
    return " ".join(words[:2]) if words[0] == "concept" else words[0]


def test_segments_that_are_shown(tiny_model: Path, tmp_path: Path) -> None:
    """README's lines are those of the page, whose steps are typed in its order."""
    first: dict[Path, dict[str, list[str]]] = {README: {}, HOW_TO: {}}
    for page, found in first.items():
        for words in shown_commands(page):
            found.setdefault(kind(words), words)
    for name in ("run --references", "learn", "apply"):
        assert first[README][name] == first[HOW_TO][name]
    write_references(tmp_path / "dogs")
    write_video(tmp_path / "walk.mp4", halves(2)[0], 10.0)
    for name, sets in SETS.items():
        given = [f"--set={text}" for text in (*sets, f"backbone.path={tiny_model}")] if name != "concept show" else []
        vidseg(*first[HOW_TO][name], *given, cwd=tmp_path)
    assert {path.name for path in (tmp_path / "walk-dogs").iterdir()} >= {"report.html", "overlay.mp4", "labels.json"}
    assert len(list((tmp_path / "walk-dogs/labels").glob("*.png"))) == 2
