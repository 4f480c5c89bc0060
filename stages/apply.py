"""clip.zarr, latents.zarr, tracks.zarr, concept/ -> soft.zarr, labels.zarr: learned segments, found in a clip."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import DataError, UsageError
from pipeline.parameters import (
    ApplyParams,
    BackboneParams,
    DiffusionParams,
    GuidanceParams,
    MapsParams,
    UpsampleParams,
)
from stages.commands import conclusion
from stages.common import cli
from stages.common.applied import applied_of
from stages.common.layout import DATA, Out
from stages.common.printing import counted
from stages.common.provenance import check_latents, check_of_clip, check_same_diffusion, check_same_weights
from stages.common.resources import stage_version
from stages.common.results import Results
from stages.common.settings import Settings, at_learned_size, load, plain
from stages.common.small_decoder import small_decoder, small_decoder_hash
from stages.learn import in_single_precision, segment_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from pipeline.backbone import Backbone
    from pipeline.backbone.small_decoder import SmallDecoder
    from pipeline.fewshot.apply import Segmented
    from pipeline.fewshot.chunks import Chunk
    from pipeline.fewshot.reading import SegmentReader
    from pipeline.fewshot.segments import SegmentTable
    from pipeline.stores.schemas import ArraySpec
    from pipeline.stores.store import Store
    from pipeline.stores.writer import StoreWriter
    from pipeline.tracking.tracks import Tracks
    from pipeline.upsampling.rules import Rules
    from stages.common.backbones import DeferredBackbone
    from stages.upsample import Modulation


@dataclass(frozen=True)
class Sections:
    """The parameters of this stage."""

    apply: ApplyParams
    guidance: GuidanceParams
    maps: MapsParams
    backbone: BackboneParams
    upsample: UpsampleParams
    diffusion: DiffusionParams

    @classmethod
    def of(cls, settings: Settings) -> Sections:
        """Those of all."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    @property
    def rules(self) -> Rules | None:
        """How labels are upsampled by modulation; None where maps are enlarged.

        Raises:
            UsageError: its steps are not among those that are run.
        """
        if self.apply.upsample != "modulation":
            return None
        from pipeline.upsampling.rules import Rules

        rules = Rules(self.diffusion, replace(self.upsample, method="modulation"))
        rules.check()
        return rules


@dataclass(frozen=True)
class Inputs:
    """What a concept is applied to.

    Attributes:
        clip: clip.zarr.
        latents: latents.zarr of the same clip.
        tracks: tracks.zarr of the same clip; None = none, where none are needed.
        concept: folder.
    """

    clip: Path
    latents: Path
    tracks: Path | None
    concept: Path


def run(
    inputs: Inputs,
    out: Out,
    sections: Sections,
    given: Backbone | DeferredBackbone | None = None,
    progress: cli.Progress = cli.progress,
) -> Path:
    """Find a concept's segments in one clip; returns the path of labels.zarr, soft.zarr lies beside it.

    An interrupted run is continued at its first missing chunk.

    Args:
        given: the backbone, of callers that have it at hand; None: the one that the parameters name.
    """
    from pipeline.fewshot.chunks import chunks
    from pipeline.fewshot.concept_store import open_concept
    from pipeline.fewshot.segments import SegmentTable
    from pipeline.files import refuse_foreign
    from pipeline.stores.schemas import APPLIED_LABELS, CLIP, LATENTS, SOFT
    from pipeline.stores.store import fingerprint, is_current, open_store
    from pipeline.stores.writer import StoreWriter
    from stages.common import backbones

    path, soft_path = out / "labels.zarr", out / "soft.zarr"
    refuse_foreign(path, APPLIED_LABELS.mark)
    refuse_foreign(soft_path, SOFT.mark)
    clip, latents, concept = (
        open_store(inputs.clip, CLIP),
        open_store(inputs.latents, LATENTS),
        open_concept(inputs.concept),
    )
    backbone = in_single_precision(sections.backbone)
    model = backbones.model_of(backbone, given)
    tracks = _tracks(inputs, sections.guidance)
    check_latents(latents, clip)
    check_concept(concept, model.fingerprint, sections)
    check_same_weights(latents, backbone, model.fingerprint)
    if tracks is not None:
        check_of_clip(tracks, clip)
        check_window(tracks.params["track"]["window"], sections)
    # What upsampling is done with concerns labels.zarr alone: maps are the same.
    found = {
        "apply": plain(replace(sections.apply, upsample="bilinear")),
        "guidance": plain(sections.guidance),
        "maps": plain(sections.maps),
        "backbone": {"name": backbone.name, "dtype": backbones.dtype_name(backbone)},
    }
    mark = fingerprint(
        "apply", stage_version("apply"), found, clip.fingerprint, latents.fingerprint,
        tracks and tracks.fingerprint, concept.fingerprint, model.fingerprint,
    )  # fmt: skip
    stored, labels_mark, rules = found, mark, sections.rules
    if rules is not None:
        check_same_diffusion(latents, sections.diffusion, backbone, model.fingerprint)
        upsampled = {"upsample": plain(rules.upsample), "diffusion": plain(rules.diffusion)}
        stored = {**found, "apply": plain(sections.apply), **upsampled}
        labels_mark = fingerprint("apply", mark, stored, small_decoder_hash(rules.upsample, backbone))
    if is_current(path, APPLIED_LABELS, labels_mark) and is_current(soft_path, SOFT, mark):
        return path
    if rules is not None:
        rules.check_backbone(model.load())
    plan = chunks(clip.frames("frames"), sections.apply.chunk, sections.apply.overlap)
    table = SegmentTable.of_record(concept.attrs["segments"])
    if not is_current(soft_path, SOFT, mark):
        soft = StoreWriter(
            soft_path,
            out / "tmp",
            SOFT,
            mark,
            _soft_arrays(plan, latents, clip, len(table), sections),
            params=found,
            backbone=model.fingerprint,
            attrs={
                "clip": clip.fingerprint,
                "concept": concept.fingerprint,
                "frames": [[chunk.frames.start, chunk.frames.stop] for chunk in plan],
                "taken": [[chunk.taken.start, chunk.taken.stop] for chunk in plan],
                "segments": concept.attrs["segments"],
            },
        )
        missing = [part.start for part in soft.missing()]
        with progress("apply", sum(len(plan[number].taken) for number in missing)) as advance:
            if missing:
                from pipeline.fewshot.concept import reading
                from pipeline.fewshot.concept_store import load_concept

                finder = _Finder(clip, latents, tracks, sections)
                with reading(load_concept(inputs.concept), segment_model(model.load()), sections.maps) as reader:
                    for number in missing:
                        _write(soft, number, finder.find(reader, plan[number], _carried(soft, plan, number)))
                        advance(len(plan[number].taken))
        soft.commit()
    labels = StoreWriter(
        path,
        out / "tmp",
        APPLIED_LABELS,
        labels_mark,
        _label_arrays(clip, table),
        params={**clip.params, **stored},
        backbone=model.fingerprint,
        attrs={
            "clip": clip.fingerprint,
            "names": clip.attrs["names"],
            "concept": concept.fingerprint,
            "segments": concept.attrs["segments"],
        },
    )
    maps = open_store(soft_path, SOFT)
    if rules is None:
        _write_labels(maps, labels, plan, table)
    else:
        small = small_decoder(rules.upsample, backbone)
        modulation = _modulation(maps, plan, clip, latents, rules, model.load(), small)
        _write_modulated(labels, table, modulation, progress)
    return labels.commit()


def check_concept(concept: Store, weights: str, sections: Sections) -> None:
    """Refuse a concept that was learned with something else than it is applied with.

    Raises:
        DataError: names what differs.
    """
    if concept.attrs["backbone"] != weights:
        raise DataError(
            f"{concept.path.parent}: was learned with another backbone ({concept.params['backbone']['name']} "
            f"{concept.attrs['backbone'][:12]}) than backbone.name = '{sections.backbone.name}' now has "
            f"({weights[:12]}); run `vidseg learn` with these parameters, or apply it with its own"
        )
    for name in ("cross_blocks", "self_blocks"):
        learned, now = list(concept.params["maps"][name]), list(getattr(sections.maps, name))
        if learned != now:
            raise DataError(
                f"{concept.path.parent}: was learned with maps.{name} = {learned}, now it is {now}; "
                "run `vidseg learn` with these parameters"
            )


def check_window(tracked: int, sections: Sections) -> None:
    """Refuse votes of frames that tracks do not reach: at the ends of a chunk its window lies to one side.

    Args:
        tracked: `track.window` of the tracks.

    Raises:
        UsageError: names both windows.
    """
    voting = min(sections.guidance.vote.window, sections.apply.chunk)
    if tracked < 2 * voting - 1:
        raise UsageError(
            f"guidance.vote.window: votes of {voting} frames need a track.window of {2 * voting - 1} (twice that less "
            f"one, for the ends of a chunk), not {tracked}; change one of them"
        )


def _tracks(inputs: Inputs, guidance: GuidanceParams) -> Store | None:
    """The tracks, where they are needed."""
    from pipeline.stores.schemas import TRACKS
    from pipeline.stores.store import open_store

    if not guidance.needs_tracks:
        return None
    if inputs.tracks is None:
        raise UsageError(
            "guidance follows points: give --tracks TRACKS (of `vidseg track`), or set guidance.lambda_track=0 "
            "and guidance.vote.space=none"
        )
    return open_store(inputs.tracks, TRACKS)


@dataclass(frozen=True)
class _Finder:
    """Finds segments in the chunks of one clip."""

    clip: Store
    latents: Store
    tracks: Store | None
    sections: Sections

    def find(self, reader: SegmentReader, chunk: Chunk, carried: np.ndarray | None) -> Segmented:
        """The segments of a chunk.

        Args:
            carried: (chunk.carried, k, h, w), the maps that the chunk before ended with.
        """
        import torch

        from pipeline.fewshot.apply import segment_chunk

        frames, sections = chunk.frames, self.sections
        height, width = self.clip.attrs["source_size"]
        device = reader.context.device
        return segment_chunk(
            reader,
            torch.from_numpy(self.latents.read("latents", frames.start, frames.stop)).to(device),
            chunk,
            (height, width),
            sections.apply,
            sections.guidance,
            self._tracks_of(chunk),
            None if carried is None else torch.from_numpy(carried).to(device),
            self._sources(chunk),
        )

    def _tracks_of(self, chunk: Chunk) -> Tracks | None:
        from pipeline.tracking.tracks import Tracks

        if self.tracks is None:
            return None
        frames = chunk.frames
        return Tracks(*(self.tracks.read(name, frames.start, frames.stop) for name in ("yx", "visible", "start")))

    def _sources(self, chunk: Chunk) -> range:
        indices = self.clip.attrs["source_indices"][chunk.frames.start : chunk.frames.stop]
        step = indices[1] - indices[0] if len(indices) > 1 else 1
        return range(indices[0], indices[-1] + step, step)


def _carried(soft: StoreWriter, plan: Sequence[Chunk], number: int) -> np.ndarray | None:
    """What the chunk before ended with, of the frames that both have."""
    carried = plan[number].carried
    return soft.read("maps", number - 1, number)[0, -carried:] if carried else None


def _soft_arrays(
    plan: Sequence[Chunk], latents: Store, clip: Store, segments: int, sections: Sections
) -> dict[str, ArraySpec]:
    from pipeline.fewshot.chunks import groups
    from pipeline.stores.schemas import ArraySpec

    count, frames = len(plan), len(plan[0].frames)
    maps = (count, frames, segments, *latents.array("latents").shape[2:])
    arrays = {
        "initial": ArraySpec(maps, "float16", 1),
        "maps": ArraySpec(maps, "float32", 1),
        "numbers": ArraySpec((count, frames, *clip.attrs["source_size"]), "uint8", 1),
    }
    guidance = sections.guidance
    steps = len(sections.apply.timesteps) - 1
    if guidance.moves and steps:
        energies = (count, steps, guidance.iterations, len(groups(frames, guidance.group)), 3)
        arrays["energies"] = ArraySpec(energies, "float32", 1)
    return arrays


def _write(soft: StoreWriter, number: int, found: Segmented) -> None:
    """Write one chunk. The maps come last: what follows carries them."""
    values = {"initial": found.initial, "numbers": found.labels, "energies": found.energies, "maps": found.maps}
    for name, tensor in values.items():
        if tensor.numel():
            soft.write(name, number, tensor.detach().cpu().numpy()[None])


def _label_arrays(clip: Store, table: SegmentTable) -> dict[str, ArraySpec]:
    from pipeline.stores.schemas import ArraySpec, label_dtype
    from pipeline.stores.store import shard_frames

    shape = (clip.frames("frames"), *clip.attrs["source_size"])
    dtype = label_dtype(max(segment.id for segment in table.segments))
    return {"labels": ArraySpec(shape, dtype, shard_frames(clip.array("frames")))}


def _write_labels(soft: Store, labels: StoreWriter, plan: Sequence[Chunk], table: SegmentTable) -> None:
    """The ids of each frame's segments, from the chunk that the frame is taken of."""
    from pipeline.stores.shard_buffer import ShardBuffer

    buffer = ShardBuffer(labels, len(labels.shards()[0]))
    for number, chunk in enumerate(plan):
        first = chunk.taken.start - chunk.frames.start
        numbers = soft.read("numbers", number, number + 1)[0, first : first + len(chunk.taken)]
        buffer.add({"labels": table.labels(numbers)})
    buffer.flush()


def _modulation(
    soft: Store,
    plan: Sequence[Chunk],
    clip: Store,
    latents: Store,
    rules: Rules,
    backbone: Backbone,
    small: SmallDecoder | None,
) -> Modulation:
    """What upsamples the labels of a clip's maps."""
    import torch

    from pipeline.fewshot.apply import coarse_numbers
    from pipeline.stores.frames import Frames
    from stages.upsample import Modulation

    height, width = clip.array("frames").shape[1:3]
    grid = backbone.token_shape(rules.upsample.block, (height, width))[:2]

    def read(start: int, stop: int) -> np.ndarray:
        import numpy as np

        parts = []
        for number, chunk in enumerate(plan):
            first, last = (min(max(bound, chunk.taken.start), chunk.taken.stop) for bound in (start, stop))
            if first < last:
                own = slice(first - chunk.frames.start, last - chunk.frames.start)
                maps, numbers = (soft.read(name, number, number + 1)[0, own] for name in ("maps", "numbers"))
                parts.append(coarse_numbers(torch.from_numpy(maps), numbers, grid))
        return np.concatenate(parts)

    planes = Frames(clip.frames("frames"), read)
    return Modulation(clip, latents, planes, tuple(clip.attrs["source_size"]), rules, backbone, small)


def _write_modulated(labels: StoreWriter, table: SegmentTable, modulation: Modulation, progress: cli.Progress) -> None:
    """The ids of each frame's segments, upsampled shard by shard."""
    missing = labels.missing()
    with progress("upsample", sum(len(shard) for shard in missing)) as advance:
        for shard in missing:
            labels.write("labels", shard.start, table.labels(modulation.labels(shard, advance)))


def _note_size(inputs: Inputs) -> None:
    """Say where frames are of another size than the pictures that the concept was learned from."""
    from pipeline.fewshot.concept_store import open_concept
    from pipeline.media.resize import model_size
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    clip, learned = open_store(inputs.clip, CLIP), open_concept(inputs.concept).params["learn"]["size"]
    height, width = clip.array("frames").shape[1:3]
    tall, wide = clip.attrs["source_size"]
    if (height, width) != model_size(tall, wide, learned):
        cli.note(
            f"frames have a short side of {min(height, width)} pixels, the pictures that the concept was learned from "
            f"{learned}; segments are found best with ingest.size={learned}"
        )


def run_item(item: str, settings: Settings) -> None:
    """Apply a concept to every video of an item, loading the backbone once and only if it is needed."""
    from stages.common import backbones

    applied = applied_of(item)
    model = backbones.locked(in_single_precision(settings["backbone"]))
    for video in applied.videos():
        inputs = Inputs(
            applied.place("ingest", video) / "clip.zarr",
            applied.place("extract", video) / "latents.zarr",
            applied.place("track", video) / "tracks.zarr",
            DATA / "learn" / applied.concept / "concept",
        )
        _note_size(inputs)
        run(inputs, applied.place("apply", video), Sections.of(settings), model)


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
    from stages.commands import estimates
    from stages.commands import run as whole
    from stages.common import backbones, encoders, run_record

    learned = open_concept(concept)
    settings = at_learned_size(settings, learned.params["learn"]["size"])
    segments, pictures = len(learned.attrs["segments"]), len(learned.attrs["names"])
    sections, stores = Sections.of(settings), out / "artifacts"
    source, size = whole.check_video(video, out, settings)
    whole.check_names(names, Numbering.of_segments(learned.fingerprint, learned.attrs["segments"]))
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
        frames = ingest.count_frames(source, settings["ingest"])
        lines = [
            whole.video_line(video, source, frames),
            f"concept    {concept}: {segments} segments, learned from {counted(pictures, 'picture')}",
            f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
            f"model size {size[1]}x{size[0]}",
            f"guidance   {_guidance_in_words(sections)}",
            f"estimate   {estimate(frames, size, source.size)}",
            whole.outputs_line(out),
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
            run(Inputs(clip, stores / "latents.zarr", tracks, concept), stores, sections, backbone, progress)
        scored = video.stem if ground_truth is not None else None
        whole.score_and_draw(Results(out), settings, scored, names=names, record=record, tracks=tracks)
    return out


def _guidance_in_words(sections: Sections) -> str:
    guidance, steps = sections.guidance, len(sections.apply.timesteps) - 1
    moved = f"{guidance.iterations} steps at {steps} timesteps" if guidance.moves else "none"
    return moved if guidance.vote.space == "none" else f"{moved}; a vote along tracks"


app = cli.new_app("Find learned segments in a video or a clip -> labels, and all that shows them.")


@app.command()
def main(
    video: Annotated[
        Path | None, typer.Argument(help="video file or folder of frames; as a stage, clip.zarr of ingest")
    ] = None,
    latents: Annotated[Path | None, typer.Argument(help="as a stage: latents.zarr of extract")] = None,
    out_dir: Annotated[Path | None, typer.Argument(help="as a stage: folder for labels.zarr and soft.zarr")] = None,
    concept: Annotated[Path | None, typer.Option(help="folder of a concept, from `vidseg learn`")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the results of a video")] = None,
    tracks: Annotated[Path | None, typer.Option(help="as a stage: tracks.zarr of track")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="folder of label PNGs, to score a video's result")] = None,
    classes: Annotated[Path | None, typer.Option(help="class list of the ground truth (JSON)")] = None,
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
    if video is not None and latents is None and (video / "zarr.json").is_file():
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
        _note_size(inputs)
        run(inputs, out_dir, Sections.of(settings))
    elif item is not None:
        paths = {"VIDEO": video, "--concept": concept, "--out": out, "--tracks": tracks}
        cli.refuse({**paths, **of_video}, "does not go with --item, whose paths stand in videos.yaml")
        run_item(item, settings)
    else:
        raise UsageError(
            "give VIDEO, --concept CONCEPT and -o OUT; as a stage CLIP, LATENTS, OUT_DIR and --concept CONCEPT; "
            "or --item NAME"
        )


if __name__ == "__main__":
    cli.run_app(app)
