"""Tables as Markdown, in percent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.tables.bootstrap import RESAMPLES, SEED, Difference
from pipeline.tables.quoted import Quoted
from pipeline.tables.table import ALL, Row, Table, quoted_difference

DASH = "-"
#: What the papers call the scores that they print.
PRINTED = {"miou": "mIoU", "vc8": "mVC_8", "vc16": "mVC_16", "f_mean": "F", "j_mean": "J"}
#: Scores so small that one decimal of a percent would hide their differences.
FINE = ("flicker",)


def page(table: Table) -> str:
    """Heading, notes, and for each data set: scores, differences, and IoU by class where the table wants it."""
    parts = [f"## {table.title}", "\n".join(f"* {note}" for note in table.notes)]
    for dataset, names in table.groups().items():
        parts += [f"### {about(table, dataset, names)}", _scores(table, dataset, names)]
        if table.pairs:
            parts.append(_differences(table, dataset, names))
        if table.per_class:
            parts += ["IoU by class:", _classes(table, names)]
    return "\n\n".join(parts) + "\n"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a `|` in a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def about(table: Table, dataset: str, names: Sequence[str]) -> str:
    """Which videos a group has, in words."""
    videos = [table.rows[0].videos[name] for name in names]
    frames, scored = (sum(video[key] for video in videos) for key in ("frames", "scored_frames"))
    classes = {(entry["value"], entry["name"]) for video in videos for entry in video["classes"]}
    sizes = sorted({f"{video['width']}x{video['height']}" for video in videos})
    counted = f"{frames} frames" if frames == scored else f"{frames} frames ({scored} scored)"
    name = "All data sets" if dataset == ALL and len(set(table.datasets.values())) > 1 else dataset
    name = next(iter(table.datasets.values())) if name == ALL else name
    many = "video" if len(videos) == 1 else "videos"
    return f"{name}: {len(videos)} {many}, {counted}, {len(classes)} classes, {', '.join(sizes)}"


def _scores(table: Table, dataset: str, names: Sequence[str]) -> str:
    quoted_only = {title: figures[dataset] for title, figures in table.quoted_only.items() if dataset in figures}
    quotes = bool(quoted_only) or any(row.quoted_for(dataset) for row in table.rows)
    memory = any(row.peak_memory(names) is not None for row in table.rows)
    heads = [*table.heads, *table.metrics.values(), "s/frame", *(["peak MB"] if memory else [])]
    rows = []
    for row in table.rows:
        pooled, seconds = table.pool(row, names).scores, row.seconds_per_frame(names)
        cells = [*row.cells, *(percent(pooled[key], digits_of(key)) for key in table.metrics), number(seconds)]
        cells += [number(row.peak_memory(names), 0)] if memory else []
        rows.append([*cells, _quote(row.quoted_for(dataset), table)])
    rows += [
        [f"*{title}*", *[DASH] * (len(heads) - 1), _quote(figures, table)] for title, figures in quoted_only.items()
    ]
    if not quotes:
        return markdown(heads, [row[:-1] for row in rows])
    return markdown([*heads, f"*quoted from the paper: {' / '.join(PRINTED[key] for key in table.quoted)}*"], rows)


def _differences(table: Table, dataset: str, names: Sequence[str]) -> str:
    rows = {row.key: row for row in table.rows}
    quotes = any(row.quoted_for(dataset) for row in table.rows)
    heads = ["difference"]
    compared = table.quoted if quotes else ()
    for key, heading in table.metrics.items():
        heads += [heading, *(["*quoted*", "same sign"] if key in compared else [])]
    lines = []
    for pair in table.pairs:
        base, other = rows[pair.base], rows[pair.other]
        cells = [pair.title]
        for key, found in table.difference(base, other, names).items():
            cells.append(signed(found, digits_of(key)))
            if key in compared:
                cells += _compare(base, other, dataset, key, found)
        lines.append(cells)
    text = (
        f"Differences in points, with 95 % intervals of a paired bootstrap over the {len(names)} videos "
        f"({RESAMPLES} resamples, seed {SEED}):"
        if len(names) > 1
        else "Differences in points; one video gives no interval:"
    )
    return f"{text}\n\n{markdown(heads, lines)}"


def _compare(base: Row, other: Row, dataset: str, key: str, found: Difference) -> list[str]:
    quoted = quoted_difference(base, other, dataset, key)
    if quoted is None or found.value is None:
        return [DASH if quoted is None else f"{quoted:+.1f}", DASH]
    same = "yes" if quoted * found.value > 0 else "no"
    return [f"{quoted:+.1f}", f"{same}, unclear" if found.unclear else same]


def _classes(table: Table, names: Sequence[str]) -> str:
    pools = [table.pool(row, names) for row in table.rows]
    iou = [{(entry["value"], entry["class"]): entry["iou"] for entry in pooled.per_class} for pooled in pools]
    lines = [
        [
            str(entry["class"]),
            percent(entry["share"]),
            *(percent(of.get((entry["value"], entry["class"]))) for of in iou),
        ]
        for entry in pools[0].per_class
        if entry["share"] > 0
    ]
    return markdown(["class", "share of pixels", *(row.key for row in table.rows)], lines)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent."""
    return DASH if value is None else f"{100 * value:.{digits}f}"


def signed(found: Difference, digits: int = 1) -> str:
    """A difference in points with its interval: `+2.1 [-0.3, +4.4]`."""
    if found.value is None:
        return DASH
    ends = [] if found.interval is None else [f"{100 * end:+.{digits}f}" for end in found.interval]
    return f"{100 * found.value:+.{digits}f}" + (f" [{', '.join(ends)}]" if ends else "")


def digits_of(key: str) -> int:
    """Decimals of a score in percent."""
    return 2 if key in FINE else 1


def number(value: float | None, digits: int = 1) -> str:
    """A number as it is."""
    return DASH if value is None else f"{value:.{digits}f}"


def _quote(figures: Quoted | None, table: Table) -> str:
    if figures is None:
        return DASH
    return " / ".join(_printed(getattr(figures, key)) for key in table.quoted)


def _printed(value: float | None) -> str:
    """A figure with as many decimals as the paper gives it."""
    return number(value) if value is None or round(value, 1) == value else f"{value:.2f}"
