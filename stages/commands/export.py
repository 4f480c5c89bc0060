"""Labels in the formats of other tools: COCO, YouTube-VIS, DAVIS, CVAT, masks, arrays, video with alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from stages.common import cli
from stages.common.applied import applied_keys, applied_of, is_applied
from stages.common.layout import KEY, VIDEOS, Place, item_keys, names_of, place, videos_of
from stages.common.results import Results

if TYPE_CHECKING:
    from pipeline.stores.store import Store


@dataclass(frozen=True)
class Video:
    """A video with labels.

    Attributes:
        name: in annotations, and of the folders of formats that have one per video.
        labels: with names, where there are any.
        clip: clip.zarr.
        source: folder source/ of ingest.
        place: of its export within the folder for exports; "" = that folder itself.
    """

    name: str
    labels: Store
    clip: Path
    source: Path
    place: str = ""


def run(
    videos: Sequence[Video],
    format: str,
    out: Path,
    *,
    segments: Sequence[str] = (),
    components: bool = False,
    codec: str | None = None,
    images: bool = False,
    min_confidence: float = 0.0,
) -> Path:
    """Export videos into the folder `out`, and return it.

    Args:
        format: one of `FORMATS`.
        segments: labels or names; none = all.
        components: an annotation per connected part, in COCO's instances.
        codec: of the video with alpha: `prores` (None) or `vp9`.
        images: the frames too.
        min_confidence: confidence (0..1) below which a pixel is in no segment.

    Raises:
        UsageError: an unknown format or segment, or an option that is not for the format.
        DataError: something of others where an export goes.
    """
    from pipeline.export import formats
    from pipeline.export.labelled_clip import labelled_clip
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store
    from stages.render import open_pictures

    export = formats.choose(format, components, codec)
    if format == "alpha" and not segments:
        raise UsageError("--format alpha: say what stays visible with --segment, e.g. --segment dog")
    for video in videos:
        formats.check_place(out / video.place, export.all_outputs(images))
    for video in videos:
        pictures = open_pictures(open_store(video.clip, CLIP), video.source if video.source.exists() else None)
        with cli.progress("export", (2 + images) * video.labels.frames("labels")) as advance:
            clip = labelled_clip(video.name, video.labels, pictures, segments, advance, min_confidence)
            formats.write(export, clip, out / video.place, advance, images)
    return out


def videos_to_export(target: str, unnamed: bool = False) -> list[Video]:
    """What a word of the command line stands for: the results of `vidseg run`, or the videos of an item.

    Args:
        target: a folder, or a key of videos.yaml.
        unnamed: the labels as they were found, also where there are named ones.

    Raises:
        UsageError, DataError: neither, or labels that cannot be used.
    """
    if not (Path(target) / "artifacts").is_dir() and VIDEOS.is_file() and KEY.fullmatch(target):
        if is_applied(target):
            applied = applied_of(target)
            return [
                _of_item(
                    target,
                    video,
                    applied.place("ingest", video),
                    applied.place("apply", video),
                    None if unnamed else applied.names_of(video),
                )
                for video in applied.videos()
            ]
        if target in item_keys():
            return [
                _of_item(
                    target,
                    video,
                    place("ingest", target, video),
                    place("upsample", target, video),
                    None if unnamed else names_of(target, video),
                )
                for video in videos_of(target)
            ]
        if not Path(target).exists():
            known = ", ".join([*item_keys(), *applied_keys()])
            raise UsageError(f"{target}: neither a folder nor a key in {VIDEOS}; there are: {known}")
    results = Results(Path(target)).check()
    source = results.stores / "source"
    return [Video(_name(source, Path(target).resolve().name), open_labels(results, unnamed), results.clip, source)]


def _of_item(key: str, video: str | None, made: Place, labelled: Place, names: Path | None) -> Video:
    from pipeline.naming.stores import with_names
    from pipeline.stores.schemas import LABELS
    from pipeline.stores.store import open_store

    labels = with_names(open_store(labelled / "labels.zarr", LABELS), names)
    return Video(video or key, labels, made / "clip.zarr", made / "source", video or "")


def _name(source: Path, otherwise: str) -> str:
    """What the video's file is called, as far as that is known."""
    from pipeline.stores.clip_source import FILE, read_source

    return read_source(source).path.resolve().stem if (source / FILE).is_file() else otherwise


def open_labels(results: Results, unnamed: bool = False) -> Store:
    """The labels of some results: the named ones where there are any.

    Args:
        unnamed: the labels as they were found in any case.

    Raises:
        DataError: the named ones are of labels that are no more.
    """
    from pipeline.naming.stores import NAMED
    from pipeline.stores.schemas import LABELS
    from pipeline.stores.store import open_store

    labels = open_store(results.labels, LABELS)
    if unnamed or not results.named.exists():
        return labels
    named = open_store(results.named, NAMED)
    if named.attrs["labels"] != labels.fingerprint:
        raise DataError(
            f"{results.named}: was made of other labels than those beside it; "
            f"run `vidseg name {results.folder}` again, or take the labels as they were found with --labels"
        )
    return named


def main(
    target: Annotated[
        str, typer.Argument(metavar="DIR|KEY", help="folder of the results of `vidseg run`, or a key of videos.yaml")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="coco-panoptic, coco-instances, youtube-vis, davis, cvat, masks (a black and white PNG per segment "
            "and frame), npz (NumPy) or alpha (a video with all but some segments transparent)",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the export; several formats may share one")],
    segment: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="NAME|LABEL", help="Only this segment: dog, or 3. Repeatable; default: all."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="segments as they were found, without the names of `vidseg name`")
    ] = False,
    images: Annotated[
        bool,
        typer.Option(
            "--images", help="write the frames too, as OUT/images/FRAME.jpg (davis, youtube-vis: JPEGImages/VIDEO)"
        ),
    ] = False,
    components: Annotated[
        bool, typer.Option("--components", help="coco-instances: an annotation per connected part of a segment")
    ] = False,
    codec: Annotated[
        str | None,
        typer.Option("--codec", metavar="prores|vp9", help="alpha: ProRes 4444 in .mov (default), or the smaller VP9"),
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option(
            "--min-confidence",
            min=0.0,
            max=1.0,
            help="leave out pixels whose label is less sure than this; labels need upsample.confidence=true",
        ),
    ] = 0.0,
) -> None:
    """Take the segments of a video to other tools: masks, COCO, YouTube-VIS, DAVIS, CVAT, NumPy, video with alpha.

    Example: vidseg export holiday --format coco-instances -o holiday-coco

    One segment cut out for compositing: vidseg export holiday --format alpha --segment dog -o holiday-dog

    Name segments first (`vidseg name`): names become categories. OUT/export.json says what numbers in the files mean.
    """
    videos = videos_to_export(target, labels)
    run(
        videos, format, out,
        segments=segment or (), components=components, codec=codec, images=images, min_confidence=min_confidence,
    )  # fmt: skip
    cli.note(f"done: {out}")
