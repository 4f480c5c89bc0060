"""What `vidseg run --dry-run` prints; `vidseg apply --dry-run` has lines in common with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.commands import estimates
from stages.common.printing import counted
from stages.common.settings import Settings

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.fewshot.references import References
    from pipeline.media.frame_source import FrameSource


def print_plan(
    video: Path,
    out: Path,
    settings: Settings,
    backbone: Backbone,
    source: FrameSource,
    size: tuple[int, int],
    begins_with: Path | str | None,
    references: References | None = None,
) -> None:
    """The plan of one video.

    Args:
        begins_with: what gives its segments; None = K-Means finds them.
        references: whose features have to be computed first; None = there are none.
    """
    from stages import ingest

    segments = settings["segment"].clusters if begins_with is None else f"those of {begins_with}"
    frames = ingest.count_frames(video, source, settings["ingest"])
    lines = [
        video_line(video, source, frames),
        f"backbone   {backbone.name} {backbone.fingerprint[:12]} on {backbone.device}",
        f"encoder    {settings['extract'].encoder}",
        f"model size {size[1]}x{size[0]}",
        f"segments   {segments}, windows of {settings['segment'].window}",
        f"upsampling {settings['upsample'].method}",
        *([] if references is None else [f"references {estimates.of_pictures(references, settings, backbone)}"]),
        f"estimate   {estimates.of_run(frames, size, source.size, settings, backbone)}",
        outputs_line(out, settings["render"].labels),
    ]
    print("\n".join(lines))


def video_line(video: Path, source: FrameSource, frames: int) -> str:
    """A video, in a plan."""
    return f"video      {video}: {counted(frames, 'frame')}, {source.size[1]}x{source.size[0]}, {source.fps:g} fps"


def outputs_line(out: Path, label_pngs: bool) -> str:
    """The results of a video, in a plan."""
    pngs = "labels/, " if label_pngs else ""
    return f"outputs    {out}/report.html, {pngs}labels.json, overlay.mp4, contact_sheet.png, artifacts/"
