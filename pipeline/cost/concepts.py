"""What learning segments and applying them cost: operations, counted on networks without weights."""

from __future__ import annotations

import torch

from pipeline.backbone import Backbone, PredictsNoise
from pipeline.cost.counting import flops_of
from pipeline.fewshot.chunks import groups
from pipeline.fewshot.reading import SegmentReader
from pipeline.parameters import ApplyParams, GuidanceParams, MapsParams

#: A step forward and backward in forward passes, as is usual: the backward pass costs about two.
WITH_GRADIENT = 3


def learning_flops(outline: Backbone, maps: MapsParams, segments: int, size: int) -> float:
    """Operations of one step of learning with one picture of size x size."""
    return WITH_GRADIENT * _look_flops(outline, maps, segments, (size, size), 1)


def applying_flops(
    outline: Backbone,
    maps: MapsParams,
    segments: int,
    size: tuple[int, int],
    apply: ApplyParams,
    guidance: GuidanceParams,
) -> dict[str, float]:
    """Operations per frame of a long clip of frames of size (H, W): of the passes, and of guidance beside them.

    Frames that chunks share are computed in each of them.
    """
    steps = len(apply.timesteps) if guidance.moves else 1
    shared = apply.chunk / (apply.chunk - apply.overlap)
    passes = steps * _look_flops(outline, maps, segments, size, apply.chunk) / apply.chunk
    found = {"passes": shared * passes}
    if guidance.moves:
        moved = sum(
            _look_flops(outline, maps, segments, size, len(group)) for group in groups(apply.chunk, guidance.group)
        )
        found["guidance"] = shared * (steps - 1) * guidance.iterations * WITH_GRADIENT * moved / apply.chunk
    return found


def _look_flops(outline: Backbone, maps: MapsParams, segments: int, size: tuple[int, int], frames: int) -> float:
    """Operations of a look at frames that are seen together, with the maps that come of it."""
    assert isinstance(outline, PredictsNoise)
    tokens, channels = outline.context.shape
    context = torch.empty(tokens + segments, channels, device=outline.device)
    reader = SegmentReader(outline, context, tuple(range(tokens, tokens + segments)), 0, maps)
    height, width = (side // outline.latent_stride for side in size)
    latents = torch.empty(frames, 4, height, width, device=outline.device)
    _, flops = flops_of(lambda: reader.look(latents, 100, frames).maps())
    return flops
