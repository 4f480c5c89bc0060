"""`vidseg apply`: a concept and a video in, a labelled video out, all stages in a row; or the stage `apply` alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from stages import apply
from stages.commands import conclusion, estimates, plans, run_checks
from stages.commands import run as whole
from stages.common import cli
from stages.common.apply_task import Inputs, Sections, check_concept, check_window
from stages.common.backbones import in_single_precision, segment_model
from stages.common.printing import counted
from stages.common.results import Results
from stages.common.settings import Settings, at_learned_size, load
from stages.common.small_decoder import small_decoder

#: How labels get their full size, in words.
UPSAMPLED = {
    "bilinear": "of enlarged maps",
    "guided": "of enlarged maps, along the edges of the picture",
    "modulation": "of maps on a coarser grid, by masked modulation",
}


def run_video(
    video: Path,
    concept: Path,
    out: Path,
    settings: Settings,
    ground_truth: Path | None = None,
    classes: Path | None = None,
    dry_run: bool = False,
    names: Path | None = None,
) -> Path:
    """Find a concept's segments in a video; returns `out`, the folder of its results, which are those of `vidseg run`.

    Artifacts that are there already and fit the parameters are used again. Whatever can be refused is refused
    before anything is computed or written.

    Args:
        dry_run: only print what would be done.
        names: names.json of these segments; None = what was said of them in `out` before, if it still fits.
    """
    from pipeline.fewshot.concept_store import open_concept
    from pipeline.stores.numbering import Numbering
    from stages import extract, ingest, track
    from stages.common import backbones, encoders, run_record

    learned = open_concept(concept)
    settings = at_learned_size(settings, learned.params["learn"]["size"])
    segments, pictures = len(learned.attrs["segments"]), len(learned.attrs["names"])
    sections, stores = Sections.of(settings), out / "artifacts"
    source, size = run_checks.check_video(video, out, settings)
    run_checks.check_names(names, out, Numbering.of_segments(learned.fingerprint, learned.attrs["segments"]))
    if sections.guidance.needs_tracks:
        check_window(settings["track"].window, sections)
    encoders.check_weights(settings, ("track",) if sections.guidance.needs_tracks else ())
    params = in_single_precision(settings["backbone"])
    backbone = backbones.load_backbone(params)
    check_concept(learned, backbone.fingerprint, sections)
    segment_model(backbone)
    if (rules := sections.rules) is not None:
        rules.check_backbone(backbone)
        small_decoder(rules.upsample, params)
    shared = settings["diffusion"], params, backbone

    estimate = partial(estimates.of_applying, segments=segments, settings=settings, backbone=backbone)
    if dry_run:
        frames = ingest.count_frames(video, source, settings["ingest"])
        lines = [
            plans.video_line(video, source, frames),
            f"concept    {concept}: {segments} segments, learned from {counted(pictures, 'picture')}",
            f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
            f"model size {size[1]}x{size[0]}",
            *_in_words(sections),
            f"estimate   {estimate(frames, size, source.size)}",
            plans.outputs_line(out, settings["render"].labels),
        ]
        print("\n".join(map(cli.printable, lines)))
        return out
    if "ingest.size" not in settings.given:
        cli.note(
            f"short side of frames: {settings['ingest'].size} pixels, as learned; --set ingest.size=... for another"
        )
    with whole.output_folder(out):
        clip, features = stores / "clip.zarr", stores / "features.zarr"
        record = run_record.begin(video.name, str(backbone.device), settings, out, run_record.APPLIED_SECTIONS)
        with record.stage("ingest", clip):
            ingest.run(video, stores, settings["ingest"], ground_truth=ground_truth, classes=classes)
        progress = cli.announced(lambda: estimates.announce(clip, estimate))
        with record.stage("extract", features):
            extract.run(clip, stores, settings["extract"], *shared, progress=progress)
        tracks = None
        if sections.guidance.needs_tracks:
            with record.stage("track", stores / "tracks.zarr"):
                tracks = track.run(clip, features, stores, settings["track"], progress)
        with record.stage("apply", stores / "labels.zarr"):
            apply.run(Inputs(clip, stores / "latents.zarr", tracks, concept), stores, sections, backbone, progress)
        scored = video.stem if ground_truth is not None else None
        whole.score_and_draw(Results(out), settings, scored, names=names, record=record, tracks=tracks)
    return out


def _in_words(sections: Sections) -> list[str]:
    """Lines of the plan: how segments are looked for."""
    params, guidance = sections.apply, sections.guidance
    moved = f"{guidance.iterations} steps at {len(params.timesteps) - 1} timesteps" if guidance.moves else "none"
    voted = "" if guidance.vote.space == "none" else "; a vote along tracks"
    seen = "whole frames"
    if params.focus == "box":
        room = f"{params.focus_margin:.0%} of room on each side"
        seen = f"a first look at whole frames, then a box around what it finds, with {room}"
    elif params.patches > 1:
        seen = f"{params.patches}x{params.patches} crops of {params.patch_share:.0%} of each side, one by one"
    return [
        f"guidance   {moved}{voted}",
        f"seen       {seen}",
        f"labels     {UPSAMPLED[params.upsample]}",
    ]


def _is_store(path: Path) -> bool:
    """Whether a path is that of a store, and so of no video."""
    from pipeline.stores.packed import is_one_of_several

    return (path.is_file() and is_one_of_several(path)) or (path / "zarr.json").is_file()


def main(
    video: Annotated[
        Path | None, typer.Argument(help="video file or folder of frames; as a stage, clip.zarr of ingest")
    ] = None,
    latents: Annotated[Path | None, typer.Argument(help="as a stage: latents.zarr of extract")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="as a stage: folder for labels.zarr and soft.zarr")] = None,
    concept: Annotated[Path | None, typer.Option(help="folder of a concept, from `vidseg learn`")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the results of a video")] = None,
    tracks: Annotated[Path | None, typer.Option(help="as a stage: tracks.zarr of track")] = None,
    ground_truth: cli.GroundTruthOption = None,
    classes: cli.ClassesOption = None,
    names: cli.NamesOption = None,
    dry_run: cli.DryRunOption = False,
    open_: cli.OpenOption = False,
    preset: cli.PresetOption = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.AppliedOption = None,
) -> None:
    """Find learned segments in a video: the whole path to a page, labels, overlay and scores; or as a stage, in a clip.

    Example: vidseg apply holiday.mp4 --concept concepts/cars -o holiday-cars

    As a stage: vidseg apply work/clip.zarr work/latents.zarr work --concept concepts/cars --tracks work/tracks.zarr
    """
    settings = load(params, set_ or (), preset)
    of_video: dict[str, object] = {"--ground-truth": ground_truth, "--classes": classes, "--names": names}
    of_video |= {"--dry-run": dry_run, "--open": open_}
    if video is not None and latents is None and _is_store(video):
        raise UsageError(
            f"{video}: a store, not a video; give the video itself, or as a stage CLIP, LATENTS, OUT_DIR and "
            "--concept CONCEPT"
        )
    if video is not None and concept is not None and out is not None and latents is None:
        cli.refuse({"--tracks": tracks}, "goes with CLIP and LATENTS; for a video, track.method and track.file choose")
        run_video(video, concept, out, settings, ground_truth, classes, dry_run, names)
        if not dry_run:
            page = conclusion.of_video(out)
            if open_:
                conclusion.show(page)
    elif video is not None and latents is not None and out_dir is not None and concept is not None:
        cli.refuse({"--out": out, **of_video}, "goes with a video, not with CLIP and LATENTS")
        inputs = Inputs(video, latents, tracks, concept)
        apply.note_size(inputs)
        apply.run(inputs, out_dir, Sections.of(settings))
    elif item is not None:
        paths = {"VIDEO": video, "--concept": concept, "--out": out, "--tracks": tracks}
        cli.refuse_beside_item({**paths, **of_video})
        apply.run_item(item, settings)
    else:
        raise UsageError(
            "give VIDEO, --concept CONCEPT and -o OUT; as a stage CLIP, LATENTS, OUT_DIR and --concept CONCEPT; "
            "or --item NAME"
        )
