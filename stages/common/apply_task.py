"""What applying a concept to a clip takes: parameters and stores that belong together, and their fingerprints."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError, UsageError
from pipeline.parameters import (
    ApplyParams,
    ApplyParity,
    BackboneParams,
    DiffusionParams,
    GuidanceParams,
    MapsParams,
    UpsampleParams,
)
from stages.common.backbones import in_single_precision
from stages.common.provenance import check_latents, check_of_clip, check_same_diffusion, check_same_weights
from stages.common.resources import stage_version
from stages.common.settings import Settings, plain
from stages.common.small_decoder import small_decoder_hash

if TYPE_CHECKING:
    from pipeline.fewshot.chunks import Chunk
    from pipeline.fewshot.segments import SegmentTable
    from pipeline.stores.store import Store
    from pipeline.upsampling.rules import Rules
    from stages.common.backbones import DeferredBackbone


@dataclass(frozen=True)
class Sections:
    """The parameters of this stage.

    Raises:
        UsageError: labels at full size are voted on, but made of the maps after that; or segments are to be absent from
            crops whose maps are logits.
    """

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

    def __post_init__(self) -> None:
        if self.apply.upsample != "bilinear" and self.guidance.vote.space == "labels":
            raise UsageError(
                f"guidance.vote.space=labels votes on labels at full size, and apply.upsample={self.apply.upsample} "
                "makes those of the maps; set guidance.vote.space=maps, or apply.upsample=bilinear"
            )
        if self.apply.patches > 1 and self.apply.threshold and self.maps.cross == "logits":
            raise UsageError(
                f"apply.threshold={self.apply.threshold}: what is absent from a crop adds 0 to the maps, and of logits "
                "0 is not the least; set maps.cross=tokens, apply.threshold=0, or apply.patches=1"
            )

    @property
    def rules(self) -> Rules | None:
        """How labels are upsampled by modulation; None where they are not.

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


@dataclass(frozen=True)
class Task:
    """All that segments are found with in one clip, opened and checked (`checked`).

    Attributes:
        clip, latents, tracks, concept: the stores; tracks: None where none are needed.
        model: the backbone.
    """

    clip: Store
    latents: Store
    tracks: Store | None
    concept: Store
    sections: Sections
    model: DeferredBackbone

    @property
    def backbone(self) -> BackboneParams:
        return in_single_precision(self.sections.backbone)

    @property
    def plan(self) -> tuple[Chunk, ...]:
        """The clip's chunks."""
        from pipeline.fewshot.chunks import chunks

        return chunks(self.clip.frames("frames"), self.sections.apply.chunk, self.sections.apply.overlap)

    @property
    def table(self) -> SegmentTable:
        from pipeline.fewshot.segments import SegmentTable

        return SegmentTable.of_record(self.concept.attrs["segments"])

    @property
    def confidence(self) -> bool:
        """Whether labels.zarr says how sure its labels are."""
        return self.sections.upsample.confidence

    @property
    def maps_params(self) -> dict[str, Any]:
        """The parameters that decide the maps: what labels are upsampled with is none of them."""
        from stages.common import backbones

        return {
            "apply": plain(replace(self._apply, upsample="bilinear")),
            "guidance": plain(self.sections.guidance),
            "maps": plain(self.sections.maps),
            "backbone": {"name": self.backbone.name, "dtype": backbones.dtype_name(self.backbone)},
        }

    @property
    def labels_params(self) -> dict[str, Any]:
        """The parameters that decide the labels."""
        params = {**self.maps_params, "apply": plain(self._apply)}
        if (rules := self.sections.rules) is None:
            return params
        return {**params, "upsample": plain(rules.upsample), "diffusion": plain(rules.diffusion)}

    @property
    def _apply(self) -> ApplyParams:
        """The section, with the defaults of what has no effect: of crops, boxes or a reference pass without any."""
        found, moves = self.sections.apply, self.sections.guidance.moves
        kept, default = found.parity, ApplyParity()
        if not found.separate(moves):
            kept = replace(kept, reference_tail=default.reference_tail)
        if found.reference != "separate" or (moves and found.focus != "box"):  # a first look at boxes moves nothing
            kept = replace(kept, unguided=default.unguided)
        if found.focus != "box":
            kept = replace(kept, boxes=default.boxes, short_boxes=default.short_boxes)
        return replace(
            found,
            patch_share=found.patch_share if found.patches > 1 else ApplyParams.patch_share,
            focus_margin=found.focus_margin if found.focus == "box" else ApplyParams.focus_margin,
            parity=kept,
        )

    @property
    def maps_mark(self) -> str:
        """Fingerprint of soft.zarr."""
        from pipeline.fewshot.concept_store import what_decides
        from pipeline.stores.store import fingerprint

        return fingerprint(
            "apply", stage_version("apply"), self.maps_params, self.clip.fingerprint, self.latents.fingerprint,
            self.tracks and self.tracks.fingerprint, *what_decides(self.concept), self.model.fingerprint,
        )  # fmt: skip

    @property
    def labels_mark(self) -> str:
        """Fingerprint of labels.zarr."""
        from pipeline.stores.confidence import CONFIDENCE
        from pipeline.stores.store import fingerprint

        if (rules := self.sections.rules) is None:
            enlarged = [] if self.sections.apply.upsample == "bilinear" else [self.sections.apply.upsample]
            added = [*enlarged, *([CONFIDENCE] if self.confidence else [])]
            return fingerprint("apply", self.maps_mark, *added) if added else self.maps_mark
        small = small_decoder_hash(rules.upsample, self.backbone)
        return fingerprint("apply", self.maps_mark, self.labels_params, small)


def checked(inputs: Inputs, sections: Sections, model: DeferredBackbone) -> Task:
    """The inputs, opened.

    Raises:
        DataError: something is missing, or does not belong together.
        UsageError: tracks are needed and not given, or they are shorter than the vote; or as `check_concept`.
    """
    from pipeline.fewshot.concept_store import open_concept
    from pipeline.stores.schemas import CLIP, LATENTS
    from pipeline.stores.store import open_store

    clip, latents = open_store(inputs.clip, CLIP), open_store(inputs.latents, LATENTS)
    concept, tracks = open_concept(inputs.concept), _tracks(inputs, sections.guidance)
    task = Task(clip, latents, tracks, concept, sections, model)
    check_latents(latents, clip)
    check_concept(concept, model.fingerprint, sections)
    check_same_weights(latents, task.backbone, model.fingerprint)
    if tracks is not None:
        check_of_clip(tracks, clip)
        check_window(tracks.params["track"]["window"], sections)
    if sections.rules is not None:
        check_same_diffusion(latents, sections.diffusion, task.backbone, model.fingerprint)
    return task


def check_concept(concept: Store, weights: str, sections: Sections) -> None:
    """Refuse a concept that was learned with something else than it is applied with, or lacks what that takes.

    Raises:
        DataError: names what differs.
        UsageError: boxes of frames are to be seen, and there is no background that could be outside.
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
    if sections.apply.focus == "box" and not any(segment["background"] for segment in concept.attrs["segments"]):
        raise UsageError(
            f"apply.focus: outside a box all is background, and {concept.path.parent} has no segment of that name; set "
            "apply.focus=none, or learn it with one that is called background"
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
