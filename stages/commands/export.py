"""Labels in the formats of other tools: COCO, YouTube-VIS, DAVIS, CVAT, masks, arrays, video with alpha."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from stages.common import cli
from stages.common.results import Results

if TYPE_CHECKING:
    from pipeline.stores.store import Store


def run(
    folder: Path,
    format: str,
    out: Path,
    *,
    segments: Sequence[str] = (),
    unnamed: bool = False,
    components: bool = False,
    codec: str | None = None,
    images: bool = False,
) -> Path:
    """Export one video's labels into the folder `out`, and return it.

    Args:
        folder: of the results of `vidseg run`.
        format: one of `FORMATS`.
        segments: labels or names; none = all.
        unnamed: the labels as they were found, also where there are named ones.
        components: an annotation per connected part, in COCO's instances.
        codec: of the video with alpha: `prores` (None) or `vp9`.
        images: the frames too.

    Raises:
        UsageError: an unknown format or segment, or an option that is not for the format.
        DataError: no results, named labels of an earlier run, or something of others where the export goes.
    """
    from pipeline.export import formats
    from pipeline.export.labelled_clip import labelled_clip
    from pipeline.stores.clip_source import FILE, read_source
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store
    from stages.render import open_pictures

    export = formats.choose(format, components, codec)
    if format == "alpha" and not segments:
        raise UsageError("--format alpha: say what stays visible with --segment, e.g. --segment dog")
    results = Results(folder).check()
    formats.check_place(out, export.all_outputs(images))
    labels = open_labels(results, unnamed)
    pictures = open_pictures(open_store(results.clip, CLIP))
    source = results.stores / "source"
    name = read_source(source).path.resolve().stem if (source / FILE).is_file() else folder.resolve().name
    with cli.progress("export", (2 + images) * labels.frames("labels")) as advance:
        clip = labelled_clip(name, labels, pictures, segments, advance)
        return formats.write(export, clip, out, advance, images)


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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of the results of `vidseg run`")],
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
) -> None:
    """Take the segments of a video to other tools: masks, COCO, YouTube-VIS, DAVIS, CVAT, NumPy, video with alpha.

    Example: vidseg export holiday --format coco-instances -o holiday-coco

    One segment cut out for compositing: vidseg export holiday --format alpha --segment dog -o holiday-dog

    Name segments first (`vidseg name`): names become categories. OUT/export.json says what numbers in the files mean.
    """
    run(
        folder,
        format,
        out,
        segments=segment or (),
        unnamed=labels,
        components=components,
        codec=codec,
        images=images,
    )
    cli.note(f"done: {out}")
