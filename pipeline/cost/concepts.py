"""What learning segments and applying them cost: operations, counted on networks without weights, and their seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.backbone import ALONE, Backbone, PredictsNoise, Together
from pipeline.cost.counting import flops_of
from pipeline.cost.timing import LONGEST, timed
from pipeline.fewshot.chunks import chunks, groups
from pipeline.fewshot.reading import SegmentReader, inflation
from pipeline.fewshot.views import canvas_of
from pipeline.media.resize import MULTIPLE
from pipeline.parameters import ApplyParams, GuidanceParams, MapsParams

Size = tuple[int, int]
#: A step forward and backward in forward passes, as is usual: the backward pass costs about two.
WITH_GRADIENT = 3


@dataclass(frozen=True)
class Speed:
    """Seconds per operation on this machine.

    Attributes:
        seen: of a look that nothing is learned from.
        moved: of one forward and backward, whose operations are counted as `WITH_GRADIENT` looks.
    """

    seen: float
    moved: float


@dataclass(frozen=True)
class Sight:
    """What one look is at, and with what.

    Attributes:
        outline: the backbone on the meta device.
        maps: how its attention is read.
        segments: how many there are.
        size: (H, W) of pictures or frames.
    """

    outline: Backbone
    maps: MapsParams
    segments: int
    size: Size

    def flops(self, frames: int, together: Together = ALONE) -> float:
        """Operations of a look at frames, with the maps that come of it."""
        reader, latents = _reader(self.outline, self, together), _latents(self.outline, self.size, frames)
        _, flops = flops_of(lambda: reader.look(latents, 100, frames).maps())
        return flops


def learning_flops(sight: Sight) -> float:
    """Operations of one step of learning with one picture."""
    return WITH_GRADIENT * sight.flops(1)


def applying_flops(
    sight: Sight, apply: ApplyParams, guidance: GuidanceParams, frames: int | None = None
) -> dict[str, float]:
    """Operations per frame of a clip: of the passes, of guidance beside them, and of the boxes or crops that are seen.

    Frames that chunks share are computed in each of them; each crop of a frame is as large as the frame.

    Args:
        frames: of the clip; None = so many that its beginning and its end do not count.
    """
    seen = apply.chunk if frames is None else min(apply.chunk, frames)
    # How often a frame is computed.
    repeated = (
        apply.chunk / (apply.chunk - apply.overlap)
        if frames is None
        else sum(len(chunk.frames) for chunk in chunks(frames, apply.chunk, apply.overlap)) / frames
    )
    steps, views = len(apply.timesteps) if guidance.moves else 1, apply.patches**2
    look = sight.flops(seen, inflation(apply)) / seen
    found = {"passes": repeated * views * steps * look}
    if apply.focus == "box" or views > 1:
        _, encoded = flops_of(lambda: sight.outline.encode(np.zeros((1, *sight.size, 3), np.uint8)))
        first = look if apply.focus == "box" else 0.0  # a look at the whole frame, before it is encoded again
        found["views"] = repeated * (first + views * encoded)
    if guidance.moves:
        parts = Counter(map(len, groups(seen, guidance.group)))
        moved = sum(count * sight.flops(part, inflation(apply)) for part, count in parts.items())
        found["guidance"] = repeated * views * (steps - 1) * guidance.iterations * WITH_GRADIENT * moved / seen
    return found


def speed_of(backbone: Backbone, sight: Sight, frames: int, together: Together = ALONE) -> Speed:
    """How fast this machine looks at frames, by a short calibration through the real code.

    Begins with small frames, which also warm up, and doubles their sides as long as that is quick; small frames take
    longer per operation, so this errs on the long side.

    Args:
        backbone: that of the outline, whose weights need not mean anything.
        frames: of a look.
        together: how they are seen.
    """
    reader, part, size = _reader(backbone, sight, together), (MULTIPLE, MULTIPLE), sight.size
    while True:
        latents = _latents(backbone, part, frames)
        with torch.no_grad():
            _, seen = timed(backbone.device, lambda: reader.look(latents, 100, frames).maps())  # noqa: B023
        wanted = latents.clone().requires_grad_()
        _, moved = timed(backbone.device, lambda: reader.look(wanted, 100, frames).maps().sum().backward())  # noqa: B023
        following = min(2 * part[0], size[0]), min(2 * part[1], size[1])
        growth = following[0] * following[1] / (part[0] * part[1])
        if part == size or growth * (seen + moved) > LONGEST:
            break
        part = following
    flops = replace(sight, size=part).flops(frames, together)
    return Speed(seen / flops, moved / (WITH_GRADIENT * flops))


def learning_seconds(backbone: Backbone, sight: Sight) -> float:
    """Seconds of one step of learning with one picture, as `speed_of` finds them."""
    speed = speed_of(backbone, sight, 1)
    with torch.no_grad():
        _, encode = timed(backbone.device, lambda: backbone.encode(np.zeros((1, *sight.size, 3), np.uint8)))
    return encode + speed.moved * learning_flops(sight)


def applying_seconds(
    backbone: Backbone, sight: Sight, apply: ApplyParams, guidance: GuidanceParams, frames: int | None = None
) -> float:
    """Seconds per frame of a clip, as `speed_of` finds them; arguments as `applying_flops`."""
    speed = speed_of(backbone, sight, min(guidance.group, apply.chunk, frames or apply.chunk), inflation(apply))
    flops = applying_flops(sight, apply, guidance, frames)
    return speed.seen * (flops["passes"] + flops.get("views", 0.0)) + speed.moved * flops.get("guidance", 0.0)


def applied_bytes(
    grid: Size,
    source_size: Size,
    segments: int,
    apply: ApplyParams,
    window: int | None,
    frames: int,
    confidence: bool = False,
) -> float:
    """Bytes of tracks.zarr, soft.zarr and labels.zarr of a clip, before compression.

    Args:
        grid: (h, w) of the latents.
        window: frames through which points are followed; None = there are no tracks.
        confidence: whether labels.zarr says how sure its labels are.
    """
    points, cells, pixels = (side[0] * side[1] for side in (grid, canvas_of(apply, grid), source_size))
    seen = sum(len(chunk.frames) for chunk in chunks(frames, apply.chunk, apply.overlap))
    # Maps in half and in single precision; a byte for each label; two short integers and a truth for each point.
    tracks = 0 if window is None else frames * min(window, frames) * points * 5
    return tracks + seen * (6 * segments * cells + pixels) + frames * pixels * (1 + confidence)


def _reader(backbone: Backbone, sight: Sight, together: Together) -> SegmentReader:
    assert isinstance(backbone, PredictsNoise)
    (tokens, channels), segments = backbone.context.shape, sight.segments
    context = torch.zeros(tokens + segments, channels, device=backbone.device)
    return SegmentReader(backbone, context, tuple(range(tokens, tokens + segments)), 0, sight.maps, together)


def _latents(backbone: Backbone, size: Size, frames: int) -> torch.Tensor:
    height, width = (side // backbone.latent_stride for side in size)
    return torch.zeros(frames, 4, height, width, device=backbone.device)
