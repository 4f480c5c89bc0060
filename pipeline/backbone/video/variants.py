"""A step of a window repeated with modulation: what labels and signs have in common is computed once.

Shared are the pass before the transformer of the modulated block (same latents, same network) and, with injection, the
weights of temporal self-attention, which follow from the clean pass's queries and keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.attention import (
    ATTENTION_BLOCKS,
    BLOCKS_PER_LEVEL,
    GivenPattern,
    attention_of,
    processed,
    shifted,
)
from pipeline.backbone.base import AttentionName, Conditioning, Layer, Offset, Share
from pipeline.backbone.midway import LayerArguments, Midway, first_part, second_part, top_level
from pipeline.backbone.video.schedule import VideoStep

#: Attention -> its weights (f, heads, n, n) in a step that is repeated, for one half.
Patterns = Mapping[tuple[int, Layer], Tensor]
LAYERS: Mapping[AttentionName, tuple[Layer, ...]] = {
    "cross_spatial": ("cross",),
    "self_spatial": ("self",),
    "self_temporal": ("temporal_self",),
    "self_spatial_temporal": ("self", "temporal_self"),
}


def shared_layers(share: Share | None, injected: Sequence[Layer]) -> list[tuple[int, Layer]]:
    """The attentions whose patterns a step must record to share them."""
    if share is None or not share.attention:
        return []
    # Up to the modulated block variants do not differ from the step itself, and what is deep they do not run.
    first = ATTENTION_BLOCKS.stop - BLOCKS_PER_LEVEL if share.deep else share.block or 0
    return [(block, layer) for block in ATTENTION_BLOCKS if block >= first for layer in injected]


@dataclass(frozen=True)
class NetworkInput:
    """What the network takes of j variants of a window, for one half.

    Attributes:
        sample: (j, f, 8, h, w) preconditioned latents, stacked on the first frame's.
        timestep: () float32.
        context: (j, 1, c) the first frame's embedding.
        ids: (j, 3).
    """

    sample: Tensor
    timestep: Tensor
    context: Tensor
    ids: Tensor

    @classmethod
    def of(
        cls, unet: Any, latents: Tensor, move: VideoStep, conditioning: Conditioning, conditional: bool
    ) -> NetworkInput:
        """Prepare the latents (j, f, 4, h, w) of j variants of a window for the network.

        The unconditional half has zeros in place of the first frame's latent and token, but the same ids.
        """
        variants, frames = latents.shape[:2]
        assert conditioning.latent is not None and conditioning.token is not None and conditioning.ids is not None
        latent, token = conditioning.latent, conditioning.token
        if not conditional:
            latent, token = torch.zeros_like(latent), torch.zeros_like(token)
        stacked = torch.cat([move.preconditioning[0] * latents, latent.expand(variants, frames, -1, -1, -1)], dim=2)
        return cls(
            stacked.to(unet.dtype),
            torch.tensor(move.timestep, dtype=torch.float32, device=latents.device),
            token.to(unet.dtype).expand(variants, -1, -1),
            conditioning.ids.expand(variants, -1),
        )

    def output(self, unet: Any) -> Tensor:
        """The network's output (j, f, 4, h, w) float32."""
        return unet(self.sample, self.timestep, self.context, self.ids, return_dict=False)[0].float()

    def first_part(self, unet: Any, block: int) -> Midway:
        """The pass up to the transformer of a decoder block."""
        return first_part(unet, self.sample.flatten(0, 1), self._arguments(unet), block)

    def top_level(self, unet: Any, deep: Tensor) -> Tensor:
        """The network's output (j, f, 4, h, w) float32, where all below the top level is known: (j * f, c, h, w)."""
        output = top_level(unet, self.sample.flatten(0, 1), self._arguments(unet), deep)
        return output.float().unflatten(0, self.sample.shape[:2])

    def _arguments(self, unet: Any) -> LayerArguments:
        variants, frames = self.sample.shape[:2]
        time = unet.time_proj(self.timestep.expand(variants)).to(self.sample.dtype)
        ids = unet.add_time_proj(self.ids.flatten()).unflatten(0, (variants, -1)).flatten(1)
        embedding = unet.time_embedding(time)
        embedding = embedding + unet.add_embedding(ids.to(embedding.dtype))
        video = torch.zeros_like(self.sample[:, :, 0, 0, 0])  # 1 would be a frame alone
        return LayerArguments(
            embedding.repeat_interleave(frames, dim=0),
            self.context.repeat_interleave(frames, dim=0),
            {"image_only_indicator": video},
        )


@dataclass(frozen=True)
class RepeatableHalf:
    """What one half of a step shares with its variants.

    Attributes:
        conditional: which half.
        patterns: the attention weights that variants take over.
        midway: the pass before the transformer of the modulated block; None where nothing is modulated.
        deep: what the network's top level takes from below, (f, c, h, w); None unless that is shared.
    """

    conditional: bool
    patterns: Patterns
    midway: Midway | None = None
    deep: Tensor | None = None


@dataclass(frozen=True)
class RepeatableWindow:
    """`RepeatableStep` and `Variants` of a video model: a step of a window of f frames.

    Attributes:
        unet: the network.
        move: the step.
        conditioning: of the window.
        halves: those that are run.
    """

    unet: Any
    move: VideoStep
    conditioning: Conditioning
    halves: tuple[RepeatableHalf, ...]

    def variants(self, frames: Collection[int]) -> RepeatableWindow:
        """Itself: the frames of a window are not separated."""
        return self

    def denoise(self, latents: Tensor, frames: Sequence[int], offset: Offset | None = None) -> Tensor:
        """See `Variants`: the j variants are whole windows, one after the other."""
        windows = latents.unflatten(0, (-1, len(self.move.guidance)))
        outputs = [self._output(half, windows, offset) for half in self.halves]
        return self.move.moved(windows, outputs).flatten(0, 1)

    def _output(self, half: RepeatableHalf, windows: Tensor, offset: Offset | None) -> Tensor:
        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat(len(windows), *(1 for _ in tensor.shape[1:]))

        given = {attention_of(self.unet, *key): GivenPattern(weights) for key, weights in half.patterns.items()}
        shifts = {} if offset is None else self._shifts(half, offset, len(windows))
        with processed(given), shifted(shifts, offset.place if offset else "after"):
            if half.midway is not None:
                return second_part(self.unet, half.midway.map(repeated)).float().unflatten(0, windows.shape[:2])
            whole = NetworkInput.of(self.unet, windows, self.move, self.conditioning, half.conditional)
            return whole.output(self.unet) if half.deep is None else whole.top_level(self.unet, repeated(half.deep))

    def _shifts(self, half: RepeatableHalf, offset: Offset, variants: int) -> dict[Any, Tensor]:
        assert half.midway is not None, "only a step that shares its block can be modulated"
        values = offset.values.unflatten(0, (variants, -1))  # (j, f, n)
        temporal = values.transpose(1, 2)  # each token's sequence of frames
        return {
            attention_of(self.unet, half.midway.block, layer): (temporal if layer.startswith("temporal") else values)
            .flatten(0, 1)
            .unsqueeze(-1)
            for layer in LAYERS[offset.attention]
        }
