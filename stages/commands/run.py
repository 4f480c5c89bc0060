"""One video in, a labelled video out: all stages in a row, without DVC or git."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ResourceError, UsageError
from stages.commands import conclusion, estimates, plans
from stages.commands.run_checks import (
    check_begin,
    check_first_mask,
    check_names,
    check_params,
    check_video,
    numbering_of_context,
)
from stages.common import cli, run_record
from stages.common.printing import in_command
from stages.common.results import Results
from stages.common.settings import Settings, load

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.truth.mask_files import Masks
    from stages.common.run_record import RunRecord


#: The folder, below that of several videos' results, of what was computed of their references.
REFERENCES = ".references"


def run(
    video: Path,
    out: Path,
    settings: Settings,
    ground_truth: Path | None = None,
    classes: Path | None = None,
    mask: Masks | None = None,
    context: Path | None = None,
    dry_run: bool = False,
    backbone: Backbone | None = None,
    names: Path | None = None,
    references: Path | None = None,
) -> Path:
    """Label one video; returns `out`, the folder of its results.

    Artifacts that are there already and fit the parameters are used again. Whatever can be refused is refused
    before anything is computed or written.

    Args:
        mask: as of `ingest.run`.
        context: folder of a context model to begin with, e.g. another clip's.
        names: names.json of these segments; None = what was said of them in `out` before, if it still fits, and else
            the names that the context or the references give them.
        references: annotated images, a folder or refs.zarr, to make the context of.
    """
    from pipeline.segmentation.context_store import names_in
    from stages import correspond, extract, ingest, segment, upsample
    from stages.commands.reference_context import CONTEXT, of_references
    from stages.common import backbones

    source, size = check_video(video, out, settings)
    drawn = check_begin([out], settings, context, references, names)
    if mask is not None and context is None:
        check_first_mask(mask, settings)
    if backbone is None:
        backbone = backbones.load_backbone(settings["backbone"])
    check_params(settings, backbone, size)
    if dry_run:
        begins_with = references or context or ("the masks" if mask is not None else None)
        plans.print_plan(video, out, settings, backbone, source, size, begins_with, drawn)
        return out
    stores = out / "artifacts"
    with output_folder(out):
        record = run_record.begin(video.name, str(backbone.device), settings, out)
        with record.stage("ingest", stores / "clip.zarr"):
            ingest.run(video, stores, settings["ingest"], ground_truth=ground_truth, classes=classes, mask=mask)
        if references is not None:
            with record.stage("references", stores / "references" / CONTEXT):
                context = of_references(references, stores / "references", settings, backbone, drawn)
            check_names(names, out, numbering_of_context(context))
        if context is None:
            segment.check_masks(stores / "seed", stores / "clip.zarr", settings["segment"])
        # Said when the first stage begins to compute: only the stages know whether their stores can be used again.
        estimate = partial(estimates.of_run, settings=settings, backbone=backbone)
        progress = cli.announced(lambda: estimates.announce(stores / "clip.zarr", estimate))
        shared = settings["diffusion"], settings["backbone"], backbone
        with record.stage("extract", stores / "features.zarr"):
            extract.run(stores / "clip.zarr", stores, settings["extract"], *shared, progress=progress)
        with record.stage("correspond", stores / "matches.zarr"):
            correspond.run(stores / "features.zarr", stores, settings["correspond"], progress)
        with record.stage("segment", stores / "coarse.zarr"):
            segment.run(
                stores / "features.zarr",
                stores / "matches.zarr",
                stores,
                settings["segment"],
                seed=stores / "seed",
                context=context,
                progress=progress,
            )
        with record.stage("upsample", stores / "labels.zarr"):
            upsample.run(
                stores / "clip.zarr",
                stores / "latents.zarr",
                stores / "coarse.zarr",
                stores,
                settings["upsample"],
                *shared,
                progress=progress,
            )
        scored = None if ground_truth is None else video.stem
        named = None if context is None else names_in(context)
        score_and_draw(Results(out), settings, scored, Results(out).coarse, names, record, known=named)
    return out


def run_folder(
    folder: Path,
    videos: Sequence[Path],
    out: Path,
    settings: Settings,
    context: Path | None = None,
    dry_run: bool = False,
    names: Path | None = None,
    references: Path | None = None,
) -> list[Path]:
    """Label every video of a folder, each into a folder of its own below `out`, and write out/index.html.

    Each is named like its video without the suffix, which stays where two would have one name. All are looked at
    before the first is computed.

    Returns:
        the folders.
    """
    from pipeline.report.page import refuse_foreign_page
    from stages.commands import report
    from stages.commands.reference_context import of_references
    from stages.common import backbones

    refuse_foreign_page(out / report.INDEX)
    stems = [video.stem for video in videos]
    folders = [out / (video.name if stems.count(video.stem) > 1 else video.stem) for video in videos]
    looked_at = [
        (video, place, *check_video(video, place, settings)) for video, place in zip(videos, folders, strict=True)
    ]
    drawn = check_begin(folders, settings, context, references, names)
    backbone = backbones.load_backbone(settings["backbone"])
    for size in {size for _, _, _, size in looked_at}:
        check_params(settings, backbone, size)
    if references is not None and not dry_run:
        with output_folder(out):
            context = of_references(references, out / REFERENCES, settings, backbone, drawn)
    for number, (video, place, source, size) in enumerate(looked_at, 1):
        cli.note(f"{video.name} ({number} of {len(videos)})")
        if dry_run:
            pictures = drawn if number == 1 else None  # they are seen once
            plans.print_plan(video, place, settings, backbone, source, size, references or context, pictures)
        else:
            run(video, place, settings, context=context, backbone=backbone, names=names)
    if not dry_run:
        report.write_index([report.run_folder(place) for place in folders], folder.resolve().name, out / report.INDEX)
    return folders


def score_and_draw(
    results: Results,
    settings: Settings,
    scored: str | None,
    coarse: Path | None = None,
    names: Path | None = None,
    record: RunRecord | None = None,
    tracks: Path | None = None,
    known: Path | None = None,
) -> None:
    """Name, score and draw a video's labels, and write run.json and the page.

    Args:
        scored: name of the video in its scores; None = there is no ground truth.
        coarse: adds coarse labels to the x-t slice.
        names: names.json; None = what was said of these segments before, if it still fits.
        record: of the stages so far; None = there is no run.json.
        tracks: tracks.zarr, for how steady the labels are; None = that is not scored.
        known: names.json for where nothing was said before.
    """
    from stages import evaluate
    from stages.commands import name, report

    _remove_earlier_scores(results.folder)
    labels = name.named_again(results, names, known)
    with record.stage("evaluate") if record is not None and scored is not None else nullcontext():
        if scored is not None:
            truth = results.stores / "truth.zarr"
            _print_scores(evaluate.run(labels, truth, results.folder, settings["evaluate"], name=scored, tracks=tracks))
    with record.stage("render") if record is not None else nullcontext():
        name.draw(results, labels, settings, coarse)
    if record is not None:
        record.write(results.folder)
    if settings["render"].report:
        report.write([report.run_folder(results.folder)], settings["render"])


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder for a video's results, for one run at a time; one that fails with nothing in it removes it again.

    Raises:
        DataError: it has results of another origin.
        ResourceError: it cannot be written.
        UsageError: another run is writing there.
    """
    from filelock import FileLock, Timeout

    from stages import render

    render.check_replaceable(out)
    run_record.check_replaceable(out)
    lock = FileLock(out / ".running.lock", blocking=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{out}: another run is writing here; wait until it ends, or choose another folder") from error
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written ({error.strerror}); choose another folder with -o") from error
    try:
        yield
        _say_what_is_left(out / "artifacts" / "tmp")
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        for folder in (out / "artifacts", out):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _say_what_is_left(scratch: Path) -> None:
    """Scratch stores that a finished run leaves are of one that was stopped and had other parameters."""
    from pipeline.stores.inventory import folder_bytes

    if scratch.is_dir() and (held := folder_bytes(scratch)):
        cli.note(
            f"left by a run with other parameters that did not end ({held / 1e6:.0f} MB); if you will not go on with "
            f"it, remove it: rm -r {in_command(scratch)}"
        )


def _remove_earlier_scores(out: Path) -> None:
    """Scores of an earlier run would lie beside labels that they do not belong to."""
    from pipeline.files import Mark
    from pipeline.scoring.files import SCHEMA

    if Mark("scores.json", SCHEMA).on(out):
        (out / "scores.json").unlink()


def _print_scores(path: Path) -> None:
    import json

    scores = json.loads(path.read_text())["videos"][0]["scores"]
    shown = {"mIoU": "miou", "VC_8": "vc8", "VC_16": "vc16", "pixel accuracy": "pixel_accuracy"}
    values = {label: scores.get(key) for label, key in shown.items()}
    cli.note(", ".join(f"{label} {value:.3f}" for label, value in values.items() if value is not None))


def main(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the results")],
    segments: Annotated[int | None, typer.Option(help="number of segments K (segment.clusters)")] = None,
    ground_truth: cli.GroundTruthOption = None,
    classes: cli.ClassesOption = None,
    mask: cli.MaskOption = None,
    context: Annotated[Path | None, typer.Option(help="context folder of another clip to begin with")] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="annotated images, as `vidseg learn` takes them: finds their segments by nearest neighbours, without "
            "learning; sets segment.memory=first_and_last, which does not forget them"
        ),
    ] = None,
    names: cli.NamesOption = None,
    preset: cli.PresetOption = None,
    dry_run: cli.DryRunOption = False,
    open_: cli.OpenOption = False,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Label every pixel of one video: a page to look at, overlay, label PNGs and all artifacts.

    A folder with pictures is one video, of frames. A folder with videos only is several: each gets a folder below OUT.

    Example: vidseg run holiday.mp4 -o holiday --segments 12
    """
    from pipeline.media.video import list_videos
    from pipeline.truth.mask_files import parse_masks

    sets, masks = list(set_ or ()), parse_masks(mask or ())
    cli.refuse_together({"--mask": masks, "--references": references, "--context": context})
    if masks is not None or references is not None:
        shown = "--mask" if masks is not None else "--references"
        cli.refuse({"--segments": segments}, f"is how many to find, but {shown} shows which they are")
        sets.insert(0, "segment.init=mask")
    if references is not None:
        sets.insert(0, "segment.memory=first_and_last")
        if ground_truth is None:
            cli.refuse({"--classes": classes}, "goes with --ground-truth; references have theirs in their classes.json")
    if segments is not None:
        sets.append(f"segment.clusters={segments}")
    settings = load(params, sets, preset)
    videos = list_videos(video) if video.is_dir() else []
    if not videos:
        run(video, out, settings, ground_truth, classes, masks, context, dry_run, names=names, references=references)
        page = conclusion.of_video(out) if not dry_run else None
    else:
        given = {"--ground-truth": ground_truth, "--classes": classes, "--mask": masks}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is of one video, but {video} holds {len(videos)}; run them one by one")
        if names is not None and context is None and references is None:
            raise UsageError(
                f"--names: {len(videos)} videos have their names in common only if they begin with one --context or "
                "with --references"
            )
        run_folder(video, videos, out, settings, context, dry_run, names, references)
        page = conclusion.of_folder(len(videos), out) if not dry_run else None
    if open_ and page is not None:
        conclusion.show(page)
