"""clip.zarr (features.zarr) -> tracks.zarr: where the points of each frame lie in the frames around it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import TrackParams
from stages.common import cli
from stages.common.applied import applied_keys, applied_of
from stages.common.layout import Out, beside, cuts_in
from stages.common.provenance import check_of_clip
from stages.common.resources import stage_version
from stages.common.settings import load, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.stores.store import Store
    from pipeline.tracking.tracks import FeatureMaps, FrameTracks, Tracker

#: Pixels per cell of the grid of points, which is that of the latents.
CELL = 8


def run(
    clip: Path,
    features: Path | None,
    out: Out,
    params: TrackParams,
    progress: cli.Progress = cli.progress,
    elsewhere: Iterable[Path] = (),
    cuts: Path | None = None,
) -> Path:
    """Track the points of one clip; returns the path of tracks.zarr. An interrupted run is continued.

    Args:
        features: features.zarr of the same clip, for trackers that match features.
        elsewhere: where else tracks.zarr of this clip may lie: one that holds what would be computed is copied.
        cuts: folder cuts/ of ingest; None = beside the clip, and without one there the clip is one shot. Nothing is
            visible beyond a cut.
    """
    import cv2

    from pipeline.files import refuse_foreign
    from pipeline.stores.cuts import find_cuts
    from pipeline.stores.frames import frames_of
    from pipeline.stores.packed import copy_store
    from pipeline.stores.schemas import CLIP, TRACKS, ArraySpec
    from pipeline.stores.store import fingerprint, is_current, open_store
    from pipeline.stores.writer import StoreWriter
    from pipeline.tracking.tracks import Clip, Tracks, within_shots

    source = open_store(clip, CLIP)
    tracker = _tracker(params)
    maps, seen = _features(features, source, params) if tracker.needs_features else (None, None)
    stored = {"track": _stored(params)}
    frames, (height, width) = source.frames("frames"), source.size("frames")
    shots = find_cuts(cuts, beside(clip, "cuts"), frames).positions
    # A clip that is one shot has the store that it had before there were cuts.
    cut = [list(shots)] if shots else []
    mark = fingerprint("track", stage_version("track"), source.fingerprint, seen, stored, _file_mark(params), *cut)
    path = out / "tracks.zarr"
    if is_current(path, TRACKS, mark):
        return path
    if (twin := next((other for other in elsewhere if is_current(other, TRACKS, mark)), None)) is not None:
        refuse_foreign(path, TRACKS.mark)
        return copy_store(twin, path, out / "tmp" / mark)
    grid = height // CELL, width // CELL
    points, window = grid[0] * grid[1], min(params.window, frames)
    writer = StoreWriter(
        path,
        out / "tmp",
        TRACKS,
        mark,
        {
            "yx": ArraySpec((frames, window, points, 2), "int16", params.shard),
            "visible": ArraySpec((frames, window, points), "bool", params.shard),
            "start": ArraySpec((frames,), "int32", params.shard),
        },
        params=stored,
        attrs={
            "grid": list(grid),
            "clip": source.fingerprint,
            "tracker": tracker.name,
            **({"opencv": cv2.__version__} if params.method == "flow" else {}),
        },
    )
    missing = writer.missing()
    asked = [frame for shard in missing for frame in shard]
    # One stream for all that is missing: what neighbouring frames share is computed once.
    stream = tracker.stream(Clip(frames_of(source, "frames"), maps, grid, params.window), asked)
    with progress("track", len(asked)) as advance:
        for shard in missing:
            tracks = within_shots(Tracks.of(_counted(stream, len(shard), advance)), shard.start, shots)
            for name in ("yx", "visible", "start"):
                writer.write(name, shard.start, getattr(tracks, name))
    return writer.commit()


def _tracker(params: TrackParams) -> Tracker:
    from pipeline.tracking.choose import make_tracker
    from stages.common.backbones import choose_device

    device = str(choose_device()) if params.method == "cotracker" else "cpu"
    file = None if params.file is None else Path(params.file)
    return make_tracker(params.method, max_squared_distance=params.max_squared_distance, file=file, device=device)


def _stored(params: TrackParams) -> dict[str, Any]:
    """The parameters without what only says where a file lies: the fingerprint has its content."""
    return plain(replace(params, file=None if params.file is None else Path(params.file).name))


def _file_mark(params: TrackParams) -> str | None:
    from pipeline.backbone.files import file_hash

    if params.file is None or params.method not in ("file", "cotracker"):
        return None
    try:
        return file_hash(Path(params.file)).hex()
    except OSError as error:
        raise DataError(f"{params.file}: cannot be read ({error.strerror}); name another with track.file") from error


def _features(features: Path | None, clip: Store, params: TrackParams) -> tuple[FeatureMaps, str]:
    """What a tracker matches, and the fingerprint of the store that it is read from."""
    from pipeline.segmentation.joined_features import match_features
    from pipeline.segmentation.stores import store_grid
    from pipeline.stores.frames import Frames
    from pipeline.stores.schemas import FEATURES
    from pipeline.stores.store import open_store
    from pipeline.tracking.tracks import FeatureMaps

    if features is None:
        raise UsageError(f"track.method is {params.method}: give FEATURES, or choose track.method=flow")
    store = open_store(features, FEATURES)
    check_of_clip(store, clip)
    seen = match_features(store, params)
    return FeatureMaps(Frames(seen.frames, seen.read), store_grid(store)), store.fingerprint


def _counted(stream: Iterator[FrameTracks], count: int, advance: cli.Advance) -> Iterator[FrameTracks]:
    for tracks in islice(stream, count):
        yield tracks
        advance(1)


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Track every video of what is applied under a name: an item has the same tracks under all of its names."""
    params, applied = load(params_file, sets or ())["track"], applied_of(item)
    others = [other for other in map(applied_of, applied_keys()) if other.item == applied.item]
    for video in applied.videos():
        run(
            applied.place("ingest", video) / "clip.zarr",
            applied.place("extract", video) / "features.zarr",
            applied.place("track", video),
            _of_video(params, video or applied.item),
            elsewhere=[other.place("track", video) / "tracks.zarr" for other in others if other.name != applied.name],
            cuts=cuts_in(applied.place("ingest", video)),
        )


def _of_video(params: TrackParams, name: str) -> TrackParams:
    """With the file of one video, where track.file is a folder of them."""
    if params.method != "file" or params.file is None or not Path(params.file).is_dir():
        return params
    return replace(params, file=str(Path(params.file) / f"{name}.npz"))


app = cli.new_app("Track the points of each frame through its neighbours: clip.zarr -> tracks.zarr.")


@app.command()
def main(
    clip: Annotated[Path | None, typer.Argument(help="clip.zarr of ingest")] = None,
    features_or_out: Annotated[
        Path | None, typer.Argument(metavar="[FEATURES]", help="features.zarr of extract, for track.method=features")
    ] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for tracks.zarr")] = None,
    cuts: Annotated[Path | None, typer.Option(help="cuts/ of ingest; default: beside CLIP, if there is one")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.AppliedOption = None,
) -> None:
    """Track the points of each frame through its neighbours: clip.zarr -> tracks.zarr.

    Example: vidseg track work/clip.zarr work --set track.method=flow
    """
    features, out = (features_or_out, out_dir) if out_dir is not None else (None, features_or_out)
    if clip is not None and out is not None:
        run(clip, features, out, load(params, set_ or ())["track"], cuts=cuts)
    elif item is not None:
        cli.refuse_beside_item({"CLIP": clip, "OUT_DIR": out, "--cuts": cuts})
        run_item(item, params, set_)
    else:
        raise UsageError("give CLIP and OUT_DIR (FEATURES between them if they are matched), or --item NAME")


if __name__ == "__main__":
    cli.run_app(app)
