"""A UNet's forward pass in parts, so that several continuations share what they have in common.

For SD 2.1's topology: the UNet's own modules are called in the order in which its `forward` calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.attention import BLOCKS_PER_LEVEL


@dataclass(frozen=True)
class Midway:
    """A pass of b samples before the transformer of a decoder block.

    Attributes:
        block: the decoder block.
        hidden: (b, c, h, w), the transformer's input.
        skips: encoder outputs that later blocks take, the next one last.
        embedding: (b, e) of the timestep.
        context: (b, t, c).
    """

    block: int
    hidden: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor
    context: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Midway:
        """The same with every tensor changed, e.g. other samples selected."""
        skips = tuple(change(skip) for skip in self.skips)
        return Midway(self.block, change(self.hidden), skips, change(self.embedding), change(self.context))


def first_part(unet: Any, sample: Tensor, timestep: float, context: Tensor, block: int) -> Midway:
    """The pass of scaled latents (b, 4, h, w) up to the transformer of a decoder block."""
    embedding = unet.time_embedding(unet.get_time_embed(sample, timestep))
    hidden = unet.conv_in(sample)
    skips = [hidden]
    for level in unet.down_blocks:
        hidden, outputs = level(hidden, embedding, encoder_hidden_states=context)
        skips += outputs
    hidden = unet.mid_block(hidden, embedding, encoder_hidden_states=context)
    for before in range(block):
        hidden = _resnet(unet, before, hidden, skips.pop(), embedding)
        hidden = _after_resnet(unet, before, hidden, context)
    hidden = _resnet(unet, block, hidden, skips.pop(), embedding)
    return Midway(block, hidden, tuple(skips), embedding, context)


def second_part(unet: Any, midway: Midway) -> Tensor:
    """The rest of the pass: the network's output (b, 4, h, w)."""
    hidden = _after_resnet(unet, midway.block, midway.hidden, midway.context)
    following = range(midway.block + 1, BLOCKS_PER_LEVEL * len(unet.up_blocks))
    return _blocks(unet, following, hidden, list(midway.skips), midway.embedding, midway.context)


def deep_level(unet: Any) -> Any:
    """The module whose output is all that the network's top level takes from below."""
    return unet.up_blocks[-2]


def top_level(unet: Any, sample: Tensor, timestep: float, context: Tensor, deep: Tensor) -> Tensor:
    """The pass of scaled latents (b, 4, h, w) with the output of `deep_level` given: (b, c, h, w)."""
    embedding = unet.time_embedding(unet.get_time_embed(sample, timestep))
    hidden = unet.conv_in(sample)
    skips = [hidden]
    level = unet.down_blocks[0]
    for resnet, attention in zip(level.resnets, level.attentions, strict=True):
        hidden = resnet(hidden, embedding)
        hidden = attention(hidden, encoder_hidden_states=context, return_dict=False)[0]
        skips.append(hidden)
    blocks = BLOCKS_PER_LEVEL * len(unet.up_blocks)
    return _blocks(unet, range(blocks - BLOCKS_PER_LEVEL, blocks), deep, skips, embedding, context)


def _blocks(
    unet: Any, blocks: range, hidden: Tensor, skips: list[Tensor], embedding: Tensor, context: Tensor
) -> Tensor:
    for block in blocks:
        hidden = _resnet(unet, block, hidden, skips.pop(), embedding)
        hidden = _after_resnet(unet, block, hidden, context)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


def _resnet(unet: Any, block: int, hidden: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
    level, place = divmod(block, BLOCKS_PER_LEVEL)
    return unet.up_blocks[level].resnets[place](torch.cat([hidden, skip], dim=1), embedding)


def _after_resnet(unet: Any, block: int, hidden: Tensor, context: Tensor) -> Tensor:
    number, place = divmod(block, BLOCKS_PER_LEVEL)
    level = unet.up_blocks[number]
    if getattr(level, "attentions", None) is not None:
        hidden = level.attentions[place](hidden, encoder_hidden_states=context, return_dict=False)[0]
    if place == BLOCKS_PER_LEVEL - 1 and level.upsamplers is not None:
        hidden = level.upsamplers[0](hidden)
    return hidden
