"""labels.zarr, truth.zarr -> scores.json: confusion counts and VC sums of one item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import EvaluateParams
from stages.common import cli
from stages.common.applied import Applied, applied_of, is_applied
from stages.common.layout import DATA, Place, item_key, names_of, place, videos_of
from stages.common.settings import load

if TYPE_CHECKING:
    from pipeline.scoring.assignment import Assignment
    from pipeline.scoring.davis import Frames
    from pipeline.scoring.protocol import Protocol
    from pipeline.scoring.scores import ScoredClasses
    from pipeline.stores.store import Store


@dataclass(frozen=True)
class Job:
    """One video to score.

    Attributes:
        name: as it appears in scores.json.
        labels: labels.zarr; may be None when there are predictions.
        truth: truth.zarr.
        predictions: folder of another system's label PNGs, scored instead of the labels.
        stage: that makes the labels.
        names: names.json, applied to the labels; they may also be those of named.zarr.
        tracks: tracks.zarr of the same clip, for the flicker of the labels; None = without.
        skip: positions in the clip of frames that are not scored.
    """

    name: str | None
    labels: Path | None
    truth: Path
    predictions: Path | None = None
    stage: str = "upsample"
    names: Path | None = None
    tracks: Path | None = None
    skip: tuple[int, ...] = ()


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
    from pipeline.naming.segments import void_of
    from pipeline.naming.stores import with_names
    from pipeline.scoring.assignment import assign, with_born
    from pipeline.scoring.label_sources import StoredFrames
    from pipeline.scoring.reliability import SureFrames
    from pipeline.scoring.scores import ScoredClasses, score_video
    from pipeline.stores.numbering import born_of
    from pipeline.stores.schemas import LABELS, TRUTH
    from pipeline.stores.store import open_store

    truth_store = open_store(job.truth, TRUTH)
    schema = replace(LABELS, stage=job.stage)
    labels_store = None if job.labels is None else with_names(open_store(job.labels, schema), job.names)
    annotated = [int(position) for position in truth_store.attrs["indices"]]
    kept = [place for place, position in enumerate(annotated) if position not in job.skip]
    if annotated and not kept:
        raise DataError(f"{job.truth}: every annotated frame is left out; name fewer frames in `skip` (videos.yaml)")
    truth = StoredFrames(truth_store, "ground_truth", kept)
    positions = [annotated[place] for place in kept]
    about: dict[str, Any] = {
        "name": job.name or truth_store.attrs.get("name") or "video",
        "ground_truth": bool(positions),
        "frames": labels_store.frames("labels") if labels_store else len(_names(None, truth_store, job)),
        "scored_frames": len(positions),
    }
    if (steadiness := _flicker(job, labels_store)) is not None:
        about["flicker"] = steadiness
    if not positions:
        return about
    classes = ScoredClasses(
        {int(entry["id"]): str(entry["name"]) for entry in truth_store.attrs["classes"]},
        tuple(int(value) for value in truth_store.attrs["ignore"]),
    )
    try:
        protocol = classes.protocol(params.protocol)
    except DataError as error:
        raise DataError(f"{job.truth}: {error}") from error
    _warn_of_gaps(about["name"], params.protocol, classes)
    confidence = _confidence(job, labels_store, positions, params.ignore_below)
    labels = _labels(job, labels_store, truth_store, positions, truth.size)
    rule = _rule(params.assignment, labels_store if job.predictions is None else None)
    height, width = truth.size
    grid = max(1, round(height / params.parity.coarse_stride)), max(1, round(width / params.parity.coarse_stride))
    where = job.predictions or job.labels
    try:
        if rule == "names":
            assignment = _by_name(about["name"], job, labels_store, classes)
        else:
            assignment = assign(rule, labels[0], truth[0], classes.ignore, grid, classes.unassigned)
            if job.predictions is None and labels_store is not None and (born := born_of(labels_store)):
                pairs = ((labels[place], truth[place]) for place in range(len(positions)))
                assignment = with_born(assignment, born, pairs, classes.ignore)
            assignment = assignment.without(None if labels_store is None else void_of(labels_store))
        scored_truth: Frames = truth
        scored_by = protocol
        if confidence is not None and params.ignore_below:
            void = classes.unassigned
            scored_truth = SureFrames(truth, confidence, params.ignore_below, void)
            classes = replace(classes, ignore=tuple(dict.fromkeys((*classes.ignore, void))))
            scored_by = classes.protocol(params.protocol)
        with cli.progress(f"evaluate {about['name']}", len(positions)) as advance:
            scored = score_video(
                scored_truth, labels, positions, classes, scored_by, assignment, params.windows, advance
            )
        about |= _reliability(confidence, truth, labels, positions, protocol, assignment, params.ignore_below)
    except DataError as error:
        raise DataError(f"{where} against {job.truth}: {error}") from error
    task = _task(params.objects, job, labels_store, len(positions))
    try:
        objects = _objects(task, scored_truth, labels, classes, assignment)
    except DataError as error:
        raise DataError(f"{where} against {job.truth}: {error} (evaluate.objects: none leaves J and F out)") from error
    _warn(about["name"], scored)
    return {
        **about,
        "height": height,
        "width": width,
        "classes": [{"value": value, "name": classes.name(value)} for value in protocol.class_values],
        "skipped_frames": [position for position in annotated if position in job.skip],
        "oracle_assignment": rule not in ("none", "names") and len(positions) == 1,
        **objects,
        **scored,
    }


def _reliability(
    confidence: Frames | None,
    truth: Frames,
    labels: Frames,
    positions: list[int],
    protocol: Protocol,
    assignment: Assignment,
    ignore_below: float,
) -> dict[str, Any]:
    """The entry `confidence` of a video's record, and `ignored_share` where unsure pixels were left out."""
    from pipeline.scoring.reliability import reliability

    if confidence is None:
        return {}
    found = reliability(truth, labels, confidence, positions, protocol, assignment)
    ignored = {"ignored_share": None if found is None else 1 - found.share_from(ignore_below)} if ignore_below else {}
    return {"confidence": None if found is None else found.record(), **ignored}


def _confidence(job: Job, labels: Store | None, positions: list[int], ignore_below: float) -> Frames | None:
    """How sure the labels of the annotated frames are; None where nothing says it.

    Raises:
        UsageError, DataError: unsure pixels are to be left out, and nothing says which these are.
    """
    from pipeline.scoring.label_sources import StoredFrames
    from pipeline.stores.confidence import CONFIDENCE

    if job.predictions is None and labels is not None and labels.has(CONFIDENCE):
        return StoredFrames(labels, CONFIDENCE, positions)
    if not ignore_below:
        return None
    if job.predictions is not None or labels is None:
        raise UsageError("evaluate.ignore_below is for labels with confidence; --predictions have none")
    raise DataError(
        f"{job.labels}: does not say how sure its labels are, which evaluate.ignore_below = {ignore_below:g} asks for; "
        f"run `vidseg {job.stage}` with upsample.confidence=true, or set evaluate.ignore_below=0"
    )


def _labels(job: Job, labels: Store | None, truth: Store, positions: list[int], size: tuple[int, int]) -> Frames:
    from pipeline.scoring.label_sources import PredictionFolder, StoredFrames
    from pipeline.truth.class_list import parse_classes

    if job.predictions is not None:
        names = _names(labels, truth, job)
        if max(positions) >= len(names):
            raise DataError(f"{job.truth}: frame {max(positions)} is annotated, but the clip has {len(names)} frames")
        annotated = [names[position] for position in positions]
        return PredictionFolder(job.predictions, annotated, size, parse_classes(truth.attrs))
    if labels is None:
        raise UsageError("give LABELS, or a folder with --predictions")
    labelled, expected = labels.attrs.get("names"), truth.attrs.get("names")
    if labelled and expected and labelled != expected:
        raise DataError(
            f"{job.labels} and {job.truth} are of different frames ({len(labelled)} from {labelled[0]}, "
            f"{len(expected)} from {expected[0]}); run `vidseg ingest` and what follows for one selection"
        )
    stored = StoredFrames(labels, "labels", positions)
    if stored.size != size:
        raise DataError(
            f"{job.labels}: labels of {stored.size[1]}x{stored.size[0]}, but {job.truth} is of "
            f"{size[1]}x{size[0]}; both must have the source's size"
        )
    return stored


def _names(labels: Store | None, truth: Store, job: Job) -> list[str]:
    names = truth.attrs.get("names") or (labels.attrs.get("names") if labels else None)
    if names is None:
        raise DataError(
            f"{job.truth}: does not hold the clip's frame names; give the clip's LABELS before it, "
            "or run `vidseg ingest` again"
        )
    return list(names)


def _rule(assignment: str, labels: Store | None) -> str:
    """What `auto` means: the labels are classes already if they are another system's, learned, or began as classes."""
    if assignment != "auto":
        return assignment
    if labels is None or _shown(labels) or _from_mask(labels):
        return "none"
    merged = labels.params.get("segment", {}).get("label_merge") == "first_frame"
    return "none" if merged else "majority"


def _by_name(video: str, job: Job, labels: Store | None, classes: ScoredClasses) -> Assignment:
    """The assignment of segments to the classes that they are named like; says which are named otherwise."""
    from pipeline.naming.segments import segments_of
    from pipeline.scoring.assignment import Assignment, by_name

    if job.predictions is not None or labels is None:
        raise UsageError("evaluate.assignment names is for labels with names; --predictions have none")
    names = {label: segment.name for label, segment in segments_of(labels).items() if segment.name is not None}
    table = by_name(names, classes.names)
    if others := [f"{label} {name}" for label, name in names.items() if label not in table]:
        cli.warn(f"{video}: no class of the ground truth has the name of: {', '.join(others)}; they count as wrong")
    return Assignment("names", table, classes.unassigned)


def _shown(labels: Store) -> bool:
    """Whether they are of segments that were shown, with names given later or without."""
    return labels.attrs.get("made_by", labels.stage) == "apply"


def _from_mask(labels: Store) -> bool:
    return labels.params.get("segment", {}).get("init") == "mask"


def _objects(
    task: str | None, truth: Frames, labels: Frames, classes: ScoredClasses, assignment: Assignment
) -> dict[str, Any]:
    """The entries `davis` and `smite` of a video's record."""
    from pipeline.scoring.scores import score_objects, score_segments

    if task == "parts":
        return score_segments(truth, labels, classes, assignment) or {"davis": None}
    return {"davis": score_objects(task, truth, labels, classes, assignment) if task else None}


def _flicker(job: Job, labels: Store | None) -> dict[str, int] | None:
    """How many followed points change their label; None without tracks, and for another system's labels."""
    from pipeline.scoring.flicker import Followed, flicker
    from pipeline.scoring.label_sources import StoredFrames
    from pipeline.stores.schemas import TRACKS
    from pipeline.stores.store import open_store

    if job.tracks is None or job.predictions is not None or labels is None:
        return None
    tracks = open_store(job.tracks, TRACKS)
    if tracks.attrs["clip"] != labels.attrs.get("clip", tracks.attrs["clip"]):
        raise DataError(f"{job.tracks} does not belong to the clip of {job.labels}; run `vidseg track` for this clip")

    def follow(frame: int) -> Followed:
        yx, visible, start = (tracks.read(name, frame, frame + 1)[0] for name in ("yx", "visible", "start"))
        return Followed(yx, visible, int(start))

    height, width = tracks.attrs["grid"]
    return flicker(StoredFrames(labels, "labels"), (int(height), int(width)), follow)


def _task(objects: str, job: Job, labels: Store | None, frames: int) -> str | None:
    if objects != "auto":
        return None if objects == "none" else objects
    if job.predictions is None and labels is not None and _shown(labels):
        return "parts"
    propagated = job.predictions is None and labels is not None and _from_mask(labels)
    return "semi_supervised" if propagated and frames >= 3 else None


def _warn(name: str, scored: dict[str, Any]) -> None:
    from pipeline.scoring.scores import NONE

    unknown = scored["unknown_predictions"]
    rows = scored["confusion"].values()
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        share = sum(row.get(NONE, 0) for row in rows) / sum(sum(row.values()) for row in rows)
        cli.warn(
            f"{name}: {share:.1%} of the scored pixels have a predicted value that is no class, "
            f"and count as wrong: {shown}"
        )
    lost = scored["assigned"]["unassigned_share"]
    if lost:
        cli.note(f"{name}: {lost:.1%} of the scored pixels lie in clusters without a class: counted as wrong")


def _warn_of_gaps(name: str, protocol: str, classes: ScoredClasses) -> None:
    values = sorted(classes.names)
    if protocol != "official" or values in (list(range(len(values))), list(range(1, len(values) + 1))):
        return
    beyond = [f"{value} {classes.name(value)}" for value in values if value >= len(values)]
    shown = ", ".join(beyond[:3]) + (", ..." if len(beyond) > 3 else "")
    cli.warn(
        f"{name}: evaluate.protocol official takes the values 0 to {len(values) - 1} for the classes, but the "
        f"ids have gaps: {len(beyond)} of {len(values)} classes are not scored ({shown})"
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
    stage, clip_key = ("upsample", key) if applied is None else ("apply", applied.item)
    jobs = []
    for video in videos_of(clip_key, "truth.zarr"):
        labels = place(stage, key, video) / "labels.zarr"
        tracks = None if applied is None else applied.place("track", video) / "tracks.zarr"
        if tracks is not None and not tracks.exists():  # by hand, `apply` without guidance needs none
            tracks = None
        folder = predictions / video if predictions and video else predictions
        names = names_of(key, video) if applied is None else applied.names_of(video)
        jobs.append(
            Job(
                video or key,
                labels if predictions is None or labels.exists() else None,
                place("ingest", clip_key, video) / "truth.zarr",
                folder,
                stage,
                names if predictions is None else None,
                tracks,
                () if applied is None else skipped_positions(applied, video),
            )
        )
    run_videos(jobs, out or own, load(params_file, sets or ())["evaluate"])


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
