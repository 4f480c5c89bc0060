"""What scoring a video takes: its labels, ground truth, names and tracks, opened and checked to belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError, UsageError

if TYPE_CHECKING:
    from pipeline.scoring.davis import Frames
    from pipeline.scoring.label_sources import StoredFrames
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


@dataclass(frozen=True)
class ScoreTask:
    """One video's open stores.

    Attributes:
        job: where they lie.
        truth_store, labels_store: open; the labels with their names, None where there are only predictions.
        annotated: positions in the clip of the frames with ground truth.
    """

    job: Job
    truth_store: Store
    labels_store: Store | None
    annotated: list[int]

    @classmethod
    def of(cls, job: Job) -> ScoreTask:
        """Open the stores of a video.

        Raises:
            DataError: one cannot be read, or no annotated frame is left to score.
        """
        from pipeline.naming.stores import with_names
        from pipeline.stores.schemas import LABELS, TRUTH
        from pipeline.stores.store import open_store

        truth = open_store(job.truth, TRUTH)
        schema = replace(LABELS, stage=job.stage)
        labels = None if job.labels is None else with_names(open_store(job.labels, schema), job.names)
        task = cls(job, truth, labels, [int(position) for position in truth.attrs["indices"]])
        if task.annotated and not task.positions:
            raise DataError(
                f"{job.truth}: every annotated frame is left out; name fewer frames in `skip` (videos.yaml)"
            )
        return task

    @property
    def name(self) -> str:
        """What the video is called in scores.json."""
        return self.job.name or self.truth_store.attrs.get("name") or "video"

    @property
    def frames(self) -> int:
        """How many the clip has."""
        return self.labels_store.frames("labels") if self.labels_store else len(self._frame_names())

    @property
    def positions(self) -> list[int]:
        """The scored frames' positions in the clip."""
        return [position for position in self.annotated if position not in self.job.skip]

    @property
    def skipped(self) -> list[int]:
        """The annotated frames that are left out."""
        return [position for position in self.annotated if position in self.job.skip]

    @property
    def own(self) -> Store | None:
        """The pipeline's labels where these are scored; None = another system's predictions are."""
        return self.labels_store if self.job.predictions is None else None

    @property
    def classes(self) -> ScoredClasses:
        """The classes of the ground truth."""
        from pipeline.scoring.scores import ScoredClasses

        attrs = self.truth_store.attrs
        return ScoredClasses(
            {int(entry["id"]): str(entry["name"]) for entry in attrs["classes"]},
            tuple(int(value) for value in attrs["ignore"]),
        )

    @property
    def truth(self) -> StoredFrames:
        """Ground truth of the scored frames."""
        from pipeline.scoring.label_sources import StoredFrames

        kept = [place for place, position in enumerate(self.annotated) if position not in self.job.skip]
        return StoredFrames(self.truth_store, "ground_truth", kept)

    @property
    def labels(self) -> Frames:
        """Labels of the scored frames: the pipeline's, or another system's predictions.

        Raises:
            DataError: they are of other frames than the ground truth, or of another size.
            UsageError: there are none.
        """
        from pipeline.scoring.label_sources import PredictionFolder, StoredFrames
        from pipeline.truth.class_list import parse_classes

        job, positions, size = self.job, self.positions, self.truth.size
        if job.predictions is not None:
            names = self._frame_names()
            if max(positions) >= len(names):
                raise DataError(
                    f"{job.truth}: frame {max(positions)} is annotated, but the clip has {len(names)} frames"
                )
            listed = parse_classes(self.truth_store.attrs)
            return PredictionFolder(job.predictions, [names[position] for position in positions], size, listed)
        if self.labels_store is None:
            raise UsageError("give LABELS, or a folder with --predictions")
        labelled, expected = self.labels_store.attrs.get("names"), self.truth_store.attrs.get("names")
        if labelled and expected and labelled != expected:
            raise DataError(
                f"{job.labels} and {job.truth} are of different frames ({len(labelled)} from {labelled[0]}, "
                f"{len(expected)} from {expected[0]}); run `vidseg ingest` and what follows for one selection"
            )
        stored = StoredFrames(self.labels_store, "labels", positions)
        if stored.size != size:
            raise DataError(
                f"{job.labels}: labels of {stored.size[1]}x{stored.size[0]}, but {job.truth} is of "
                f"{size[1]}x{size[0]}; both must have the source's size"
            )
        return stored

    def confidence(self, ignore_below: float) -> Frames | None:
        """How sure the labels of the scored frames are; None where nothing says it.

        Raises:
            UsageError, DataError: unsure pixels are to be left out, and nothing says which these are.
        """
        from pipeline.scoring.label_sources import StoredFrames
        from pipeline.stores.confidence import CONFIDENCE

        if self.own is not None and self.own.has(CONFIDENCE):
            return StoredFrames(self.own, CONFIDENCE, self.positions)
        if not ignore_below:
            return None
        if self.own is None:
            raise UsageError("evaluate.ignore_below is for labels with confidence; --predictions have none")
        raise DataError(
            f"{self.job.labels}: does not say how sure its labels are, which evaluate.ignore_below = {ignore_below:g} "
            f"asks for; run `vidseg {self.job.stage}` with upsample.confidence=true, or set evaluate.ignore_below=0"
        )

    def rule(self, assignment: str) -> str:
        """What `evaluate.assignment` means: labels are classes already if predicted, learned, or begun as such."""
        if assignment != "auto":
            return assignment
        if self.own is None or self._are_shown or self._begin_with_masks:
            return "none"
        merged = self.own.params.get("segment", {}).get("label_merge") == "first_frame"
        return "none" if merged else "majority"

    def object_task(self, objects: str) -> str | None:
        """What `evaluate.objects` means: the task of DAVIS or SMITE's parts that is scored as well, or None."""
        if objects != "auto":
            return None if objects == "none" else objects
        if self._are_shown:
            return "parts"
        return "semi_supervised" if self._begin_with_masks and len(self.positions) >= 3 else None

    def flicker(self) -> dict[str, int] | None:
        """How many followed points change their label; None without tracks, and for another system's labels.

        Raises:
            DataError: the tracks are of another clip.
        """
        from pipeline.scoring.flicker import Followed, flicker
        from pipeline.scoring.label_sources import StoredFrames
        from pipeline.stores.schemas import TRACKS
        from pipeline.stores.store import open_store

        path, labels = self.job.tracks, self.own
        if path is None or labels is None:
            return None
        tracks = open_store(path, TRACKS)
        if tracks.attrs["clip"] != labels.attrs.get("clip", tracks.attrs["clip"]):
            raise DataError(
                f"{path} does not belong to the clip of {self.job.labels}; run `vidseg track` for this clip"
            )

        def follow(frame: int) -> Followed:
            yx, visible, start = (tracks.read(name, frame, frame + 1)[0] for name in ("yx", "visible", "start"))
            return Followed(yx, visible, int(start))

        height, width = tracks.attrs["grid"]
        return flicker(StoredFrames(labels, "labels"), (int(height), int(width)), follow)

    @property
    def _are_shown(self) -> bool:
        """Whether the labels are of segments that were shown, with names given later or without."""
        return self.own is not None and self.own.attrs.get("made_by", self.own.stage) == "apply"

    @property
    def _begin_with_masks(self) -> bool:
        return self.own is not None and self.own.params.get("segment", {}).get("init") == "mask"

    def _frame_names(self) -> list[str]:
        names = self.truth_store.attrs.get("names")
        names = names or (self.labels_store.attrs.get("names") if self.labels_store else None)
        if names is None:
            raise DataError(
                f"{self.job.truth}: does not hold the clip's frame names; give the clip's LABELS before it, "
                "or run `vidseg ingest` again"
            )
        return list(names)
