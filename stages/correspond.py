"""features.zarr, cuts/ -> matches.zarr: for every token the most similar token of the next frame (Eq. 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from pipeline.parameters import CorrespondParams
from stages.common import cli
from stages.common.layout import Out, beside, cuts_in, item_key, place, videos_of
from stages.common.resources import stage_version
from stages.common.settings import load, plain


def run(
    features: Path,
    out: Out,
    params: CorrespondParams,
    progress: cli.Progress = cli.progress,
    cuts: Path | None = None,
) -> Path:
    """Match the frames of one clip; returns the path of matches.zarr. An interrupted run is continued.

    Args:
        cuts: folder cuts/ of ingest; None = beside the features, and without one there the clip is one shot. The
            store tells what reads it where the clip is cut.
    """
    from pipeline.segmentation.correspondence import next_tokens
    from pipeline.segmentation.joined_features import match_features
    from pipeline.segmentation.stores import CUTS, store_grid
    from pipeline.stores.cuts import find_cuts
    from pipeline.stores.schemas import FEATURES, MATCHES, ArraySpec
    from pipeline.stores.store import fingerprint, is_current, open_store
    from pipeline.stores.writer import StoreWriter

    source = open_store(features, FEATURES)
    seen, (height, width) = match_features(source, params), store_grid(source)
    frames, tokens, shard = seen.frames, height * width, seen.shard
    stored = {**source.params, "correspond": plain(params)}
    shots = find_cuts(cuts, beside(features, "cuts"), frames).positions
    # A clip that is one shot has the store that it had before there were cuts.
    cut = {CUTS: list(shots)} if shots else {}
    mark = fingerprint("correspond", stage_version("correspond"), source.fingerprint, plain(params), *cut.values())
    path = out / "matches.zarr"
    if is_current(path, MATCHES, mark):
        return path
    writer = StoreWriter(
        path,
        out / "tmp",
        MATCHES,
        mark,
        {
            "next": ArraySpec((frames - 1, tokens), "int32", shard),
            "similarity": ArraySpec((frames - 1, tokens), "float16", shard),
        },
        params=stored,
        backbone=source.attrs.get("backbone"),
        attrs={"grid": source.attrs["grid"], "features": source.fingerprint, **cut},
    )
    shards = writer.missing()
    with progress("correspond", sum(len(part) for part in shards)) as advance:
        for part in shards:
            values = seen.read(part.start, part.stop + 1)
            rules = params.max_squared_distance, params.parity.rule
            matches = next_tokens(values, (height, width), *rules, part.start, shots)
            writer.write("next", part.start, matches.next)
            writer.write("similarity", part.start, matches.similarity.astype("float16"))
            advance(len(part))
    return writer.commit()


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Match every video of an item."""
    settings = load(params_file, sets or ())
    key = item_key(item)
    for video in videos_of(key):
        run(
            place("extract", key, video) / "features.zarr",
            place("correspond", key, video),
            settings["correspond"],
            cuts=cuts_in(place("ingest", key, video)),
        )


app = cli.new_app("Match tokens between consecutive frames: features.zarr -> matches.zarr.")


@app.command()
def main(
    features: Annotated[Path | None, typer.Argument(help="features.zarr of extract")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for matches.zarr")] = None,
    cuts: Annotated[
        Path | None, typer.Option(help="cuts/ of ingest; default: beside FEATURES, if there is one")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Match tokens between consecutive frames: features.zarr -> matches.zarr.

    Example: vidseg correspond work/features.zarr work --set correspond.max_squared_distance=8
    """
    if features is not None and out_dir is not None:
        run(features, out_dir, load(params, set_ or ())["correspond"], cuts=cuts)
    elif item is not None:
        cli.refuse_beside_item({"FEATURES": features, "OUT_DIR": out_dir, "--cuts": cuts})
        run_item(item, params, set_)
    else:
        raise UsageError("give FEATURES and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
