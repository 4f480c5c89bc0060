"""What the confidence of labels is worth, as a whole and by its parts: AURC as a share of the error rate, per clip.

    python -m benchmarks.confidence FOLDER ... [--plot reliability.svg] > table.md

Each FOLDER holds what `vidseg ingest`, `extract` and `correspond` write of a clip with ground truth (an `artifacts/` of
`vidseg run` does). 1 is what a constant confidence has; the smaller, the better. The first annotated frame gives
clusters their classes and is not counted. `--set` changes how labels are made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.parameters import SegmentParams
from pipeline.scoring.assignment import assign
from pipeline.scoring.reliability import Reliability
from pipeline.segmentation import stores, window_loop
from pipeline.segmentation.confidence import TokenParts, token_parts
from pipeline.segmentation.joined_features import context_features
from pipeline.stores.confidence import MOST, in_levels
from pipeline.stores.schemas import CLIP, FEATURES, MATCHES, TRUTH
from pipeline.stores.store import Store, open_store
from pipeline.tables.pages import markdown
from pipeline.upsampling.confidence import pixel_confidence
from pipeline.upsampling.difference import resize_image
from pipeline.upsampling.interpolation import METHODS
from stages.common.settings import Settings, load
from stages.segment import first_features

#: What is compared: the parts alone, without each of them, and all of them.
ROWS: Mapping[str, tuple[str, ...]] = {
    "neighbours": ("neighbours",),
    "votes": ("votes",),
    "nearness": ("nearness",),
    "margin": ("margin",),
    "without neighbours": ("votes", "nearness", "margin"),
    "without votes": ("neighbours", "nearness", "margin"),
    "without nearness": ("neighbours", "votes", "margin"),
    "without margin": ("neighbours", "votes", "nearness"),
    "all": ("neighbours", "votes", "nearness", "margin"),
}


@dataclass(frozen=True)
class Tokens:
    """Labels (F, h, w) of a clip's tokens, and the parts of their confidence, each of that shape."""

    labels: np.ndarray
    parts: Mapping[str, np.ndarray]


def main(
    folders: Annotated[list[Path], typer.Argument(help="folders of stores")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    plot: Annotated[Path | None, typer.Option(help="SVG of risk over coverage and of calibration")] = None,
) -> None:
    """Print a table with one row per part and one column per clip."""
    settings = load(None, set_ or ())
    found = {folder.name: reliabilities(folder, settings) for folder in folders}
    print(markdown(("confidence", *found, "mean", "at most 0.8", "ECE"), [row(name, found) for name in ROWS]))
    print()
    errors = (f"{name} {100 * of_rows['all'].error:.1f}" for name, of_rows in found.items())
    print("errors, % of the pixels: " + ", ".join(errors))
    if plot is not None:
        plot.write_text(svg({name: of_rows["all"] for name, of_rows in found.items()}))


def row(name: str, found: Mapping[str, Mapping[str, Reliability]]) -> tuple[str, ...]:
    """A row of the table."""
    shares = [of_rows[name].aurc / of_rows[name].error for of_rows in found.values()]
    pooled = Reliability(*(sum(getattr(of_rows[name], of) for of_rows in found.values()) for of in ("pixels", "wrong")))
    few = sum(share <= 0.8 for share in shares)
    cells = (f"{share:.2f}" for share in (*shares, np.mean(shares)))
    return (name, *cells, f"{few} of {len(shares)}", f"{pooled.calibration_error:.2f}")


def reliabilities(folder: Path, settings: Settings) -> dict[str, Reliability]:
    """Counts of right and wrong pixels of one clip, by row."""
    clip, truth = open_store(folder / "clip.zarr", CLIP), open_store(folder / "truth.zarr", TRUTH)
    tokens = tokens_of(folder, settings["segment"])
    ignore, size = tuple(truth.attrs["ignore"]), truth.array("ground_truth").shape[1:]
    counts = {name: np.zeros((2, MOST + 1), np.int64) for name in ROWS}
    assignment = None
    for place, frame in enumerate(truth.attrs["indices"]):
        known = truth.read("ground_truth", place, place + 1)[0]
        decided = METHODS[settings["upsample"].method](tokens.labels[frame], guide(clip, frame, size))
        if assignment is None:
            assignment = assign("majority", decided.labels, known, ignore, (1, 1), 255)
            continue
        scored = ~np.isin(known, ignore)
        wrong = (assignment.apply(decided.labels) != known)[scored]
        for name, parts in ROWS.items():
            product = np.prod([tokens.parts[part][frame] for part in parts if part != "margin"], axis=0)
            margin = decided.margin if "margin" in parts else np.ones(size, np.float32)
            known_of_tokens = in_levels(product) if product.ndim else None
            levels = pixel_confidence(margin, known_of_tokens)[scored]
            counts[name] += [np.bincount(levels, minlength=MOST + 1), np.bincount(levels[wrong], minlength=MOST + 1)]
    return {name: Reliability(*both) for name, both in counts.items()}


def guide(clip: Store, frame: int, size: tuple[int, ...]) -> np.ndarray:
    """A frame at the source's size."""
    return resize_image(clip.read("frames", frame, frame + 1)[0], (size[0], size[1]))


def tokens_of(folder: Path, params: SegmentParams) -> Tokens:
    """The window loop, with the parts kept apart. Votes along both directions are counted even where none are taken."""
    features = context_features(open_store(folder / "features.zarr", FEATURES), params)
    clip = stores.make_clip(features, open_store(folder / "matches.zarr", MATCHES))
    start = window_loop.fit_context(first_features(features, params), params)
    labels: list[np.ndarray] = []
    parts: list[TokenParts] = []
    counted = replace(params, vote="both" if params.vote == "none" else params.vote)
    for window in window_loop.segment_windows(clip, start, params):
        frames = range(window.start, window.start + len(window.refined))
        seen, matches = clip.features(frames.start, frames.stop), clip.matches(frames.start, frames.stop)
        neighbours = start.context.neighbours(seen, params.neighbors, frames.start)
        voted = replace(window_loop.refine_window(window.initial, matches, counted), labels=window.refined)
        labels.append(window.refined)
        parts.append(token_parts(voted, seen, neighbours, start.context))
        start = replace(start, context=window.context)

    def joined(of: Callable[[TokenParts], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(part) for part in parts]).reshape(-1, *clip.grid)

    return Tokens(
        np.concatenate(labels).reshape(-1, *clip.grid),
        {
            "neighbours": joined(lambda part: part.neighbours),
            "votes": joined(lambda part: part.votes),
            "nearness": joined(lambda part: part.nearness),
        },
    )


#: Side of a chart and its margins, in the units of the SVG.
SIDE, LEFT, BELOW, ABOVE = 300, 46, 44, 26
#: Colours of lines that stay apart in grey, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b", "#7f7f7f")


def svg(found: Mapping[str, Reliability]) -> str:
    """Two charts of several clips: risk over coverage, and how often labels are right by how sure they are."""
    curves = {name: one.curve for name, one in found.items()}
    highest = max(risk for curve in curves.values() for _, risk in curve)
    top = min(1.0, np.ceil(10 * highest) / 10)
    bins = {name: [(b.confidence, b.accuracy) for b in one.bins] for name, one in found.items()}
    right, height = 2 * (SIDE + LEFT), SIDE + BELOW + ABOVE
    calibration = {"": [(0.0, 0.0), (1.0, 1.0)], **bins}
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 150} {height}" font-family="sans-serif" '
            'font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>',
            *_chart(LEFT, curves, top, "coverage: share of the surest pixels", "share of them that is wrong"),
            *_chart(2 * LEFT + SIDE, calibration, 1.0, "confidence", "share of labels that is right"),
            *(
                f'<text x="{right + 12}" y="{ABOVE + 12 + 18 * place}" fill="{COLOURS[place]}">{name}</text>'
                for place, name in enumerate(found)
            ),
            "</svg>\n",
        ]
    )


def _chart(
    left: int, lines: Mapping[str, list[tuple[float, float]]], top: float, across: str, up: str
) -> Iterator[str]:
    """The elements of one chart, from 0 to 1 across and from 0 to `top`; the line without a name is a grey one."""
    bottom = ABOVE + SIDE
    yield f'<text x="{left}" y="{ABOVE - 10}">{up}</text>'
    yield f'<text x="{left + SIDE / 2}" y="{bottom + 34}" text-anchor="middle">{across}</text>'
    for part in range(6):
        x, y = left + SIDE * part / 5, bottom - SIDE * part / 5
        yield f'<line x1="{left}" x2="{left + SIDE}" y1="{y}" y2="{y}" stroke="#dddddd"/>'
        yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{top * part / 5:.2f}</text>'
        yield f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{part / 5:g}</text>'
    colours = iter(COLOURS)
    for name, line in lines.items():
        points = " ".join(f"{left + SIDE * x:.1f},{bottom - SIDE * y / top:.1f}" for x, y in line)
        yield f'<polyline points="{points}" fill="none" stroke="{next(colours) if name else "#999999"}"/>'


if __name__ == "__main__":
    sys.exit(typer.run(main))
