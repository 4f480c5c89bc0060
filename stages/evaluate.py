"""labels.zarr, truth.zarr -> scores.json: confusion counts and VC sums of one item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import EvaluateParams
from stages.common import cli
from stages.common.applied import Applied, applied_of, is_applied
from stages.common.layout import DATA, Place, item_key, names_of, place, videos_of
from stages.common.score_task import Job, ScoreTask
from stages.common.settings import load

if TYPE_CHECKING:
    from pipeline.scoring.assignment import Assignment
    from pipeline.scoring.davis import Frames
    from pipeline.scoring.label_sources import StoredFrames


def run(
    labels: Path | None,
    truth: Path,
    out: Path,
    params: EvaluateParams,
    predictions: Path | None = None,
    name: str | None = None,
    names: Path | None = None,
    tracks: Path | None = None,
) -> Path:
    """Score one video; returns the path of scores.json."""
    return run_videos([Job(name, labels, truth, predictions, names=names, tracks=tracks)], out, params)


def run_videos(jobs: list[Job], out: Path, params: EvaluateParams) -> Path:
    """Score the videos of an item into one scores.json."""
    from pipeline.scoring.files import item_record, write_json

    videos = [_score(job, params) for job in jobs]
    record = item_record(videos, params.protocol, params.assignment, params.windows, params.ignore_below)
    return write_json(out / "scores.json", record)


def _score(job: Job, params: EvaluateParams) -> dict[str, Any]:
    """One video's record."""
    from pipeline.scoring.objects import object_records
    from pipeline.scoring.reliability import confidence_record
    from pipeline.scoring.scores import score_video, sure_truth

    task = ScoreTask.of(job)
    steadiness = task.flicker()
    about: dict[str, Any] = {
        "name": task.name,
        "ground_truth": bool(task.positions),
        "frames": task.frames,
        "scored_frames": len(task.positions),
        **({} if steadiness is None else {"flicker": steadiness}),
    }
    if not task.positions:
        return about
    with _named(f"{job.truth}: "):
        protocol = task.classes.protocol(params.protocol)
    _warn_of_gaps(task, params.protocol)
    confidence = task.confidence(params.ignore_below)
    truth, labels, rule = task.truth, task.labels, task.rule(params.assignment)
    where = f"{job.predictions or job.labels} against {job.truth}: "
    with _named(where):
        assignment = _assignment(task, rule, truth, labels, params)
        sure, classes = sure_truth(truth, confidence, params.ignore_below, task.classes)
        by = classes.protocol(params.protocol)
        with cli.progress(f"evaluate {task.name}", len(task.positions)) as advance:
            scored = score_video(sure, labels, task.positions, classes, by, assignment, params.windows, advance)
        about |= confidence_record(truth, labels, confidence, task.positions, protocol, assignment, params.ignore_below)
    with _named(where, " (evaluate.objects: none leaves J and F out)"):
        objects = object_records(task.object_task(params.objects), sure, labels, classes, assignment)
    _warn(task.name, scored)
    height, width = truth.size
    return {
        **about,
        "height": height,
        "width": width,
        "classes": [{"value": value, "name": classes.name(value)} for value in protocol.class_values],
        "skipped_frames": task.skipped,
        "oracle_assignment": rule not in ("none", "names") and len(task.positions) == 1,
        **objects,
        **scored,
    }


@contextmanager
def _named(before: str, after: str = "") -> Iterator[None]:
    """Errors of the data say whose they are."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{before}{error}{after}") from error


def _assignment(task: ScoreTask, rule: str, truth: StoredFrames, labels: Frames, params: EvaluateParams) -> Assignment:
    """Which class each label stands for."""
    from pipeline.naming.segments import void_of
    from pipeline.scoring.assignment import assign, with_born
    from pipeline.scoring.coarse_truth import coarse_grid
    from pipeline.stores.numbering import born_of

    if rule == "names":
        return _by_name(task)
    classes = task.classes
    grid = coarse_grid(truth.size, params.parity.coarse_stride)
    assignment = assign(rule, labels[0], truth[0], classes.ignore, grid, classes.unassigned)
    if task.own is not None and (born := born_of(task.own)):
        pairs = ((labels[place], truth[place]) for place in range(len(truth)))
        assignment = with_born(assignment, born, pairs, classes.ignore)
    return assignment.without(None if task.labels_store is None else void_of(task.labels_store))


def _by_name(task: ScoreTask) -> Assignment:
    """The assignment of segments to the classes that they are named like; says which are named otherwise."""
    from pipeline.naming.segments import segments_of
    from pipeline.scoring.assignment import Assignment, by_name

    if task.own is None:
        raise UsageError("evaluate.assignment names is for labels with names; --predictions have none")
    names = {label: segment.name for label, segment in segments_of(task.own).items() if segment.name is not None}
    table = by_name(names, task.classes.names)
    if others := [f"{label} {name}" for label, name in names.items() if label not in table]:
        cli.warn(f"{task.name}: no class of the ground truth has the name of: {', '.join(others)}; they count as wrong")
    return Assignment("names", table, task.classes.unassigned)


def _warn(name: str, scored: dict[str, Any]) -> None:
    """Say how much counts as wrong without being a class at all."""
    from pipeline.scoring.scores import share_of_none

    unknown = scored["unknown_predictions"]
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        cli.warn(
            f"{name}: {share_of_none(scored['confusion']):.1%} of the scored pixels have a predicted value that is no "
            f"class, and count as wrong: {shown}"
        )
    lost = scored["assigned"]["unassigned_share"]
    if lost:
        cli.note(f"{name}: {lost:.1%} of the scored pixels lie in clusters without a class: counted as wrong")


def _warn_of_gaps(task: ScoreTask, protocol: str) -> None:
    """Say which classes the authors' protocol leaves out, which numbers them from 0 on."""
    classes = task.classes
    beyond = classes.beyond_official if protocol == "official" else []
    if beyond:
        count, named = len(classes.names), [f"{value} {classes.name(value)}" for value in beyond]
        shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
        cli.warn(
            f"{task.name}: evaluate.protocol official takes the values 0 to {count - 1} for the classes, but the "
            f"ids have gaps: {len(beyond)} of {count} classes are not scored ({shown})"
        )


def run_item(
    item: str,
    params_file: Path | None,
    sets: list[str] | None,
    predictions: Path | None = None,
    out: Path | None = None,
) -> None:
    """Score every video of an item, or what is applied to it; predictions of several videos lie in a sub-folder each.

    Args:
        out: folder for scores.json, with `predictions`; the item's own place is for the pipeline's labels.

    Raises:
        UsageError: predictions without a folder of their own for the scores, or that folder without predictions.
    """
    key = item_key(item)
    own = DATA / "evaluate" / key
    if predictions is not None and (out is None or out.resolve() == own.resolve()):
        raise UsageError(f"--predictions: {own} is for the pipeline's own labels; give another folder with --out")
    if predictions is None and out is not None:
        raise UsageError("--out goes with --predictions; scores of the pipeline's own labels have their place")
    applied = applied_of(item) if is_applied(item) else None
    videos = videos_of(key if applied is None else applied.item, "truth.zarr")
    jobs = [_job(key, video, applied, predictions) for video in videos]
    run_videos(jobs, out or own, load(params_file, sets or ())["evaluate"])


def _job(key: str, video: str | None, applied: Applied | None, predictions: Path | None) -> Job:
    """What is scored of one video of an item, or of what is applied to it."""
    stage, clip_key = ("upsample", key) if applied is None else ("apply", applied.item)
    labels = place(stage, key, video) / "labels.zarr"
    tracks = None if applied is None else applied.place("track", video) / "tracks.zarr"
    names = names_of(key, video) if applied is None else applied.names_of(video)
    return Job(
        video or key,
        labels if predictions is None or labels.exists() else None,
        place("ingest", clip_key, video) / "truth.zarr",
        predictions / video if predictions and video else predictions,
        stage,
        names if predictions is None else None,
        tracks if tracks is not None and tracks.exists() else None,  # by hand, `apply` without guidance needs none
        () if applied is None else skipped_positions(applied, video),
    )


def skipped_positions(applied: Applied, video: str | None, data: Path = DATA) -> tuple[int, ...]:
    """Positions in a video's clip of the frames that are left out of its scores (`skip` of videos.yaml)."""
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    if not applied.skip:
        return ()
    indices = open_store(Place(data / "ingest" / applied.item, video) / "clip.zarr", CLIP).attrs["source_indices"]
    return tuple(position for position, index in enumerate(indices) if index in applied.skip)


app = cli.new_app("Score labels: labels.zarr, truth.zarr -> scores.json.")


@app.command()
def main(
    labels: Annotated[
        Path | None, typer.Argument(help="labels.zarr or named.zarr; may be left out with --predictions")
    ] = None,
    truth: Annotated[Path | None, typer.Argument(help="truth.zarr of ingest")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="folder for scores.json")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="score these label PNGs, named like the frames, instead of LABELS")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for scores.json, with --item and --predictions", file_okay=False)
    ] = None,
    names: cli.NamesOption = None,
    tracks: Annotated[
        Path | None, typer.Option(help="tracks.zarr of the clip: adds how many followed points change their label")
    ] = None,
    assignment: Annotated[
        str | None,
        typer.Option(
            help="clusters to classes: auto, majority, hungarian, names, ...; short for --set evaluate.assignment=..."
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="how void is scored: strict or official; short for --set evaluate.protocol=...")
    ] = None,
    params: cli.ParamsOption = None,
    set_: cli.SetOption = None,
    item: cli.ItemOption = None,
) -> None:
    """Score labels: labels.zarr, truth.zarr -> scores.json.

    Example: vidseg evaluate work/labels.zarr work/truth.zarr work --protocol official
    """
    if protocol is not None:
        set_ = [*(set_ or ()), f"evaluate.protocol={protocol}"]
    if assignment is not None:
        set_ = [*(set_ or ()), f"evaluate.assignment={assignment}"]
    if predictions is not None and labels and truth and out_dir is None:
        labels, truth, out_dir = None, labels, truth
    if truth and out_dir:
        if out is not None:
            raise UsageError("--out goes with --item; with paths OUT_DIR is the folder for scores.json")
        run(labels, truth, out_dir, load(params, set_ or ())["evaluate"], predictions, names=names, tracks=tracks)
    elif item is not None:
        cli.refuse_beside_item({"LABELS": labels, "--names": names})
        if tracks is not None:
            raise UsageError("--tracks goes with paths; what is applied has its own tracks")
        run_item(item, params, set_, predictions, out)
    else:
        raise UsageError("give LABELS, TRUTH and OUT_DIR, or --item KEY")


if __name__ == "__main__":
    cli.run_app(app)
