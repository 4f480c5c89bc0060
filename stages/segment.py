"""features.zarr, matches.zarr -> coarse.zarr, context/: labels on the token grid, window by window."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from stages import cli
from stages.layout import Out, item_key, place, videos_of
from stages.resources import stage_version
from stages.settings import load, param, plain

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artifacts import Store
    from pipeline.segmentation import SegmentSettings


@dataclass(frozen=True)
class Params:
    """Section `segment`."""

    init: str = param("kmeans", "K-Means on frame 1, or mask: its labels are given", choices=("kmeans", "mask"))
    clusters: int = param(20, "K, number of segments", low=1)
    restarts: int = param(10, "K-Means runs; the best counts", low=1)
    kmeans_frames: str = param(
        "first",
        "frames that K-Means sees: the first, or all of the first window",
        choices=("first", "window"),
    )
    features: str = param("aggregated", "features of the context model", choices=("aggregated", "matching"))
    window: int = param(14, "B, frames per window", low=1)
    neighbors: int = param(4, "k of the nearest-neighbour vote", low=1)
    first_frame: str = param("keep", "frame 1 keeps its labels, or is predicted again", choices=("keep", "predict"))
    memory: str = param(
        "last_window", "what the context remembers: last_window, first_and_last, sliding:N (last N windows)"
    )
    vote: str = param(
        "forward",
        "vote along tracks: forward (Eq. 5), both directions, none",
        choices=("forward", "both", "none"),
    )
    label_merge: str = param(
        "none", "first_frame: clusters take the labels of the given mask", choices=("none", "first_frame")
    )
    seed: int = param(0, "seed of K-Means", low=0)

    def __post_init__(self) -> None:
        from pipeline.context import parse_memory

        parse_memory(self.memory)


def loop_settings(params: Params) -> SegmentSettings:
    """The library's settings: all of the section but `features`, which chooses the array to read."""
    from pipeline.segmentation import SegmentSettings

    return SegmentSettings(**{name: value for name, value in asdict(params).items() if name != "features"})


def run(
    features: Path,
    matches: Path,
    out: Out,
    params: Params,
    seed: Path | None = None,
    context: Path | None = None,
) -> Path:
    """Segment one clip.

    Args:
        seed: folder with the first frame's mask, as ingest writes it; read by `init: mask` and `label_merge`.
        context: a context model to begin with, e.g. another clip's; frame 1 is then predicted from it.

    Returns:
        the path of coarse.zarr; context/, the model after the last window, lies beside it.
    """
    from pipeline import artifacts, context_store, segment_stores, segmentation

    path, context_path = out / "coarse.zarr", out / "context"
    artifacts.refuse_foreign_store(path, artifacts.COARSE)
    context_store.refuse_foreign_context(context_path)
    source = artifacts.open_store(features, artifacts.FEATURES)
    moves = artifacts.open_store(matches, artifacts.MATCHES)
    clip = segment_stores.make_clip(source, moves, params.features)
    settings = loop_settings(params)
    kind = segment_stores.feature_kind(source, params.features)
    given = None if context is None else context_store.load_context(context, kind)
    mask = None if given else read_mask(seed, source, params)
    mark = artifacts.fingerprint(
        "segment",
        stage_version("segment"),
        [source.fingerprint, moves.fingerprint],
        plain(params),
        None if mask is None else artifacts.array_fingerprint(mask),
        None if given is None else context_store.model_fingerprint(given),
    )
    if artifacts.is_current(path, artifacts.COARSE, mark) and context_path.is_dir():
        return path
    if given is None:
        start = segmentation.fit_context(first_features(source, params), settings, mask)
    else:
        start = segment_stores.start_from(given, source)
    writer = segment_stores.CoarseWriter(
        path,
        out / "tmp",
        mark,
        source=source,
        features=source.fingerprint,
        frames=range(clip.frames),
        shard=artifacts.shard_frames(source.array(params.features)),
        highest=int(start.context.labels.max()),
        params={**moves.params, "segment": plain(params)},
    )
    labels: set[int] = set()
    with cli.progress("segment", clip.frames) as advance:
        for window in segmentation.segment_windows(clip, start, settings):
            writer.add(window.initial, window.refined)
            labels |= window.labels
            advance(len(window.refined))
    if warning := segmentation.single_label_note(labels):
        cli.note(f"warning: {features}: {warning}")
    learnt = context_store.StoredContext(
        window.context,
        kind,
        segment_stores.store_grid(source),
        source.fingerprint if given is None else given.fitted_on,
    )
    # The store is committed last: where it is current, the model beside it is too.
    context_store.save_context(context_path, learnt)
    return writer.commit()


def read_mask(seed: Path | None, features: Store, params: Params) -> np.ndarray | None:
    """The first frame's mask, where the parameters use one."""
    from pipeline import segment_stores

    if params.init != "mask" and params.label_merge != "first_frame":
        return None
    return segment_stores.read_seed(seed, segment_stores.store_grid(features))


def first_features(features: Store, params: Params) -> np.ndarray:
    """What the model is fitted on: frame 1, or the first window where K-Means sees all of it."""
    from pipeline.segment_stores import read_context_features

    return read_context_features(features, params.features, 0, params.window if params.kmeans_frames == "window" else 1)


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
        help="folder with seed.json and the first frame's mask, as ingest writes it; for segment.init=mask",
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
        run_item(item, params, set_, context)
    else:
        raise UsageError("give FEATURES, MATCHES and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
