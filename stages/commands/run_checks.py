"""What `vidseg run` and `vidseg apply` look at first: what can be refused is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from stages.common.results import Results
from stages.common.settings import Settings

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.fewshot.references import References
    from pipeline.media.frame_source import FrameSource
    from pipeline.stores.numbering import Numbering
    from pipeline.truth.mask_files import Masks


def check_video(video: Path, out: Path, settings: Settings) -> tuple[FrameSource, tuple[int, int]]:
    """The video, and the size (H, W) at which it is seen; refuses what cannot be read, or written."""
    from pipeline.media.frame_source import square_size
    from pipeline.media.resize import model_size
    from pipeline.media.video import open_source
    from stages.ingest import reading_of

    source = open_source(video, settings["ingest"].fps, reading_of(settings["ingest"]))
    size = model_size(*square_size(source), settings["ingest"].size)
    if video.is_dir() and out.resolve().is_relative_to(video.resolve()):
        raise UsageError(f"-o {out}: lies in the folder of frames; choose another folder")
    return source, size


def check_begin(
    folders: Iterable[Path], settings: Settings, context: Path | None, references: Path | None, names: Path | None
) -> References | None:
    """Refuse what segments cannot begin with, or be named, before anything is computed.

    Args:
        folders: of the results, one for each video.
        context, references, names: as of `run`.

    Returns:
        the references, None = there are none.
    """
    from pipeline.segmentation.context_store import names_in
    from stages.commands.reference_context import checked_references
    from stages.common import encoders

    known = references is not None or (context is not None and names_in(context) is not None)
    numbering = None if context is None else numbering_of_context(context)
    for out in folders:
        check_names(names, out, numbering, known)
    drawn = None if references is None else checked_references(references)
    encoders.check_weights(settings, ("segment", "correspond"))
    return drawn


def check_first_mask(masks: Masks, settings: Settings) -> None:
    """Refuse masks by number that leave the first frames without labels, before the video is read.

    What a folder holds is known only when the frames have their names: `segment.check_masks`.
    """
    from pipeline.media.frame_source import FrameRange
    from pipeline.segmentation.given_frames import check_direction

    if isinstance(masks, Path):
        return
    first = min(masks)
    selected = list(FrameRange.parse(settings["ingest"].frames, settings["ingest"].stride).of(first + 1))
    if first in selected:
        check_direction([selected.index(first)], settings["segment"], selected)


def numbering_of_context(context: Path) -> Numbering:
    """The numbering that runs have which begin with a context model."""
    from pipeline.segmentation.context_store import load_context

    return load_context(context).numbering


def check_names(names: Path | None, out: Path, numbering: Numbering | None, known: bool = False) -> None:
    """Refuse what is no names.json, or one that cannot fit, or be kept, before anything is computed.

    Args:
        out: where the run keeps them.
        numbering: that the labels will have; None = only the run will tell.
        known: whether the segments will have names in any case.
    """
    from pipeline.naming.names import MARK, read_names
    from stages.commands import name

    if names is not None or known or MARK.on(out):
        name.check_replaceable(Results(out))
    if names is None:
        return
    content = read_names(names)
    if numbering is not None:
        content.names_for(numbering, str(names))


def check_params(settings: Settings, backbone: Backbone, size: tuple[int, int]) -> None:
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
