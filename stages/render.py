"""clip, labels (features, coarse) -> overlay, label PNGs, contact sheet, feature PCA, x-t slices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from stages import cli
from stages.layout import DATA, Place, item_key, videos_of
from stages.settings import load, param

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artifacts import Schema, Store
    from pipeline.rendering.clip_frames import ClipPictures
    from pipeline.rendering.label_summary import LabelUse
    from pipeline.rendering.sheets import LegendEntry


@dataclass(frozen=True)
class Params:
    """Section `render`."""

    opacity: float = param(0.55, "of the labels over the picture", low=0.0, high=1.0)
    extras: bool = param(True, "feature PCA and x-t slices")
    slice_row: float = param(0.5, "row of the x-t slices: 0 = top, 1 = bottom", low=0.0, high=1.0)


def run(
    clip: Path,
    labels: Path,
    out: Path,
    params: Params,
    *,
    features: Path | None = None,
    coarse: Path | None = None,
    compare: Path | None = None,
) -> Path:
    """Draw one clip's results into the folder `out`, and return it.

    Args:
        features: with `extras`, adds pictures of the features' principal components.
        coarse: with `extras`, adds coarse labels to the x-t slice.
        compare: labels.zarr of another run on the same clip; adds compare.mp4, both side by side.

    Raises:
        DataError: the stores are of different clips, or `out` has a folder `labels` of another origin.
    """
    from pipeline import artifacts
    from pipeline.rendering import clip_frames
    from pipeline.rendering.palette import overlay_colours

    clip_store = artifacts.open_store(clip, artifacts.CLIP)
    label_store = _open(labels, artifacts.LABELS, "labels", clip_store)
    feature_store = _open(features, artifacts.FEATURES, "aggregated", clip_store) if features else None
    coarse_store = _open(coarse, artifacts.COARSE, "refined", clip_store) if coarse else None
    other_store = _open(compare, artifacts.LABELS, "labels", clip_store) if compare else None
    check_replaceable(out)
    pictures = clip_frames.open_pictures(clip_store)
    if pictures.warning:
        cli.note(f"warning: {clip}: {pictures.warning}")
    colours = overlay_colours()
    draws_features = params.extras and feature_store is not None
    passes = 3 + draws_features + (other_store is not None)
    with _scratch(out) as scratch, cli.progress("render", passes * clip_store.frames("frames")) as advance:
        uses = _write_labels(label_store, clip_store, colours, scratch, advance)
        legend = _legend(uses, colours)
        _write_overlay(pictures, label_store, legend, colours, params.opacity, scratch, advance)
        _write_label_pages(pictures, label_store, coarse_store, legend, colours, params, scratch, advance)
        if params.extras and feature_store is not None:
            _write_feature_pages(clip_store, feature_store, params, scratch, advance)
        if other_store is not None:
            _write_comparison(pictures, label_store, other_store, colours, params.opacity, scratch, advance)
        _publish(scratch, out)
    return out


def _write_labels(
    labels: Store, clip: Store, colours: np.ndarray, folder: Path, advance: cli.Advance
) -> list[LabelUse]:
    from pipeline.pictures import write_label_png
    from pipeline.rendering.clip_frames import frames_of
    from pipeline.rendering.label_summary import LabelTally, listing

    names, tally = clip.attrs["names"], LabelTally()
    for name, plane in zip(names, frames_of(labels, "labels"), strict=True):
        tally.add(plane)
        write_label_png(folder / "labels" / f"{name}.png", plane)
        advance(1)
    content = listing(tally.uses(), names, labels.array("labels").shape[1:], colours)
    (folder / "labels.json").write_text(json.dumps(content, indent=1) + "\n")
    return tally.uses()


def _legend(uses: Sequence[LabelUse], colours: np.ndarray) -> list[LegendEntry]:
    from pipeline.rendering.sheets import LegendEntry

    entries = []
    for use in uses:
        red, green, blue = colours[use.id % len(colours)].tolist()
        percent = f"{100 * use.share:.0f} %" if use.share >= 0.005 else "<1 %"
        entries.append(LegendEntry((red, green, blue), f"label {use.id} ({percent})", str(use.id)))
    return entries


def _write_overlay(
    pictures: ClipPictures,
    labels: Store,
    legend: Sequence[LegendEntry],
    colours: np.ndarray,
    opacity: float,
    folder: Path,
    advance: cli.Advance,
) -> None:
    from pipeline.rendering.drawing import overlay
    from pipeline.rendering.sheets import legend_strip

    frames = (
        legend_strip(overlay(image, plane, colours, opacity), legend) for image, plane in _pairs(pictures, labels)
    )
    _write_video(folder / "overlay.mp4", frames, pictures.clip, advance)


def _write_label_pages(
    pictures: ClipPictures,
    labels: Store,
    coarse: Store | None,
    legend: Sequence[LegendEntry],
    colours: np.ndarray,
    params: Params,
    folder: Path,
    advance: cli.Advance,
) -> None:
    from pipeline.pictures import write_image
    from pipeline.rendering.label_pages import LabelPages

    total = labels.frames("labels")
    pages = LabelPages(total, pictures.size, colours, params.opacity, params.slice_row, coarse)
    for image, plane in _pairs(pictures, labels):
        pages.add(image, plane)
        advance(1)
    write_image(folder / "contact_sheet.png", pages.sheet(pictures.clip.attrs["names"], legend))
    if params.extras:
        write_image(folder / "slices/labels.png", pages.slices())


def _write_feature_pages(clip: Store, features: Store, params: Params, folder: Path, advance: cli.Advance) -> None:
    from pipeline.pictures import write_image
    from pipeline.rendering.feature_pages import FeaturePages

    pages = FeaturePages(clip, features, params.slice_row)
    _write_video(folder / "features/pca.mp4", pages.pages(), clip, advance)
    write_image(folder / "features/pca.png", pages.strip())
    write_image(folder / "slices/features.png", pages.slices())


def _write_comparison(
    pictures: ClipPictures,
    labels: Store,
    other: Store,
    colours: np.ndarray,
    opacity: float,
    folder: Path,
    advance: cli.Advance,
) -> None:
    from pipeline.rendering.comparison import side_by_side

    frames = side_by_side(pictures, labels, other, colours, opacity)
    _write_video(folder / "compare.mp4", frames, pictures.clip, advance)


def _write_video(path: Path, frames: Iterable[np.ndarray], clip: Store, advance: cli.Advance) -> None:
    from pipeline.video import write_video

    def counted() -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            advance(1)

    write_video(path, counted(), float(clip.attrs["fps"]))


def _pairs(pictures: ClipPictures, labels: Store) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from pipeline.rendering.clip_frames import frames_of

    return zip(pictures.images(), frames_of(labels, "labels"), strict=True)


def _open(path: Path, schema: Schema, array: str, clip: Store) -> Store:
    """Open a store and check that it is of the same clip."""
    from pipeline.artifacts import open_store

    store = open_store(path, schema)
    frames, expected = store.frames(array), clip.frames("frames")
    if frames != expected:
        raise DataError(f"{path} has {frames} frames but {clip.path} {expected}: they are of different clips")
    if array == "labels" and list(store.array(array).shape[1:]) != list(clip.attrs["source_size"]):
        (height, width), source = store.array(array).shape[1:], clip.attrs["source_size"]
        raise DataError(
            f"{path} is {width}x{height} but the source of {clip.path} {source[1]}x{source[0]}; "
            "run `vidseg upsample` again"
        )
    return store


def check_replaceable(out: Path) -> None:
    """Refuse to replace a `labels` folder of another origin; ours has labels.json beside it."""
    from pipeline.rendering.label_summary import FORMAT

    try:
        ours = json.loads((out / "labels.json").read_text())["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if (out / "labels").exists() and not ours:
        raise DataError(f"{out / 'labels'}: was not written by `vidseg render`; choose another OUT_DIR")


#: All that the stage may write; what a run does not write is removed.
OUTPUTS = (
    "labels.json", "labels", "overlay.mp4", "contact_sheet.png", "compare.mp4",
    "features/pca.mp4", "features/pca.png", "slices/features.png", "slices/labels.png",
)  # fmt: skip


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    folder = out / "tmp" / "render"
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        for parent in (out / "tmp", out):
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()


def _publish(scratch: Path, out: Path) -> None:
    from pipeline.artifacts import replace_folder

    # labels.json goes first: a kill in between must not leave `labels` looking like somebody else's.
    for name in OUTPUTS:
        made, target = scratch / name, out / name
        if made.is_dir():
            replace_folder(made, target)
        elif made.exists():
            target.parent.mkdir(exist_ok=True)
            made.replace(target)
        else:
            target.unlink(missing_ok=True)
            if target.parent != out and target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Render every video of an item."""
    params = load(params_file, sets or ())["render"]
    key = item_key(item)
    for video in videos_of(key):
        run(
            Place(DATA / "ingest" / key, video) / "clip.zarr",
            Place(DATA / "upsample" / key, video) / "labels.zarr",
            DATA / "render" / key / (video or ""),
            params,
            features=Place(DATA / "extract" / key, video) / "features.zarr",
            coarse=Place(DATA / "segment" / key, video) / "coarse.zarr",
        )


app = cli.new_app("Draw the results: clip, labels -> overlay, label PNGs, contact sheet, extras.")


@app.command()
def main(
    clip: Annotated[Path | None, typer.Argument(help="clip.zarr of ingest")] = None,
    labels: Annotated[Path | None, typer.Argument(help="labels.zarr of upsample")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for the pictures")] = None,
    features: Annotated[Path | None, typer.Option(help="features.zarr: adds features/, slices/")] = None,
    coarse: Annotated[Path | None, typer.Option(help="coarse.zarr: adds it to slices/labels.png")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="labels.zarr of another run on this clip: adds compare.mp4")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Draw the results: overlay.mp4, labels/, labels.json, contact_sheet.png, features/, slices/.

    Example: vidseg render work/clip.zarr work/labels.zarr pictures --features work/features.zarr
    """
    if clip and labels and out_dir:
        settings = load(params, set_ or ())
        run(clip, labels, out_dir, settings["render"], features=features, coarse=coarse, compare=compare)
    elif item is not None:
        run_item(item, params, set_)
    else:
        raise UsageError("give CLIP, LABELS and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
