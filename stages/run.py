"""One video in, a labelled video out: all stages in a row, without DVC or git."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ResourceError
from stages import cli
from stages.settings import Settings, load

if TYPE_CHECKING:
    from pipeline.backbone import Backbone


def run(
    video: Path,
    out: Path,
    settings: Settings,
    ground_truth: Path | None = None,
    classes: Path | None = None,
    mask: Path | None = None,
    dry_run: bool = False,
    backbone: Backbone | None = None,
) -> Path:
    """Label one video; returns `out`, which holds what DESIGN calls the outputs of `vidseg run`.

    Artifacts that are there already and fit the parameters are used again.
    """
    from stages import backbones, correspond, evaluate, extract, ingest, render, segment, upsample

    if backbone is None:
        backbone = backbones.load_backbone(settings["backbone"])
    stores = out / "artifacts"
    if dry_run:
        _print_plan(video, out, settings, backbone)
        return out
    render.check_replaceable(out)
    _check_writable(out)
    ingest.run(video, stores, settings["ingest"], ground_truth=ground_truth, classes=classes, mask=mask)
    _print_estimate(stores / "clip.zarr", settings, backbone)
    shared = settings["diffusion"], settings["backbone"], backbone
    extract.run(stores / "clip.zarr", stores, settings["extract"], *shared)
    correspond.run(stores / "features.zarr", stores, settings["correspond"])
    segment.run(stores / "features.zarr", stores / "matches.zarr", stores, settings["segment"], seed=stores / "seed")
    upsample.run(
        stores / "clip.zarr",
        stores / "latents.zarr",
        stores / "coarse.zarr",
        stores,
        settings["upsample"],
        *shared,
    )
    if ground_truth is not None:
        scored = evaluate.run(stores / "labels.zarr", stores / "truth.zarr", out, settings["evaluate"], name=video.stem)
        _print_scores(scored)
    rendered = render.run(
        stores / "clip.zarr",
        stores / "labels.zarr",
        stores / "render",
        settings["render"],
        features=stores / "features.zarr",
        coarse=stores / "coarse.zarr",
    )
    _publish(rendered, out)
    return out


def _print_scores(path: Path) -> None:
    import json

    scores = json.loads(path.read_text())["videos"][0]["scores"]
    shown = {"mIoU": "miou", "VC_8": "vc8", "VC_16": "vc16", "pixel accuracy": "pixel_accuracy"}
    values = {label: scores.get(key) for label, key in shown.items()}
    cli.note(", ".join(f"{label} {value:.3f}" for label, value in values.items() if value is not None))


def _publish(rendered: Path, out: Path) -> None:
    """Move what people look at from the render folder to the top of the output folder."""
    for name in ("labels", "labels.json", "overlay.mp4", "contact_sheet.png"):
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.move(rendered / name, target)


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".vidseg-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written ({error.strerror}); choose another folder with -o") from error


def _print_plan(video: Path, out: Path, settings: Settings, backbone: Backbone) -> None:
    from pipeline.resize import model_size
    from pipeline.video import open_source
    from stages import ingest

    source = open_source(video)
    frames = ingest.count_frames(source, settings["ingest"])
    size = model_size(*source.size, settings["ingest"].size)
    lines = [
        f"video      {video}: {frames} frames, {source.size[1]}x{source.size[0]}, {source.fps:g} fps",
        f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
        f"model size {size[1]}x{size[0]}",
        f"segments   {settings['segment'].clusters}, windows of {settings['segment'].window}",
        f"upsampling {settings['upsample'].method}",
        f"estimate   {_estimate(frames, size, source.size, settings, backbone)}",
        f"outputs    {out}/labels/, labels.json, overlay.mp4, contact_sheet.png, artifacts/",
    ]
    print("\n".join(lines))


def _print_estimate(clip: Path, settings: Settings, backbone: Backbone) -> None:
    from pipeline.artifacts import CLIP, open_store

    store = open_store(clip, CLIP)
    frames, height, width = store.array("frames").shape[:3]
    source_size = tuple(store.attrs["source_size"])
    text = _estimate(frames, (height, width), source_size, settings, backbone)
    cli.note(f"{frames} frames at {width}x{height}: {text}")


def _estimate(
    frames: int, size: tuple[int, int], source_size: tuple[int, int], settings: Settings, backbone: Backbone
) -> str:
    from pipeline.diffusion import DiffusionSettings
    from pipeline.estimate import calibrate, estimate

    params = settings["diffusion"]
    diffusion = DiffusionSettings(params.steps, params.start_step, params.guidance)
    result = estimate(
        calibrate(backbone, size, diffusion),
        frames,
        settings["segment"].clusters,
        backbone.token_shape(settings["extract"].matching_block, size),
        size,
        source_size,
        diffusion,
        settings["upsample"].method == "modulation",
    )
    minutes, megabytes = result.seconds / 60, result.disk_bytes / 1e6
    return f"at most about {minutes:.1f} minutes and {megabytes:.0f} MB of disk"


def main(
    video: Annotated[Path, typer.Argument(help="video file or folder of frames")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the results")],
    segments: Annotated[int | None, typer.Option(help="number of segments K (segment.clusters)")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs, to score the result")] = None,
    classes: Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="label PNG of the first frame; it is carried through the video")
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
    run(video, out, load(params, sets), ground_truth, classes, mask, dry_run)
    if not dry_run:
        cli.note(f"done: {out / 'overlay.mp4'}")
