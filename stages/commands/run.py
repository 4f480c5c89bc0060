"""One video in, a labelled video out: all stages in a row, without DVC or git."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ResourceError, UsageError
from stages.common import cli
from stages.common.results import Results
from stages.common.settings import Settings, load

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.media.video import FrameSource


def run(
    video: Path,
    out: Path,
    settings: Settings,
    ground_truth: Path | None = None,
    classes: Path | None = None,
    mask: Path | None = None,
    context: Path | None = None,
    dry_run: bool = False,
    backbone: Backbone | None = None,
    names: Path | None = None,
) -> Path:
    """Label one video; returns `out`, the folder of its results.

    Artifacts that are there already and fit the parameters are used again. Whatever can be refused is refused
    before anything is computed or written.

    Args:
        context: folder of a context model to begin with, e.g. another clip's.
        names: names.json of these segments; None = what was said of them in `out` before, if it still fits.
    """
    from stages import correspond, extract, ingest, segment, upsample
    from stages.common import backbones, encoders

    source, size = check_video(video, out, settings)
    _check_names(names, context)
    encoders.check_weights(settings, ("segment", "correspond"))
    if backbone is None:
        backbone = backbones.load_backbone(settings["backbone"])
    _check_params(settings, backbone, size)
    if dry_run:
        _print_plan(video, out, settings, backbone, source, size)
        return out
    stores = out / "artifacts"
    with output_folder(out):
        ingest.run(video, stores, settings["ingest"], ground_truth=ground_truth, classes=classes, mask=mask)
        # Said when the first stage begins to compute: only the stages know whether their stores can be used again.
        progress = cli.announced(lambda: _print_estimate(stores / "clip.zarr", settings, backbone))
        shared = settings["diffusion"], settings["backbone"], backbone
        extract.run(stores / "clip.zarr", stores, settings["extract"], *shared, progress=progress)
        correspond.run(stores / "features.zarr", stores, settings["correspond"], progress)
        segment.run(
            stores / "features.zarr",
            stores / "matches.zarr",
            stores,
            settings["segment"],
            seed=stores / "seed",
            context=context,
            progress=progress,
        )
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
        score_and_draw(Results(out), settings, scored, Results(out).coarse, names)
    return out


def check_video(video: Path, out: Path, settings: Settings) -> tuple[FrameSource, tuple[int, int]]:
    """The video, and the size (H, W) at which it is seen; refuses what cannot be read, or written."""
    from pipeline.media.resize import model_size
    from pipeline.media.video import open_source

    source = open_source(video, settings["ingest"].fps)
    size = model_size(*source.size, settings["ingest"].size)
    if video.is_dir() and out.resolve().is_relative_to(video.resolve()):
        raise UsageError(f"-o {out}: lies in the folder of frames; choose another folder")
    return source, size


def _check_names(names: Path | None, context: Path | None) -> None:
    """Refuse what is no names.json, or one that cannot fit what the context gives."""
    from pipeline.naming.names import read_names
    from pipeline.segmentation.context_store import load_context
    from pipeline.stores.numbering import Numbering

    if names is None:
        return
    content = read_names(names)
    if context is not None:
        stored = load_context(context)
        content.names_for(Numbering(stored.origin, tuple(set(stored.context.labels.tolist()))), str(names))


def score_and_draw(
    results: Results,
    settings: Settings,
    scored: str | None,
    coarse: Path | None = None,
    names: Path | None = None,
) -> None:
    """Name, score and draw a video's labels.

    Args:
        scored: name of the video in its scores; None = there is no ground truth.
        coarse: adds coarse labels to the x-t slice.
        names: names.json; None = what was said of these segments before, if it still fits.
    """
    from stages import evaluate
    from stages.commands import name

    _remove_earlier_scores(results.folder)
    labels = name.named_again(results, names)
    if scored is not None:
        truth = results.stores / "truth.zarr"
        _print_scores(evaluate.run(labels, truth, results.folder, settings["evaluate"], name=scored))
    name.draw(results, labels, settings, coarse)


def _check_params(settings: Settings, backbone: Backbone, size: tuple[int, int]) -> None:
    """What a later stage would refuse, refused now: hours may lie between."""
    from pipeline.features.padding import margin_of
    from pipeline.features.steps import feature_schedule
    from pipeline.upsampling.rules import Rules
    from stages.common import encoders
    from stages.common.provenance import check_backbone
    from stages.common.small_decoder import small_decoder

    extract, segment = settings["extract"], settings["segment"]
    feature_schedule(extract, settings["diffusion"])
    margin_of(extract)
    encoders.loaded(settings, backbone.device)
    check_backbone(settings, backbone)
    if settings["upsample"].method == "modulation":
        Rules(settings["diffusion"], settings["upsample"]).check()
        small_decoder(settings["upsample"], settings["backbone"])
    height, width, _ = backbone.token_shape(extract.matching_block, size)
    for name in ("clusters", "neighbors"):
        if getattr(segment, name) > height * width and not (name == "clusters" and segment.init == "mask"):
            raise UsageError(
                f"segment.{name} is {getattr(segment, name)}, but a frame of {size[1]}x{size[0]} has only "
                f"{height * width} tokens; lower it, or raise ingest.size"
            )


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder for a video's results; when the run fails with nothing in it, remove it again.

    Raises:
        DataError: it has results of another origin.
        ResourceError: it cannot be written.
    """
    from stages import render

    render.check_replaceable(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written ({error.strerror}); choose another folder with -o") from error
    try:
        yield
    finally:
        for folder in (out / "artifacts", out):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


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


def _print_plan(
    video: Path, out: Path, settings: Settings, backbone: Backbone, source: FrameSource, size: tuple[int, int]
) -> None:
    from stages import ingest

    frames = ingest.count_frames(source, settings["ingest"])
    lines = [
        f"video      {video}: {frames} frames, {source.size[1]}x{source.size[0]}, {source.fps:g} fps",
        f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
        f"encoder    {settings['extract'].encoder}",
        f"model size {size[1]}x{size[0]}",
        f"segments   {settings['segment'].clusters}, windows of {settings['segment'].window}",
        f"upsampling {settings['upsample'].method}",
        f"estimate   {_estimate(frames, size, source.size, settings, backbone)}",
        f"outputs    {out}/labels/, labels.json, overlay.mp4, contact_sheet.png, artifacts/",
    ]
    print("\n".join(lines))


def _print_estimate(clip: Path, settings: Settings, backbone: Backbone) -> None:
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    store = open_store(clip, CLIP)
    frames, height, width = store.array("frames").shape[:3]
    source_size = tuple(store.attrs["source_size"])
    text = _estimate(frames, (height, width), source_size, settings, backbone)
    cli.note(f"{frames} frames at {width}x{height}: {text}")


def _estimate(
    frames: int, size: tuple[int, int], source_size: tuple[int, int], settings: Settings, backbone: Backbone
) -> str:
    from pipeline.cost.counting import cache_bytes
    from stages.commands import cost
    from stages.common import encoders

    load, encoder = cost.workload(settings, size, source_size), encoders.loaded(settings, backbone.device)
    seconds = frames * sum(cost.seconds_per_frame(backbone, load, encoder).values())
    megabytes = frames * sum(cache_bytes(backbone, load, settings["extract"].dtype).values()) / 1e6
    duration = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f"at most about {duration} of computing and {max(megabytes, 1):.0f} MB of stores"


def main(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the results")],
    segments: Annotated[int | None, typer.Option(help="number of segments K (segment.clusters)")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs, to score the result")] = None,
    classes: Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="label PNG of the first frame; it is carried through the video")
    ] = None,
    context: Annotated[Path | None, typer.Option(help="context folder of another clip to begin with")] = None,
    names: cli.NamesOption = None,
    preset: Annotated[
        str | None,
        typer.Option(help="named set of parameters (`vidseg preset list`), e.g. quality; --params wins over it"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print plan, time and disk estimate, and stop")] = False,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
) -> None:
    """Label every pixel of one video: overlay, label PNGs and all artifacts.

    Example: vidseg run holiday.mp4 -o holiday --segments 12
    """
    sets = list(set_ or ())
    if segments is not None:
        sets.append(f"segment.clusters={segments}")
    if mask is not None:
        sets.append("segment.init=mask")
    run(video, out, load(params, sets, preset), ground_truth, classes, mask, context, dry_run, names=names)
    if not dry_run:
        cli.note(f"done: {out / 'overlay.mp4'}")
