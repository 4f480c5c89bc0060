"""A UNet's forward pass in parts, so that several continuations share what they have in common.

For SD 2.1's topology, of an image or a video model: the UNet's own modules are called in the order in which its
`forward` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.attention import BLOCKS_PER_LEVEL


@dataclass(frozen=True)
class LayerArguments:
    """What every layer takes beside its input, for b samples.

    Attributes:
        embedding: (b, e) of the timestep.
        context: (b, t, c).
        more: a video model's further arguments, by name.
    """

    embedding: Tensor
    context: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> LayerArguments:
        """A copy in which every tensor is changed."""
        more = {name: change(tensor) for name, tensor in self.more.items()}
        return LayerArguments(change(self.embedding), change(self.context), more)


@dataclass(frozen=True)
class Midway:
    """A pass of b samples before the transformer of a decoder block.

    Attributes:
        block: the decoder block.
        hidden: (b, c, h, w), the transformer's input.
        skips: encoder outputs that later blocks take, the next one last.
        arguments: what all layers take.
    """

    block: int
    hidden: Tensor
    skips: tuple[Tensor, ...]
    arguments: LayerArguments

    def map(self, change: Callable[[Tensor], Tensor]) -> Midway:
        """A copy in which every tensor is changed, e.g. other samples selected."""
        skips = tuple(change(skip) for skip in self.skips)
        return Midway(self.block, change(self.hidden), skips, self.arguments.map(change))


def at_timestep(unet: Any, sample: Tensor, timestep: float, context: Tensor) -> LayerArguments:
    """What the layers of an image model take beside scaled latents (b, 4, h, w)."""
    return LayerArguments(unet.time_embedding(unet.get_time_embed(sample, timestep)), context)


def first_part(unet: Any, sample: Tensor, arguments: LayerArguments, block: int) -> Midway:
    """The pass of scaled latents (b, 4, h, w) up to the transformer of a decoder block."""
    hidden = unet.conv_in(sample)
    skips = [hidden]
    for level in unet.down_blocks:
        context = {} if getattr(level, "attentions", None) is None else {"encoder_hidden_states": arguments.context}
        hidden, outputs = level(hidden, arguments.embedding, **context, **arguments.more)
        skips += outputs
    hidden = unet.mid_block(hidden, arguments.embedding, encoder_hidden_states=arguments.context, **arguments.more)
    for before in range(block):
        hidden = _resnet(unet, before, hidden, skips.pop(), arguments)
        hidden = _after_resnet(unet, before, hidden, arguments)
    hidden = _resnet(unet, block, hidden, skips.pop(), arguments)
    return Midway(block, hidden, tuple(skips), arguments)


def second_part(unet: Any, midway: Midway) -> Tensor:
    """The rest of the pass: the network's output (b, 4, h, w)."""
    hidden = _after_resnet(unet, midway.block, midway.hidden, midway.arguments)
    following = range(midway.block + 1, BLOCKS_PER_LEVEL * len(unet.up_blocks))
    return _blocks(unet, following, hidden, list(midway.skips), midway.arguments)


def deep_level(unet: Any) -> Any:
    """The module whose output is all that the network's top level takes from below."""
    return unet.up_blocks[-2]


def top_level(unet: Any, sample: Tensor, arguments: LayerArguments, deep: Tensor) -> Tensor:
    """The pass of scaled latents (b, 4, h, w) with the output of `deep_level` given: (b, c, h, w)."""
    hidden = unet.conv_in(sample)
    skips = [hidden]
    level = unet.down_blocks[0]
    for resnet, attention in zip(level.resnets, level.attentions, strict=True):
        hidden = resnet(hidden, arguments.embedding, **arguments.more)
        hidden = _attended(attention, hidden, arguments)
        skips.append(hidden)
    blocks = BLOCKS_PER_LEVEL * len(unet.up_blocks)
    return _blocks(unet, range(blocks - BLOCKS_PER_LEVEL, blocks), deep, skips, arguments)


def _blocks(unet: Any, blocks: range, hidden: Tensor, skips: list[Tensor], arguments: LayerArguments) -> Tensor:
    for block in blocks:
        hidden = _resnet(unet, block, hidden, skips.pop(), arguments)
        hidden = _after_resnet(unet, block, hidden, arguments)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


def _resnet(unet: Any, block: int, hidden: Tensor, skip: Tensor, arguments: LayerArguments) -> Tensor:
    level, place = divmod(block, BLOCKS_PER_LEVEL)
    resnet = unet.up_blocks[level].resnets[place]
    return resnet(torch.cat([hidden, skip], dim=1), arguments.embedding, **arguments.more)


def _after_resnet(unet: Any, block: int, hidden: Tensor, arguments: LayerArguments) -> Tensor:
    number, place = divmod(block, BLOCKS_PER_LEVEL)
    level = unet.up_blocks[number]
    if getattr(level, "attentions", None) is not None:
        hidden = _attended(level.attentions[place], hidden, arguments)
    if place == BLOCKS_PER_LEVEL - 1 and level.upsamplers is not None:
        hidden = level.upsamplers[0](hidden)
    return hidden


def _attended(attention: Any, hidden: Tensor, arguments: LayerArguments) -> Tensor:
    return attention(hidden, encoder_hidden_states=arguments.context, **arguments.more, return_dict=False)[0]
