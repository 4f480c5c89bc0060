"""features.zarr, matches.zarr -> coarse.zarr, context/: labels on the token grid, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.parameters import SegmentParams
from stages.common import cli
from stages.common.layout import Out, item_key, place, videos_of
from stages.common.resources import stage_version
from stages.common.settings import load, plain

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import numpy as np

    from pipeline.segmentation.context_store import StoredContext
    from pipeline.segmentation.joined_features import JoinedFeatures
    from pipeline.segmentation.window_loop import Clip, Start
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.store import Store


def run(
    features: Path,
    matches: Path,
    out: Out,
    params: SegmentParams,
    seed: Path | None = None,
    context: Path | None = None,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Segment one clip.

    Args:
        seed: folder with masks, as ingest writes it; read by `init: mask`, that of frame 1 by `label_merge`.
        context: a context model to begin with, e.g. another clip's; frame 1 is then predicted from it.

    Returns:
        the path of coarse.zarr; context/, the model after the last window, lies beside it.
    """
    from pipeline.files import refuse_foreign
    from pipeline.segmentation import context_store, given_frames, stores, window_loop
    from pipeline.segmentation.joined_features import context_features
    from pipeline.stores.confidence import CONFIDENCE
    from pipeline.stores.schemas import COARSE, FEATURES, MATCHES
    from pipeline.stores.store import fingerprint, is_current, open_store

    path, context_path = out / "coarse.zarr", out / "context"
    refuse_foreign(path, COARSE.mark)
    refuse_foreign(context_path, context_store.MARK)
    source = open_store(features, FEATURES)
    moves = open_store(matches, MATCHES)
    seen = context_features(source, params)
    clip = stores.make_clip(seen, moves)
    given = None if context is None else context_store.load_context(context, seen.kind)
    params = in_clip(params, source, given)
    masks = {} if given else read_masks(seed, source, params)
    mark = fingerprint(
        "segment",
        stage_version("segment"),
        [source.fingerprint, moves.fingerprint],
        plain(params),
        _masks_mark(masks),
        None if given is None else context_store.model_fingerprint(given),
    )
    if is_current(path, COARSE, mark) and context_path.is_dir():
        known = open_store(path, COARSE)
        if known.has(CONFIDENCE):  # stores of earlier versions have none
            _warn(features, stores.labels_in(known), stores.full_from(known), params, clip)
            return path
    start = _start(seen, clip, params, masks, given)
    writer = stores.CoarseWriter(
        path,
        out / "tmp",
        mark,
        source=source,
        features=source.fingerprint,
        frames=range(clip.frames),
        shard=seen.shard,
        highest=max([start.highest(params, len(clip.cuts)), *given_frames.labels_given(masks)]),
        params={**moves.params, "segment": plain(params)},
        confidence=True,
    )
    if masks.keys() <= {0}:
        windows = window_loop.segment_windows(clip, start, params)
    else:
        windows = given_frames.segment_from_given(clip, masks, start, params)
    numbering = fit_numbering(start.given.given, source, params, masks, clip.cuts) if given is None else given.numbering
    labels: set[int] = set()
    full: int | None = None
    with progress("segment", clip.frames) as advance:
        for window in windows:
            writer.add(window.initial, window.refined, window.confidence)
            labels |= window.labels
            full = window.start if full is None and window.numbers.are_all(params) else full
            numbering = numbering.with_births(window.born, source.fingerprint, births_made_of(moves, params))
            advance(len(window.refined))
    writer.describe(numbering, full)
    _warn(features, labels, full, params, clip)
    fitted_on = source.fingerprint if given is None else given.fitted_on
    names = None if given is None else given.names
    grid = stores.store_grid(source)
    learnt = context_store.StoredContext(window.context, seen.kind, grid, fitted_on, numbering, names)
    # The store is committed last: where it is current, the model beside it is too.
    context_store.save_context(context_path, learnt)
    return writer.commit()


def _start(
    seen: JoinedFeatures,
    clip: Clip,
    params: SegmentParams,
    masks: Mapping[int, np.ndarray],
    given: StoredContext | None,
) -> Start:
    """Where prediction begins: with a context model, with masks, or with what K-Means finds."""
    from pipeline.segmentation import given_frames, stores, window_loop

    if given is not None:
        return stores.start_from(given, seen.store)
    if masks.keys() <= {0}:
        return window_loop.fit_context(first_features(seen, params, clip.cuts), params, masks.get(0))
    return given_frames.first_start(clip, masks, params)


def _warn(features: Path, labels: Collection[int], full: int | None, params: SegmentParams, clip: Clip) -> None:
    """Warn of one label for everything, and of what enters and becomes no segment.

    Args:
        full: the first frame from which on there are no further segments; None = there is none.
    """
    from pipeline.segmentation.window_loop import single_label_note

    if warning := single_label_note(labels):
        cli.warn(f"{features}: {warning}")
    if full is not None:
        cli.warn(
            f"{features}: from frame {full} on there are {params.label_limit} segments, the most that "
            f"segment.most_labels allows{' of a shot' if clip.cuts else ''}: what enters "
            f"{'it ' if clip.cuts else ''}later takes the nearest one; raise it, or raise segment.birth_factor so that "
            "fewer are born"
        )


def in_clip(params: SegmentParams, features: Store, given: StoredContext | None = None) -> SegmentParams:
    """The parameters with what `auto` and null come to in a clip that begins with a context, if one is given."""
    from math import prod

    from pipeline.segmentation.stores import store_grid

    others = given is not None and given.fitted_on != features.fingerprint
    return params.for_clip(prod(store_grid(features)), others)


def read_masks(seed: Path | None, features: Store, params: SegmentParams) -> dict[int, np.ndarray]:
    """The masks (n,) by position in the clip, where the parameters use them.

    Raises:
        DataError: they cannot be read.
        UsageError: the parameters cannot use those that there are.
    """
    from pipeline.segmentation import given_frames, stores

    merged = params.parity.label_merge == "first_frame"
    if params.init != "mask" and not merged:
        return {}
    indices = stores.source_frames(features)
    masks = stores.read_seed(seed, stores.store_grid(features), indices)
    if masks and params.init == "mask":
        given_frames.check_direction(masks, params, indices)
    elif not masks.keys() <= {0}:
        raise UsageError(f"{seed}: holds masks of later frames, which segment.parity.label_merge does not read")
    return masks


def check_masks(seed: Path, clip: Path, params: SegmentParams) -> None:
    """What `run` would refuse of masks, refused before features are computed; raises as `given_frames.check_direction`.

    Args:
        clip: clip.zarr.
    """
    from pipeline.segmentation import given_frames, stores
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    indices = open_store(clip, CLIP).attrs["source_indices"]
    if params.init == "mask" and (masks := stores.read_seed(seed, (1, 1), indices)):
        given_frames.check_direction(masks, params, indices)


def fit_numbering(
    labels: Iterable[int],
    features: Store,
    params: SegmentParams,
    masks: Mapping[int, np.ndarray],
    cuts: Sequence[int] = (),
) -> Numbering:
    """What gives labels their numbers where a context model is fitted on frame 1, or on masks."""
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.store import fingerprint

    seen = _masks_mark(masks)
    seen_frames = frames_of_kmeans(params, cuts)
    short = [] if seen_frames == frames_of_kmeans(params) else [seen_frames]
    origin = fingerprint("numbering", stage_version("segment"), features.fingerprint, plain(params), seen, *short)
    return Numbering(origin, tuple(sorted(labels)))


def _masks_mark(masks: Mapping[int, np.ndarray]) -> object:
    """What of masks goes into a fingerprint: as long as there was the first frame's only, its own."""
    from pipeline.stores.store import array_fingerprint

    marks = {place: array_fingerprint(mask) for place, mask in masks.items()}
    return marks.get(0) if marks.keys() <= {0} else sorted(marks.items())


def births_made_of(matches: Store, params: SegmentParams) -> list[object]:
    """What later segments follow from, born or found anew after a cut, beside what the model and the features do."""
    return [stage_version("segment"), matches.fingerprint, plain(params)]


def first_features(features: JoinedFeatures, params: SegmentParams, cuts: Sequence[int] = ()) -> np.ndarray:
    """What the model is fitted on: frame 1, or the first window where K-Means sees all of it."""
    return features.read(0, frames_of_kmeans(params, cuts))


def frames_of_kmeans(params: SegmentParams, cuts: Sequence[int] = ()) -> int:
    """How many frames K-Means sees: no more than the first shot has, where the clip is cut."""
    return min([params.window, *cuts[:1]]) if params.parity.kmeans_frames == "window" else 1


def run_item(item: str, params_file: Path | None, sets: list[str] | None, context: Path | None) -> None:
    """Segment every video of an item."""
    settings = load(params_file, sets or ())
    key = item_key(item)
    for video in videos_of(key):
        run(
            place("extract", key, video) / "features.zarr",
            place("correspond", key, video) / "matches.zarr",
            place("segment", key, video),
            settings["segment"],
            seed=place("ingest", key, video) / "seed",
            context=context,
        )


SeedOption = Annotated[
    Path | None,
    typer.Option(
        "--seed",
        help="folder with seed.json and masks, as ingest writes it; for segment.init=mask",
    ),
]

app = cli.new_app("Segment a clip on the token grid: features.zarr, matches.zarr -> coarse.zarr, context/.")


@app.command()
def main(
    features: Annotated[Path | None, typer.Argument(help="features.zarr of extract")] = None,
    matches: Annotated[Path | None, typer.Argument(help="matches.zarr of correspond")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for coarse.zarr and context/")] = None,
    seed: SeedOption = None,
    context: Annotated[
        Path | None, typer.Option(help="context/ of another clip (or of `vidseg context fit`) to begin with")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Segment a clip on the token grid: features.zarr, matches.zarr -> coarse.zarr, context/.

    Example: vidseg segment work/features.zarr work/matches.zarr work --set segment.clusters=12

    By hand, for each window of B frames: `vidseg context predict`, `vidseg refine`, `vidseg context update`.
    """
    if features is not None and matches is not None and out_dir is not None:
        run(features, matches, out_dir, load(params, set_ or ())["segment"], seed, context)
    elif item is not None:
        cli.refuse_beside_item({"FEATURES": features, "MATCHES": matches, "OUT_DIR": out_dir, "--seed": seed})
        run_item(item, params, set_, context)
    else:
        raise UsageError("give FEATURES, MATCHES and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
