"""clip, labels (features, coarse) -> overlay, label PNGs, contact sheet, feature PCA, x-t slices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import RenderParams
from stages.common import cli
from stages.common.applied import applied_of, is_applied
from stages.common.layout import DATA, beside, cuts_in, item_key, names_of, place, videos_of
from stages.common.settings import load

if TYPE_CHECKING:
    import numpy as np

    from pipeline.rendering.clip_frames import ClipPictures
    from pipeline.rendering.label_summary import LabelUse
    from pipeline.rendering.sheets import LegendEntry
    from pipeline.stores.clip_source import ClipSource
    from pipeline.stores.schemas import Schema
    from pipeline.stores.store import Store


def run(
    clip: Path,
    labels: Path,
    out: Path,
    params: RenderParams,
    *,
    source: Path | None = None,
    features: Path | None = None,
    coarse: Path | None = None,
    compare: Path | None = None,
    names: Path | None = None,
    cuts: Path | None = None,
) -> Path:
    """Draw one clip's results into the folder `out`, and return it.

    Args:
        source: folder source/ of ingest: where the clip came from, and its rate; None = beside the clip, and
            without one there the clip's own frames are enlarged.
        features: with `extras`, adds pictures of the features' principal components.
        coarse: with `extras`, adds coarse labels to the x-t slice.
        compare: labels.zarr of another run on the same clip; adds compare.mp4, both side by side.
        names: names.json, applied to the labels; they may also be those of named.zarr.
        cuts: folder cuts/ of ingest; None = beside the clip, and without one there the clip is one shot.

    Raises:
        DataError: the stores are of different clips, the names of other segments, or `out` has a folder `labels` of
            another origin.
    """
    from pipeline.files import scratch_folder
    from pipeline.naming.segments import segments_of
    from pipeline.naming.stores import with_names
    from pipeline.rendering.palette import overlay_colours, with_chosen
    from pipeline.stores.schemas import CLIP, COARSE, FEATURES, LABELS
    from pipeline.stores.store import open_store
    from stages.common.report_page import FILE, Reported, title_of, write_report

    clip_store = open_store(clip, CLIP)
    unnamed = open_matching(labels, LABELS, clip_store, "labels")
    label_store = with_names(unnamed, names)
    feature_store = open_matching(features, FEATURES, clip_store, "aggregated", "encoder") if features else None
    coarse_store = open_matching(coarse, COARSE, clip_store, "refined") if coarse else None
    other_store = open_matching(compare, LABELS, clip_store, "labels") if compare else None
    check_replaceable(out)
    pictures = open_pictures(clip_store, source, cuts)
    segments = segments_of(label_store)
    colours = with_chosen(overlay_colours(), {s.id: s.color for s in segments.values() if s.color is not None})
    draws_features = params.extras and feature_store is not None
    passes = 2 + draws_features + (other_store is not None) + params.report
    total = passes * clip_store.frames("frames")
    with scratch_folder(out / "tmp" / "render") as scratch, cli.progress("render", total) as advance:
        uses = _write_labels(label_store, pictures, colours, scratch, params.labels, advance)
        legend = _legend(uses, colours, _named(label_store))
        drawing = _Drawing(pictures, label_store, legend, colours, params, scratch, advance)
        drawing.write_label_pictures(coarse_store)
        if params.extras and feature_store is not None:
            drawing.write_feature_pages(feature_store)
        if other_store is not None:
            drawing.write_comparison(other_store)
        if params.report:
            shown = Reported(pictures, unnamed, label_store, feature_store, coarse_store, repeatable=True)
            title = title_of(source_of(clip_store, source))
            write_report(scratch / FILE, title, [("", shown)], params, advance)
        _publish(scratch, out)
    return out


def open_pictures(clip: Store, source: Path | None = None, cuts: Path | None = None) -> ClipPictures:
    """The clip's pictures at the source's size, with a note where they are not the source's own.

    Args:
        source: folder source/ of ingest; None = beside the clip, if there is one.
        cuts: folder cuts/ of ingest; None = beside the clip, if there is one.

    Raises:
        DataError: a folder that is given, or found, cannot be read.
    """
    from pipeline.rendering import clip_frames
    from pipeline.stores.cuts import find_cuts

    found = find_cuts(cuts, beside(clip.path, "cuts"), clip.frames("frames"))
    pictures = clip_frames.open_pictures(clip, source_of(clip, source))
    if pictures.warning:
        cli.warn(f"{clip.path}: {pictures.warning}")
    return replace(pictures, cuts=found.positions)


def source_of(clip: Store, source: Path | None = None) -> ClipSource | None:
    """Where a clip came from; None = it is not known.

    Args:
        source: as of `open_pictures`.

    Raises:
        DataError: the folder that is given, or found, cannot be read.
    """
    from pipeline.stores import clip_source

    found = beside(clip.path, "source")
    if source is None and (found / clip_source.FILE).is_file():
        source = found
    return None if source is None else clip_source.read_source(source)


def _write_labels(
    labels: Store, pictures: ClipPictures, colours: np.ndarray, folder: Path, as_png: bool, advance: cli.Advance
) -> list[LabelUse]:
    from pipeline.ahead import mapped
    from pipeline.media.pictures import write_label_png
    from pipeline.naming.segments import void_of
    from pipeline.rendering.clip_frames import frames_of
    from pipeline.rendering.label_summary import LabelTally, listing
    from pipeline.stores.numbering import born_of

    clip, tally = pictures.clip, LabelTally()
    names = clip.attrs["names"]

    def written(named: tuple[str, np.ndarray]) -> np.ndarray:
        name, plane = named
        if name != Path(name).name:
            raise DataError(f"{clip.path}: '{name}' cannot be a frame's name; run `vidseg ingest` again")
        if as_png:
            write_label_png(folder / "labels" / f"{name}.png", plane)
        return plane

    with closing(mapped(written, zip(names, frames_of(labels, "labels"), strict=True))) as planes:
        for plane in planes:
            tally.add(plane)
            advance(1)
    uses, void = tally.uses(void_of(labels)), void_of(labels)
    size = labels.size("labels")
    found = born_of(labels)
    content = listing(uses, names, size, colours, _named(labels), void, found, pictures.times, pictures.cuts)
    (folder / "labels.json").write_text(json.dumps(content, indent=1) + "\n")
    return uses


def _named(labels: Store) -> dict[int, str]:
    """The names of labels; clusters have none until a person gives them one."""
    from pipeline.naming.segments import segments_of

    return {label: segment.name for label, segment in segments_of(labels).items() if segment.name is not None}


def _legend(uses: Sequence[LabelUse], colours: np.ndarray, names: Mapping[int, str]) -> list[LegendEntry]:
    from pipeline.rendering.sheets import LegendEntry, legible

    entries = []
    for use in uses:
        red, green, blue = colours[use.id % len(colours)].tolist()
        percent = f"{100 * use.share:.0f} %" if use.share >= 0.005 else "<1 %"
        name = legible(names.get(use.id, ""))
        # A name in another script would be all question marks; the number says more.
        text = name if any(sign.isalnum() for sign in name) else f"label {use.id}"
        entries.append(LegendEntry((red, green, blue), f"{text} ({percent})", str(use.id)))
    return entries


@dataclass(frozen=True)
class _Drawing:
    """One clip's pictures and labels, and where what is drawn of them goes."""

    pictures: ClipPictures
    labels: Store
    legend: Sequence[LegendEntry]
    colours: np.ndarray
    params: RenderParams
    folder: Path
    advance: cli.Advance

    def write_label_pictures(self, coarse: Store | None) -> None:
        """The overlay, and the sheets that show the labels, in one pass."""
        from pipeline.media.pictures import write_image
        from pipeline.naming.segments import void_of
        from pipeline.rendering.clip_frames import frames_of
        from pipeline.rendering.drawing import overlay
        from pipeline.rendering.label_pages import LabelPages
        from pipeline.rendering.sheets import legend_strip
        from pipeline.stores.confidence import CONFIDENCE

        params, pictures, void = self.params, self.pictures, void_of(self.labels)
        total = self.labels.frames("labels")
        look = self.colours, params.opacity
        pages = LabelPages(total, pictures.size, *look, params.slice_row, coarse, void, pictures.cuts)
        levels = frames_of(self.labels, CONFIDENCE) if self.labels.has(CONFIDENCE) and params.extras else repeat(None)

        def overlays() -> Iterator[np.ndarray]:
            planes = frames_of(self.labels, "labels")
            pairs = zip(pictures.images(), planes, strict=True)
            for (image, plane), sure in zip(pairs, levels, strict=False):
                pages.add(image, plane, sure)
                yield legend_strip(overlay(image, plane, *look, void), self.legend)

        self._write_video("overlay.mp4", overlays())
        names = pictures.clip.attrs["names"]
        write_image(self.folder / "contact_sheet.png", pages.sheet(names, self.legend))
        if (sheet := pages.confidence_sheet(names)) is not None:
            write_image(self.folder / "confidence.png", sheet)
        if params.extras:
            write_image(self.folder / "slices/labels.png", pages.slices())

    def write_feature_pages(self, features: Store) -> None:
        from pipeline.media.pictures import write_image
        from pipeline.rendering.feature_pages import FeaturePages

        pages = FeaturePages(self.pictures.clip, features, self.params.slice_row, self.pictures.cuts)
        self._write_video("features/pca.mp4", pages.pages())
        write_image(self.folder / "features/pca.png", pages.strip())
        write_image(self.folder / "slices/features.png", pages.slices())

    def write_comparison(self, other: Store) -> None:
        from pipeline.rendering.comparison import side_by_side

        frames = side_by_side(self.pictures, self.labels, other, self.colours, self.params.opacity)
        self._write_video("compare.mp4", frames)

    def _write_video(self, name: str, frames: Iterable[np.ndarray]) -> None:
        """Encode frames while the next ones are drawn."""
        from pipeline.ahead import ahead
        from pipeline.media.video import write_video

        def counted(drawn: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for frame in drawn:
                yield frame
                self.advance(1)

        pictures = self.pictures
        with closing(ahead(frames)) as drawn:
            write_video(self.folder / name, counted(drawn), pictures.fps, pictures.aspect, pictures.times)


def open_matching(path: Path, schema: Schema, clip: Store, *arrays: str) -> Store:
    """Open a store and check, by the first of these arrays that it has, that it is of the same clip."""
    from pipeline.stores.store import open_store

    store = open_store(path, schema)
    array = next((name for name in arrays if store.has(name)), arrays[0])
    frames, expected = store.frames(array), clip.frames("frames")
    if frames != expected:
        raise DataError(f"{path} has {frames} frames but {clip.path} {expected}: they are of different clips")
    if array == "labels" and list(store.size(array)) != list(clip.attrs["source_size"]):
        (height, width), source = store.size(array), clip.attrs["source_size"]
        raise DataError(
            f"{path} is {width}x{height} but the source of {clip.path} {source[1]}x{source[0]}; "
            f"run `vidseg {store.stage}` again"
        )
    return store


def check_replaceable(out: Path) -> None:
    """Refuse to replace files of another origin; ours have labels.json beside them."""
    from pipeline.files import Mark
    from pipeline.rendering.label_summary import FORMAT

    foreign = [name for name in OUTPUTS if (out / name).exists()]
    if foreign and not Mark("labels.json", FORMAT, ("format",)).on(out):
        raise DataError(f"{out / foreign[0]}: was not written by `vidseg render`; choose another OUT_DIR")


#: All that the stage may write; what a run does not write is removed.
OUTPUTS = (
    "labels.json", "labels", "overlay.mp4", "contact_sheet.png", "confidence.png", "compare.mp4", "report.html",
    "features/pca.mp4", "features/pca.png", "slices/features.png", "slices/labels.png",
)  # fmt: skip


def _publish(scratch: Path, out: Path) -> None:
    from pipeline.files import remove_folder, replace_folder

    # labels.json goes first: a kill in between must not leave `labels` looking like somebody else's.
    for name in OUTPUTS:
        made, target = scratch / name, out / name
        if made.is_dir():
            replace_folder(made, target)
        elif made.exists():
            target.parent.mkdir(exist_ok=True)
            made.replace(target)
        elif target.is_dir():
            remove_folder(target)
        else:
            target.unlink(missing_ok=True)
            if target.parent != out and target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()


def run_item(item: str, params_file: Path | None, sets: list[str] | None) -> None:
    """Render every video of an item, or what is applied to it."""
    params = load(params_file, sets or ())["render"]
    if is_applied(item):
        applied = applied_of(item)
        for video in applied.videos():
            run(
                applied.place("ingest", video) / "clip.zarr",
                applied.place("apply", video) / "labels.zarr",
                DATA / "render" / applied.name / (video or ""),
                params,
                source=applied.place("ingest", video) / "source",
                features=applied.place("extract", video) / "features.zarr",
                names=applied.names_of(video),
                cuts=cuts_in(applied.place("ingest", video)),
            )
        return
    key = item_key(item)
    for video in videos_of(key):
        run(
            place("ingest", key, video) / "clip.zarr",
            place("upsample", key, video) / "labels.zarr",
            DATA / "render" / key / (video or ""),
            params,
            source=place("ingest", key, video) / "source",
            features=place("extract", key, video) / "features.zarr",
            coarse=place("segment", key, video) / "coarse.zarr",
            names=names_of(key, video),
            cuts=cuts_in(place("ingest", key, video)),
        )


app = cli.new_app("Draw the results: clip, labels -> overlay, label PNGs, contact sheet, extras.")


@app.command()
def main(
    clip: Annotated[Path | None, typer.Argument(help="clip.zarr of ingest")] = None,
    labels: Annotated[Path | None, typer.Argument(help="labels.zarr of upsample or apply, or named.zarr")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for the pictures")] = None,
    source: Annotated[
        Path | None, typer.Option(help="source/ of ingest, with full resolution and rate; default: beside CLIP")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="features.zarr: adds features/, slices/")] = None,
    coarse: Annotated[Path | None, typer.Option(help="coarse.zarr: adds it to slices/labels.png")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="labels.zarr of another run on this clip: adds compare.mp4")
    ] = None,
    names: cli.NamesOption = None,
    cuts: Annotated[Path | None, typer.Option(help="cuts/ of ingest; default: beside CLIP, if there is one")] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Draw the results: overlay.mp4, labels/, labels.json, contact_sheet.png, confidence.png, features/, slices/.

    Example: vidseg render work/clip.zarr work/labels.zarr pictures --features work/features.zarr
    """
    if clip and labels and out_dir:
        settings = load(params, set_ or ())
        given = {"source": source, "features": features, "coarse": coarse, "compare": compare, "names": names}
        given |= {"cuts": cuts}
        run(clip, labels, out_dir, settings["render"], **given)
    elif item is not None:
        paths = {"CLIP": clip, "--source": source, "--features": features, "--coarse": coarse, "--compare": compare}
        cli.refuse_beside_item({**paths, "--names": names, "--cuts": cuts})
        run_item(item, params, set_)
    else:
        raise UsageError("give CLIP, LABELS and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
