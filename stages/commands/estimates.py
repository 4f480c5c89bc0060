"""What a command will take, in words, before it takes it: computing on this machine, and disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common import cli
from stages.common.printing import counted
from stages.common.settings import Settings

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.fewshot.references import References

Size = tuple[int, int]


def announce(clip: Path, estimate: Callable[[int, Size, Size], str]) -> None:
    """Say what a clip will take.

    Args:
        estimate: of its number of frames, their size (H, W), and that of the source.
    """
    from pipeline.stores.schemas import CLIP
    from pipeline.stores.store import open_store

    store = open_store(clip, CLIP)
    frames, size = store.frames("frames"), store.size("frames")
    takes = estimate(frames, size, tuple(store.attrs["source_size"]))
    cli.note(f"{counted(frames, 'frame')} at {size[1]}x{size[0]}: {takes}")


def of_run(frames: int, size: Size, source_size: Size, settings: Settings, backbone: Backbone) -> str:
    """What `vidseg run` takes for frames of size (H, W)."""
    from pipeline.cost.counting import cache_bytes
    from stages.commands import cost
    from stages.common import encoders

    load, encoder = cost.workload(settings, size, source_size), encoders.loaded(settings, backbone.device)
    seconds = cost.seconds_per_frame(backbone, load, encoder, frames)
    stores = cache_bytes(backbone, load, settings["extract"].dtype)
    return _computing(frames * sum(seconds.values()), frames * sum(stores.values()))


def of_pictures(references: References, settings: Settings, backbone: Backbone) -> str:
    """What the references of `vidseg run` take: features of each, seen as large as frames of its size are.

    Time is measured at the size that most of them have, and grows with the area.
    """
    from pipeline.cost.counting import cache_bytes
    from pipeline.media.resize import model_size
    from stages.commands import cost
    from stages.common import encoders

    sources = Counter((image.shape[0], image.shape[1]) for image in references.images)
    sizes = {source: model_size(*source, settings["ingest"].size) for source in sources}
    plain = replace(settings["upsample"], method="nearest")  # nothing is upsampled
    loads = {source: replace(cost.workload(settings, size, source), upsample=plain) for source, size in sizes.items()}
    (usual, count), *_ = sources.most_common(1)
    encoder = encoders.loaded(settings, backbone.device)
    per_pixel = cost.seconds_per_frame(backbone, loads[usual], encoder, count)["extract"] / math.prod(sizes[usual])
    seconds = stored = 0.0
    for source, images in sources.items():
        seconds += images * per_pixel * math.prod(sizes[source])
        stores = cache_bytes(backbone, loads[source], settings["extract"].dtype)
        stored += images * (stores["ingest"] + stores["extract"])
    return f"{counted(len(references.images), 'picture')}, {_computing(seconds, stored)}"


def of_applying(
    frames: int, size: Size, source_size: Size, segments: int, settings: Settings, backbone: Backbone
) -> str:
    """What `vidseg apply` takes for frames of size (H, W): in `extract` and `apply`; `track` is quick beside them."""
    from pipeline.cost import concepts
    from pipeline.cost.counting import cache_bytes
    from stages.commands import cost
    from stages.common import backbones, encoders

    # Other ways to enlarge maps take no time that is worth a measurement: upsampling is then none.
    method: Any = "modulation" if settings["apply"].upsample == "modulation" else "nearest"
    plain = replace(
        cost.workload(settings, size, source_size),
        labels=segments,
        upsample=replace(settings["upsample"], method=method),
    )
    encoder, outline = encoders.loaded(settings, backbone.device), backbones.outline(settings["backbone"])
    sections = settings["apply"], settings["guidance"]
    seconds = sum(cost.seconds_per_frame(backbone, plain, encoder, frames).values())
    sight = concepts.Sight(outline, settings["maps"], segments, size)
    seconds += concepts.applying_seconds(backbone, sight, *sections, frames)
    stores = cache_bytes(backbone, plain, settings["extract"].dtype)
    window = settings["track"].window if settings["guidance"].needs_tracks else None
    grid = size[0] // backbone.latent_stride, size[1] // backbone.latent_stride
    sure = settings["upsample"].confidence
    applied = concepts.applied_bytes(grid, source_size, segments, settings["apply"], window, frames, sure)
    return _computing(frames * seconds, frames * (stores["ingest"] + stores["extract"]) + applied)


def of_learning(images: int, segments: int, size: Size, settings: Settings, backbone: Backbone) -> str:
    """What `vidseg learn` takes for so many pictures, seen at size (H, W)."""
    from pipeline.cost import concepts
    from pipeline.fewshot.learning import Plan
    from stages.common import backbones

    params, outline = settings["learn"], backbones.outline(settings["backbone"])
    step = concepts.learning_seconds(backbone, concepts.Sight(outline, settings["maps"], segments, size))
    return _computing(params.batch * step * Plan(images, params).iterations)


def _computing(seconds: float, stored: float | None = None) -> str:
    whole = max(round(seconds), 1)
    duration = counted(whole, "second") if whole < 120 else f"{seconds / 60:.0f} minutes"
    room = "" if stored is None else f" and {max(stored / 1e6, 1):.0f} MB of stores"
    return f"about {duration} of computing{room}"
