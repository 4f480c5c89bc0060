"""The page of a video, or of two runs side by side: template, style and script in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from pipeline.errors import DataError
from pipeline.files import replacing
from pipeline.report.charts import HEIGHT, WIDTH, curve
from pipeline.report.footage import Footage, Labelled, columns_of
from pipeline.report.scores import ScoreSheet
from pipeline.report.story import Story

_FOLDER = Path(__file__).parent / "templates"
#: The scripts of a page, in the order in which they are run.
_SCRIPTS = ("theme.js", "segments.js", "footage.js", "stage.js", "player.js", "timeline.js", "legend.js", "editor.js",
            "start.js")  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """What one run's labels are called.

    Attributes:
        title: of the run, where there are two.
        names: by label.
        colours: by label, `#rrggbb`; a label without one is no segment.
        partners: label -> label of the first run that it is shown like; empty = itself.
        fits: what names.json must say to fit these labels; None = names cannot be saved.
        start: names.json's content to begin with.
    """

    title: str
    names: Mapping[int, str]
    colours: Mapping[int, str]
    partners: Mapping[int, int]
    fits: str | None = None
    start: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        title: of the video.
        fps: of the clip.
        segments: of one run, or of two.
        stories: as many.
        scores: as many; None where there are none.
    """

    title: str
    fps: float
    opacity: float
    footage: Footage
    segments: Sequence[Segments]
    stories: Sequence[Story]
    scores: Sequence[ScoreSheet | None]


def write_page(path: Path, page: Page) -> Path:
    """Write a page as one HTML file, whole or not at all; equal pages give equal bytes."""
    return _write(
        path,
        "page.html.j2",
        _SCRIPTS,
        page=page,
        data=_data(page),
        curves=[None if sheet is None or not sheet.curve else curve(sheet.curve) for sheet in page.scores],
        risks=[
            None if sheet is None or sheet.sureness is None else curve(sheet.sureness.risk, sheet.sureness.top)
            for sheet in page.scores
        ],
        chart=(WIDTH, HEIGHT),
    )


@dataclass(frozen=True)
class IndexRow:
    """One page in the index.

    Attributes:
        name: of the video, or of the item and the video.
        link: relative to the index.
        picture: data URI of a small picture; None = none.
        numbers: value by title; a title that is absent has no value.
    """

    name: str
    link: str
    picture: str | None
    numbers: Mapping[str, float]


def write_index(path: Path, title: str, rows: Sequence[IndexRow]) -> Path:
    """Write a page that lists pages, as a table that can be sorted."""
    columns = list(dict.fromkeys(name for row in rows for name in row.numbers))
    return _write(path, "index.html.j2", ("theme.js", "index.js"), title=title, rows=rows, columns=columns)


#: By which a page tells that vidseg wrote it.
_GENERATOR = '<meta name="generator" content="vidseg">'


def refuse_foreign_page(path: Path) -> None:
    """Check that writing a page replaces none that somebody else made.

    Raises:
        DataError: another file, or a folder, lies there.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a file for the page")
    if path.exists():
        with path.open("rb") as stream:
            head = stream.read(2000)
        if _GENERATOR.encode() not in head:
            raise DataError(f"{path}: was not written by vidseg; choose another place for the page or move it away")


def _write(path: Path, template: str, scripts: Sequence[str], **content: Any) -> Path:
    script = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    text = (
        _templates()
        .get_template(template)
        .render(script=script, style=style, digest=digest, generator=_GENERATOR, **content)
    )
    with replacing(path) as temporary:
        # Names of files may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "score": _score, "short": _short}
    return environment


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 or share == 0 else "<0.1 %"


def _score(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else "<0.001"


def _short(number: float) -> str:
    """A score with three decimals, a count with none, another number with one."""
    if isinstance(number, int):
        return str(number)
    return f"{number:.3f}" if number <= 1 else f"{number:.1f}"


def _data(page: Page) -> dict[str, Any]:
    """What the script reads."""
    footage = page.footage
    return {
        "title": page.title,
        "fps": page.fps,
        "step": footage.step,
        **({} if footage.seconds is None else {"seconds": footage.seconds}),
        "opacity": page.opacity,
        "size": footage.size,
        "total": footage.total,
        "names": list(footage.names),
        "positions": list(footage.positions),
        "pictures": footage.pictures,
        "features": footage.features,
        "runs": [_run(run, segments) for run, segments in zip(footage.runs, page.segments, strict=True)],
    }


def _run(run: Labelled, segments: Segments) -> dict[str, Any]:
    columns, shares = columns_of(run.tally)
    return {
        "title": segments.title,
        "fits": segments.fits,
        "start": segments.start,
        "kind": run.kind,
        "planes": run.planes,
        "confidence": run.confidence,
        "columns": columns,
        "segments": [
            {
                "id": use.id,
                "key": segments.partners.get(use.id, use.id),
                "name": segments.names.get(use.id),
                "color": segments.colours[use.id],
                "share": round(use.share, 6),
                "first": use.first,
                "last": use.last,
                "band": shares[use.id],
            }
            for use in run.tally.uses()
            if use.id in segments.colours
        ],
    }
