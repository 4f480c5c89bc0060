"""clip.zarr, latents.zarr, tracks.zarr, concept/ -> soft.zarr, labels.zarr: learned segments, found in a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common import cli
from stages.common.applied import applied_of
from stages.common.apply_task import Inputs, Sections, Task, checked
from stages.common.backbones import in_single_precision, segment_model
from stages.common.layout import DATA, Out
from stages.common.printing import counted
from stages.common.settings import Settings
from stages.common.small_decoder import small_decoder

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.fewshot.reading import SegmentReader
    from pipeline.fewshot.soft_store import ClipStores
    from pipeline.fewshot.views import View
    from pipeline.stores.store import Store
    from pipeline.stores.writer import StoreWriter
    from pipeline.upsampling.labelling import Decision
    from pipeline.upsampling.rules import Rules
    from stages.common.backbones import DeferredBackbone
    from stages.upsample import Modulation


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
    from pipeline.files import refuse_foreign
    from pipeline.stores.schemas import APPLIED_LABELS, SOFT
    from pipeline.stores.store import is_current, open_store
    from stages.common import backbones

    path, soft = out / "labels.zarr", out / "soft.zarr"
    refuse_foreign(path, APPLIED_LABELS.mark)
    refuse_foreign(soft, SOFT.mark)
    task = checked(inputs, sections, backbones.model_of(in_single_precision(sections.backbone), given))
    found = is_current(soft, SOFT, task.maps_mark)
    if found:
        _warn_of_whole_frames(task, open_store(soft, SOFT))
    if found and is_current(path, APPLIED_LABELS, task.labels_mark):
        return path
    if sections.rules is not None:
        sections.rules.check_backbone(task.model.load())
    if not found:
        _write_maps(task, out, progress)
    return _write_labels(task, out, progress)


def _write_maps(task: Task, out: Out, progress: cli.Progress) -> None:
    """soft.zarr: the maps, chunk by chunk, from the first that is missing."""
    from pipeline.fewshot.soft_store import ClipStores, carried_maps, soft_arrays, write_chunk
    from pipeline.stores.schemas import SOFT
    from pipeline.stores.writer import StoreWriter

    plan, sections, clip = task.plan, task.sections, task.clip
    height, width = clip.attrs["source_size"]
    grid = task.latents.array("latents").shape[2:]
    soft = StoreWriter(
        out / "soft.zarr",
        out / "tmp",
        SOFT,
        task.maps_mark,
        soft_arrays(plan, (grid[0], grid[1]), (height, width), len(task.table), sections.apply, sections.guidance),
        params=task.maps_params,
        backbone=task.model.fingerprint,
        attrs={
            "clip": clip.fingerprint,
            "concept": task.concept.fingerprint,
            "frames": [[chunk.frames.start, chunk.frames.stop] for chunk in plan],
            "taken": [[chunk.taken.start, chunk.taken.stop] for chunk in plan],
            "segments": task.concept.attrs["segments"],
            **({"size": list(clip.size("frames"))} if sections.apply.focus == "box" else {}),
        },
    )
    missing = [part.start for part in soft.missing()]
    if missing:
        from pipeline.fewshot.concept import reading
        from pipeline.fewshot.concept_store import load_concept
        from pipeline.fewshot.reading import inflation

        model = segment_model(task.model.load())
        stores = ClipStores(clip, task.latents, task.tracks, model)
        learned = load_concept(task.concept.path.parent)
        with reading(learned, model, sections.maps, inflation(sections.apply)) as reader:
            view = _focus(task, soft, stores, reader, progress)
            with progress("apply", sum(len(plan[number].taken) for number in missing)) as advance:
                for number in missing:
                    chunk, carried = plan[number], carried_maps(soft, plan, number)
                    found = stores.find(reader, chunk, sections.apply, sections.guidance, carried, view)
                    write_chunk(soft, plan, number, found, view)
                    advance(len(chunk.taken))
    _warn_of_whole_frames(task, soft)
    soft.commit()


def _warn_of_whole_frames(task: Task, soft: Store | StoreWriter) -> None:
    """Where boxes are seen, and in some frames there is nothing to draw one around."""
    if task.sections.apply.focus == "none":
        return
    from pipeline.fewshot.soft_store import frames_without_box

    if frames := frames_without_box(soft, task.plan, task.sections.apply):
        total = counted(task.clip.frames("frames"), "frame")
        cli.warn(
            f"{task.clip.path}: a first look found no box in {len(frames)} of {total} (the first: {frames[0]}), which "
            "are seen whole; apply.focus=none sees all of them so"
        )


def _focus(
    task: Task, soft: StoreWriter, stores: ClipStores, reader: SegmentReader, progress: cli.Progress
) -> View | None:
    """The boxes that frames are seen in, by a first look at all of them; None = whole frames are."""
    from pipeline.fewshot.soft_store import focus_of

    apply, guidance, background = task.sections.apply, task.sections.guidance, task.table.background
    if apply.focus == "none":
        return None
    assert background is not None, "check_concept has seen to it"
    missing = [part.start for part in soft.missing("found")]
    with progress("focus", sum(len(task.plan[number].taken) for number in missing)) as advance:
        for number in missing:
            boxes = stores.first_boxes(reader, task.plan[number], apply, guidance, background)
            soft.write("found", number, boxes[None])
            advance(len(task.plan[number].taken))
    return focus_of(soft, task.plan, stores.size, apply, guidance.vote.window)


def _write_labels(task: Task, out: Out, progress: cli.Progress) -> Path:
    """labels.zarr: the ids of each frame's segments, of the chunk that the frame is taken of, or upsampled."""
    import numpy as np

    from pipeline.fewshot.soft_store import taken_margins, taken_numbers
    from pipeline.stores.confidence import CONFIDENCE
    from pipeline.stores.schemas import APPLIED_LABELS, SOFT, ArraySpec, label_dtype
    from pipeline.stores.shard_buffer import ShardBuffer
    from pipeline.stores.store import open_store, shard_frames
    from pipeline.stores.writer import StoreWriter
    from pipeline.upsampling.confidence import pixel_confidence
    from stages.upsample import Kept, stacked

    clip, table = task.clip, task.table
    shape = (clip.frames("frames"), *clip.attrs["source_size"])
    dtype = label_dtype(max(segment.id for segment in table.segments))
    spec = ArraySpec(shape, dtype, shard_frames(clip.array("frames")))
    arrays = {"labels": spec, **({CONFIDENCE: replace(spec, dtype="uint8")} if task.confidence else {})}
    labels = StoreWriter(
        out / "labels.zarr",
        out / "tmp",
        APPLIED_LABELS,
        task.labels_mark,
        arrays,
        params={**clip.params, **task.labels_params},
        backbone=task.model.fingerprint,
        attrs={
            "clip": clip.fingerprint,
            "names": clip.attrs["names"],
            "concept": task.concept.fingerprint,
            "segments": task.concept.attrs["segments"],
            **({"arrays": list(arrays)} if task.confidence else {}),
        },
    )
    soft = open_store(out / "soft.zarr", SOFT)
    if task.sections.apply.upsample == "bilinear":
        buffer = ShardBuffer(labels, len(labels.shards()[0]))
        margins = taken_margins(soft, task.plan, task.sections.maps.cross == "logits")
        for numbers in taken_numbers(soft, task.plan):
            found = {"labels": table.labels(numbers)}
            if task.confidence:
                sure = [pixel_confidence(margin, None) for margin in islice(margins, len(numbers))]
                found[CONFIDENCE] = np.stack(sure)
            buffer.add(found)
        buffer.flush()
        return labels.commit()
    decisions, missing = _decisions(task, soft), labels.missing()
    confidence = (lambda _, decided: pixel_confidence(decided.margin, None)) if task.confidence else None
    kept = Kept(dtype, confidence)  # of the segments' numbers, which are no larger than their ids
    with progress("upsample", sum(len(shard) for shard in missing)) as advance:
        for shard in missing:
            found = stacked(kept.of_each(shard, decisions(shard, advance)))
            found["labels"] = table.labels(found["labels"])
            for name, values in found.items():
                labels.write(name, shard.start, values)
    return labels.commit()


def _decisions(task: Task, soft: Store) -> Callable[[range, cli.Advance], Iterator[Decision]]:
    """What upsamples the labels of a shard's frames."""
    from pipeline.fewshot.soft_store import along_edges

    if task.sections.rules is not None:
        return _modulation(task, soft, task.sections.rules).decisions

    def guided(shard: range, advance: cli.Advance) -> Iterator[Decision]:
        for decided in along_edges(soft, task.plan, task.clip, shard, task.sections.maps.cross == "logits"):
            yield decided
            advance(1)

    return guided


def _modulation(task: Task, soft: Store, rules: Rules) -> Modulation:
    """What upsamples the labels of a clip's maps."""
    from pipeline.fewshot.soft_store import coarse_planes
    from stages.upsample import Modulation

    clip, backbone = task.clip, task.model.load()
    grid = backbone.token_shape(rules.upsample.block, clip.size("frames"))[:2]
    planes, small = coarse_planes(soft, task.plan, grid), small_decoder(rules.upsample, task.backbone)
    return Modulation(clip, task.latents, planes, tuple(clip.attrs["source_size"]), rules, backbone, small)


def note_size(inputs: Inputs) -> None:
    """Say where frames are of another size than the pictures that the concept was learned from."""
    from pipeline.fewshot.concept_store import open_concept
    from pipeline.media.resize import model_size
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    clip, learned = open_store(inputs.clip, CLIP), open_concept(inputs.concept).params["learn"]["size"]
    height, width = clip.size("frames")
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
        note_size(inputs)
        run(inputs, applied.place("apply", video), Sections.of(settings), model)
