"""coarse.zarr, matches.zarr -> coarse.zarr with refined labels: the vote of Eq. 4-5, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.parameters import SegmentParams
from stages.common import cli
from stages.common.resources import stage_version
from stages.common.settings import load, plain


def run(coarse: Path, matches: Path, out: Path, params: SegmentParams) -> Path:
    """Vote on the `initial` labels of a store, in windows of segment.window frames from its first frame on.

    A window ends where the video is cut, as the matches say.

    Returns:
        the path of the new coarse.zarr; a store in the same place is replaced.
    """
    from pipeline.segmentation import stores, window_loop
    from pipeline.stores.numbering import Numbering
    from pipeline.stores.schemas import COARSE, MATCHES
    from pipeline.stores.store import fingerprint, open_store, shard_frames

    source = open_store(coarse, COARSE)
    moves = open_store(matches, MATCHES)
    stores.require_same_source(source, moves)
    first = int(source.attrs["first_frame"])
    stop = first + source.frames("initial")
    mark = fingerprint(
        "refine", stage_version("segment"), source.fingerprint, moves.fingerprint, params.window, params.vote
    )
    writer = stores.CoarseWriter(
        out / "coarse.zarr",
        out / "tmp",
        mark,
        source=source,
        features=source.attrs["features"],
        frames=range(first, stop),
        shard=shard_frames(source.array("initial")),
        highest=stores.highest_label(source),
        params={**source.params, **moves.params, "segment": plain(params)},
        numbering=Numbering.of_coarse(source),
    )
    for window in window_loop.window_ranges(stop, params.window, first, stores.cuts_of(moves)):
        initial = stores.read_labels(source, "initial", window)
        in_window = stores.read_matches(moves, window.start, window.stop)
        writer.add(initial, window_loop.refine_window(initial, in_window, params).labels)
    return writer.commit()


app = cli.new_app("Refine coarse labels by votes along trajectories (Eq. 4-5).")


@app.command()
def main(
    coarse: Annotated[Path, typer.Argument(help="coarse.zarr of `vidseg context predict`")],
    matches: Annotated[Path, typer.Argument(help="matches.zarr of correspond")],
    out_dir: Annotated[Path, typer.Argument(help="folder for the refined coarse.zarr")],
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Refine coarse labels by votes along trajectories (Eq. 4-5): coarse.zarr, matches.zarr -> coarse.zarr.

    Example: vidseg refine step1/coarse.zarr work/matches.zarr step1-refined

    Reads the array `initial`, writes `initial` and `refined`; segment.vote and segment.window apply.
    """
    run(coarse, matches, out_dir, load(params, set_ or ())["segment"])


if __name__ == "__main__":
    cli.run_app(app)
