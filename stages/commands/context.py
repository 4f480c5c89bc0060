"""The scene context model by hand; with `vidseg refine`, the window loop in steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import SegmentParams
from pipeline.spans import parse_span
from stages.common import cli
from stages.common.resources import stage_version
from stages.common.settings import load, plain
from stages.segment import SeedOption, births_made_of, first_features, fit_numbering, in_clip, read_masks

if TYPE_CHECKING:
    from pipeline.stores.store import Store


def fit(
    features: Path, out_context: Path, params: SegmentParams, seed: Path | None = None, matches: Path | None = None
) -> Path:
    """Fit a model on where a clip begins: K-Means of frame 1 or of the first window, or a given mask; returns
    `out_context`.

    Args:
        matches: matches.zarr, which knows the cuts: a window ends at the first one.
    """
    from pipeline.files import refuse_foreign
    from pipeline.segmentation import context_store, stores, window_loop
    from pipeline.segmentation.joined_features import context_features
    from pipeline.stores.schemas import FEATURES
    from pipeline.stores.store import open_store

    refuse_foreign(out_context, context_store.MARK)
    source = open_store(features, FEATURES)
    params = in_clip(params, source)
    seen = context_features(source, params)
    masks = read_masks(seed, source, params)
    if not masks.keys() <= {0}:
        raise UsageError(f"{seed}: holds masks of later frames, which only `vidseg segment` carries")
    cuts: tuple[int, ...] = ()
    if matches is not None:
        _, cuts = _moves_and_cuts(matches, source)
    start = window_loop.fit_context(first_features(seen, params, cuts), params, masks.get(0))
    stored = context_store.StoredContext(
        start.context,
        seen.kind,
        stores.store_grid(source),
        source.fingerprint,
        fit_numbering(start.given.given, source, params, masks, cuts),
    )
    return context_store.save_context(out_context, stored)


def _moves_and_cuts(matches: Path, features: Store) -> tuple[Store, tuple[int, ...]]:
    """matches.zarr of these features, and the cuts that it knows.

    Raises:
        DataError: it is missing, damaged, or of other features.
    """
    from pipeline.segmentation import stores
    from pipeline.stores.schemas import MATCHES
    from pipeline.stores.store import open_store

    moves = open_store(matches, MATCHES)
    stores.require_same_features(moves, features)
    return moves, stores.cuts_of(moves)


def predict(
    context: Path,
    features: Path,
    out: Path,
    params: SegmentParams,
    frames: str | None = None,
    matches: Path | None = None,
) -> Path:
    """Label frames with a model that stays as it is; returns the path of coarse.zarr.

    Both its arrays hold the predicted labels, until `vidseg refine` fills `refined`.

    Args:
        matches: matches.zarr; with it one window of frames also gets the segments that are born in it.
    """
    from pipeline.segmentation import context_store, stores, window_loop
    from pipeline.segmentation.births import Scene, sightings
    from pipeline.segmentation.joined_features import context_features
    from pipeline.stores.schemas import FEATURES
    from pipeline.stores.store import fingerprint, open_store

    source = open_store(features, FEATURES)
    seen = context_features(source, params)
    stored = context_store.load_context(context, seen.kind)
    params = in_clip(params, source, stored)
    chosen = parse_frames(frames, seen.frames)
    moves, cuts = None, tuple[int, ...]()
    if matches is not None:
        if params.births == "none":
            raise UsageError(
                "--matches is for segments that are born, but segment.births is none, or auto and comes to none here; "
                "set it to distance"
            )
        _require_one_window(chosen, params, str(features), "predict")
        moves, cuts = _moves_and_cuts(matches, source)
        _require_one_shot(chosen, cuts, params)
    mark = fingerprint(
        "predict",
        stage_version("segment"),
        source.fingerprint,
        context_store.model_fingerprint(stored),
        [chosen.start, chosen.stop],
        plain(params),
        *([] if moves is None else [moves.fingerprint, stored.numbering.record()]),
    )
    numbering = stored.numbering
    writer = stores.CoarseWriter(
        out / "coarse.zarr",
        out / "tmp",
        mark,
        source=source,
        features=source.fingerprint,
        frames=chosen,
        shard=seen.shard,
        highest=int(stored.context.labels.max())
        if moves is None
        else stores.start_from(stored, source, chosen.start, cuts).highest(params),
        params={**source.params, "segment": plain(params)},
        numbering=numbering,
    )
    for window in window_loop.window_ranges(chosen.stop, params.window, chosen.start):
        values = seen.read(window.start, window.stop)
        start = stores.start_from(stored, source, window.start, cuts)
        labels = window_loop.predict_window(values, start, params, window.start)
        if moves is not None:
            earlier = window_loop.window_before(window.start, params.window, cuts)
            before = seen.read(earlier.start, earlier.stop) if earlier else values[:1]
            opens = window_loop.opened_by(window.start, cuts)
            scene = Scene(stores.store_grid(source), before, stored.context, start.given, window.start, opens)
            in_window = stores.read_matches(moves, window.start, window.stop)
            labels, numbers = window_loop.add_born(labels, values, in_window, scene, params)
            born = sightings(labels, labels, window.start, numbers.born)
            numbering = numbering.with_births(born, source.fingerprint, births_made_of(moves, params))
        writer.add(labels, labels)
    writer.describe(numbering)
    return writer.commit()


def update(context: Path, features: Path, coarse: Path, out_context: Path, params: SegmentParams) -> Path:
    """Teach a model the `refined` labels of one window of frames; returns `out_context`."""
    from pipeline.files import refuse_foreign
    from pipeline.segmentation import context_store, stores, window_loop
    from pipeline.segmentation.births import sightings
    from pipeline.segmentation.joined_features import context_features
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.schemas import COARSE, FEATURES
    from pipeline.stores.store import open_store

    refuse_foreign(out_context, context_store.MARK)
    source = open_store(features, FEATURES)
    labels = open_store(coarse, COARSE)
    stores.require_same_features(labels, source)
    seen = context_features(source, params)
    stored = context_store.load_context(context, seen.kind)
    first = int(labels.attrs["first_frame"])
    window = range(first, first + labels.frames("refined"))
    _require_one_window(window, params, str(coarse), "update")
    values = seen.read(window.start, window.stop)
    refined = stores.read_labels(labels, "refined", window)
    learnt = window_loop.update_context(stored.context, values, refined, params)
    grid, numbering = stores.store_grid(source), Numbering.of_coarse(labels)
    if stored.numbering.origin not in numbering.origins:
        numbering = stored.numbering  # labels of another model
    initial = stores.read_labels(labels, "initial", window)
    seen_in = sightings(refined, initial, first, numbering.born)  # the vote may have moved where they begin and end
    numbering = replace(numbering, births=stored.numbering.with_births(seen_in, source.fingerprint, ()).births)
    return context_store.save_context(
        out_context,
        context_store.StoredContext(learnt, seen.kind, grid, stored.fitted_on, numbering, stored.names),
    )


def _require_one_window(frames: range, params: SegmentParams, where: str, command: str) -> None:
    if len(frames) > params.window:
        raise UsageError(
            f"{where} has {len(frames)} frames, more than segment.window ({params.window}); {command} window "
            "by window (`vidseg context predict --frames START:STOP`) or raise segment.window"
        )


def _require_one_shot(frames: range, cuts: Sequence[int], params: SegmentParams) -> None:
    """Refuse a window across a cut, and one where the window loop would fit another model."""
    inside = [cut for cut in cuts if frames.start < cut < frames.stop]
    if inside:
        raise UsageError(
            f"--frames: the video is cut at frame {inside[0]} (ingest.cuts), and no window crosses a cut; predict "
            f"{frames.start}:{inside[0]} and {inside[0]}:{frames.stop} one after the other"
        )
    if frames.start in cuts and params.after_cut == "restart":
        raise UsageError(
            f"--frames: a shot begins at frame {frames.start}, where segment.after_cut: restart fits another context; "
            "set it to continue, or ingest the shot as a clip of its own (ingest.frames) and fit a context on it"
        )


def describe(context: Path) -> dict[str, object]:
    """What a model holds, as JSON-ready values."""
    import numpy as np

    from pipeline.segmentation.context_store import load_context

    stored = load_context(context)
    model = stored.context
    values, counts = np.unique(model.labels, return_counts=True)
    return {
        "tokens": len(model.labels),
        "labels": {int(value): int(count) for value, count in zip(values, counts, strict=True)},
        "first": None if model.first is None else len(model.first.labels),
        "windows": [len(window.labels) for window in model.windows],
        "grid": list(stored.grid),
        "features": stored.kind.name,
        "recipe": stored.kind.recipe,
        "channels": stored.kind.channels,
        "backbone": stored.kind.backbone,
        "fitted_on": stored.fitted_on,
        "numbering": stored.numbering.origin,
        "births": {birth.label: [birth.first, birth.last] for birth in stored.numbering.births},
    }


def parse_frames(text: str | None, total: int) -> range:
    """`--frames`, a range like 14:28, as frames of a clip of `total` frames; None stands for all.

    Raises:
        DataError: no such frames.
    """
    span = slice(0, total) if text is None else parse_span(text, "--frames")
    frames = range(span.start or 0, total if span.stop is None else span.stop)
    if not frames or frames.stop > total:
        raise DataError(f"--frames {text}: the clip has frames 0:{total}")
    return frames


HELP = "Step the scene context model by hand: `fit` on its start, then `predict`, `vidseg refine`, `update` per window."

app = cli.new_app(HELP)

ContextArgument = Annotated[Path, typer.Argument(help="context folder")]
FeaturesArgument = Annotated[Path, typer.Argument(help="features.zarr of extract")]
OutContextArgument = Annotated[
    Path, typer.Argument(help="folder to write the context to; one that is there is replaced")
]


@app.callback(help=HELP)
def group() -> None:
    """Makes `fit` and the others sub-commands."""


@app.command("fit")
def fit_command(
    features: FeaturesArgument,
    out_context: OutContextArgument,
    seed: SeedOption = None,
    matches: Annotated[
        Path | None, typer.Option(help="matches.zarr of a clip with cuts: K-Means sees nothing beyond the first one")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Fit a context on a clip's beginning, by K-Means (segment.parity.kmeans_frames) or from a given mask.

    Example: vidseg context fit work/features.zarr ctx --set segment.clusters=12
    """
    fit(features, out_context, load(params, set_ or ())["segment"], seed, matches)


@app.command("fit-references")
def fit_references_command(
    references: Annotated[Path, typer.Argument(help="folder with images/ and labels/, or refs.zarr")],
    out_context: OutContextArgument,
    classes: Annotated[
        Path | None, typer.Option(help="class list of a folder's labels (JSON); default: classes.json in the folder")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Fit a context on annotated images, whose segments `vidseg run --context` then finds by their nearest neighbours.

    `vidseg run --references` does it by itself; here the context is kept, for many videos.

    Example: vidseg context fit-references dogs ctx --set ingest.size=384
    """
    from stages.commands.reference_context import fit_references
    from stages.references import as_store

    settings = load(params, set_ or ())
    with as_store(references, classes) as refs:
        fit_references(refs, out_context, settings)


@app.command("predict")
def predict_command(
    context: ContextArgument,
    features: FeaturesArgument,
    out_dir: Annotated[Path, typer.Argument(help="folder for coarse.zarr")],
    frames: Annotated[str | None, typer.Option(help="frames START:STOP, e.g. 14:28; all without it")] = None,
    matches: Annotated[
        Path | None,
        typer.Option(help="matches.zarr of correspond; one window of frames then gets the segments born in it as well"),
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Label frames with a context: coarse.zarr, whose `initial` and `refined` are both the predicted labels.

    Example: vidseg context predict ctx work/features.zarr step1 --frames 0:7 --matches work/matches.zarr

    Frame 1 of the clip that the context was fitted on keeps its labels (segment.parity.first_frame: keep). Segments are
    born (segment.births) where --matches is given.
    """
    predict(context, features, out_dir, load(params, set_ or ())["segment"], frames, matches)


@app.command("update")
def update_command(
    context: ContextArgument,
    features: FeaturesArgument,
    coarse: Annotated[Path, typer.Argument(help="coarse.zarr of one window, usually from `vidseg refine`")],
    out_context: OutContextArgument,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Teach a context the refined labels of one window; segment.memory says what it forgets.

    Example: vidseg context update ctx work/features.zarr step1-refined/coarse.zarr ctx
    """
    update(context, features, coarse, out_context, load(params, set_ or ())["segment"])


@app.command("show")
def show_command(context: ContextArgument, as_json: cli.JsonOption = False) -> None:
    """Print what a context holds: tokens per label, windows, grid and which features.

    Example: vidseg context show ctx
    """
    values = describe(context)
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{name}: {len(value)}")
            for label, said in value.items():
                print(f"  {label}: frames {said[0]} to {said[1]}" if name == "births" else f"  {label}: {said} tokens")
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    cli.run_app(app)
