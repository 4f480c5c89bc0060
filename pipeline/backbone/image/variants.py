"""A step repeated with modulation: everything that labels and signs of a frame have in common is computed once.

Shared are the pass before the modulated cross-attention (same latents, same network) and, with injection, all that
follows from the clean pass's queries and keys: the weights of self-attention, and the whole of cross-attention, whose
keys and values come from the context alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.backbone.attention import (
    ATTENTION_BLOCKS,
    BLOCKS_PER_LEVEL,
    GivenOutput,
    GivenWeights,
    attention_weights,
    processed,
    transformer,
)
from pipeline.backbone.base import Offset, Share, Tap
from pipeline.backbone.image.schedule import GuidedStep
from pipeline.backbone.midway import Midway, at_timestep, second_part, top_level


def shared_taps(share: Share) -> tuple[Tap, ...]:
    """What a step must record to share that."""
    taps: list[Tap] = []
    if share.attention:
        for block in _injected(share):
            taps += Tap(block, "self", "query"), Tap(block, "self", "key"), Tap(block, "cross", "output")
    if share.block is not None:
        taps += Tap(share.block, "self", "output"), Tap(share.block, "cross", "output")
    return tuple(taps)


def _injected(share: Share) -> Sequence[int]:
    # Up to the modulated block variants do not differ from the step itself, and what is deep they do not run.
    first = ATTENTION_BLOCKS.stop - BLOCKS_PER_LEVEL if share.deep else (share.block or 0) + 1
    return [block for block in ATTENTION_BLOCKS if block >= first]


@dataclass(frozen=True)
class RepeatableFrames:
    """`RepeatableStep` of an image model: a step of f frames.

    Attributes:
        unet: the network.
        move: the step.
        context: (halves * f, t, c).
        share: what its variants take over.
        taps: those of `shared_taps`, each (halves * f, n, c).
        midway: the pass before the transformer of the shared block; None without one.
        deep: what the network's top level takes from below, (halves * f, c, h, w); None unless that is shared.
    """

    unet: Any
    move: GuidedStep
    context: Tensor
    share: Share
    taps: Mapping[Tap, Tensor]
    midway: Midway | None
    deep: Tensor | None = None

    def variants(self, frames: Collection[int]) -> FrameVariants:
        chosen = sorted(frames)
        weights = {}
        for block in _injected(self.share) if self.share.attention else ():
            query, key = (self.of_frames(self.taps[Tap(block, "self", kind)], chosen) for kind in ("query", "key"))
            flat = attention_weights(transformer(self.unet, block).attn1, query, key)
            weights[block] = flat.unflatten(0, (self.move.halves, -1))
        return FrameVariants(self, {frame: place for place, frame in enumerate(chosen)}, weights)

    def of_frames(self, tensor: Tensor, frames: Sequence[int]) -> Tensor:
        """(halves * j, ...) of (halves * f, ...)."""
        return tensor.unflatten(0, (self.move.halves, -1))[:, frames].flatten(0, 1)


@dataclass(frozen=True)
class FrameVariants:
    """`Variants` of an image model.

    Attributes:
        step: the step that is repeated.
        places: frame -> its place in the weights.
        weights: decoder block -> self-attention (halves, f, heads, n, n).
    """

    step: RepeatableFrames
    places: Mapping[int, int]
    weights: Mapping[int, Tensor]

    def denoise(self, latents: Tensor, frames: Sequence[int], offset: Offset | None = None) -> Tensor:
        step = self.step
        with processed(self._processors(frames, offset)):
            if step.midway is not None:
                epsilon = second_part(step.unet, step.midway.map(lambda tensor: step.of_frames(tensor, frames)))
            else:
                sample = step.move.scaled(latents).to(step.unet.dtype)
                context = step.of_frames(step.context, frames)
                if step.deep is None:
                    epsilon = step.unet(sample, step.move.timestep, context, return_dict=False)[0]
                else:
                    deep = step.of_frames(step.deep, frames)
                    arguments = at_timestep(step.unet, sample, step.move.timestep, context)
                    epsilon = top_level(step.unet, sample, arguments, deep)
        return step.move.moved(latents, epsilon.float())

    def _processors(self, frames: Sequence[int], offset: Offset | None) -> dict[Any, Callable[..., Tensor]]:
        step, places = self.step, [self.places[frame] for frame in frames]
        processors: dict[Any, Callable[..., Tensor]] = {}
        for block, weights in self.weights.items():
            layers = transformer(step.unet, block)
            processors[layers.attn1] = GivenWeights(weights, places)
            processors[layers.attn2] = GivenOutput(self._shared_output(block, "cross", frames))
        if step.share.block is not None:
            layers = transformer(step.unet, step.share.block)
            cross = self._shared_output(step.share.block, "cross", frames)
            processors[layers.attn1] = GivenOutput(self._shared_output(step.share.block, "self", frames))
            processors[layers.attn2] = GivenOutput(_with_offset(layers.attn2, cross, offset))
        return processors

    def _shared_output(self, block: int, layer: Any, frames: Sequence[int]) -> Tensor:
        return self.step.of_frames(self.step.taps[Tap(block, layer, "output")], frames)


def _with_offset(attention: Any, output: Tensor, offset: Offset | None) -> Tensor:
    """Eq. 2. Both guidance halves are modulated, as in the authors' code."""
    if offset is None:
        return output
    values = offset.values.to(output).repeat(len(output) // len(offset.values), 1).unsqueeze(-1)
    if offset.place == "after":
        return output + values
    # f is affine: f(x + v 1) = f(x) + v f'(1).
    return output + values * attention.to_out[0].weight.sum(dim=1)
