"""An image model that sees several frames at once: SMITE's inflated network (its section 3), on the plain one.

No weight is added. Self-attention reads the tokens of all frames of a clip, and the residual blocks may take the
statistics of their normalisations over the clip; convolutions and cross-attention stay with each frame. So one frame
alone gives the plain network, equal frames give what one of them gives, and the order of the frames does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import group_norm, scaled_dot_product_attention

from pipeline.backbone.attention import processed
from pipeline.backbone.base import Together
from pipeline.backbone.networks import replaced
from pipeline.errors import UsageError


@contextmanager
def inflated(unet: nn.Module, together: Together, batch: int) -> Iterator[None]:
    """Within the context a UNet2DConditionModel sees each clip of a batch as one.

    Args:
        batch: frames of the batch, clip after clip.

    Raises:
        UsageError: the batch is not made of whole clips.
    """
    if together.frames < 1 or batch % together.frames:
        raise UsageError(f"{batch} frames are not whole clips of {together.frames} frames; choose a divisor")
    if together.frames == 1:
        yield
        return
    attentions: dict[nn.Module, JointAttention] = {}
    norms: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for name, module in unet.named_modules():
        if together.attention == "joint" and name.endswith(".attn1"):
            attentions[module] = JointAttention(together.frames)
        is_coupled = together.norm == "joint" and (".resnets." in name or name == "conv_norm_out")
        if is_coupled and isinstance(module, nn.GroupNorm):
            norms[module] = _joint_norm(module, together.frames)
    with processed(attentions), replaced(norms):
        yield


@dataclass(frozen=True)
class JointAttention:
    """Self-attention over the tokens of all frames of a clip.

    Queries, keys and values are computed frame by frame, (b, n, c), so that what is recorded of them has the shape
    that it has without inflation.
    """

    frames: int

    def __call__(self, attention: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        query, key, value = (
            linear(hidden_states)
            .unflatten(0, (-1, self.frames))
            .flatten(1, 2)
            .unflatten(-1, (attention.heads, -1))
            .transpose(1, 2)
            for linear in (attention.to_q, attention.to_k, attention.to_v)
        )
        mixed = scaled_dot_product_attention(query, key, value, scale=attention.scale)
        tokens = mixed.transpose(1, 2).flatten(2).unflatten(1, (self.frames, -1)).flatten(0, 1)
        projection, dropout = attention.to_out
        return dropout(projection(tokens))


def _joint_norm(norm: nn.GroupNorm, frames: int) -> Callable[[Tensor], Tensor]:
    def forward(values: Tensor) -> Tensor:
        clips = values.unflatten(0, (-1, frames)).transpose(1, 2)  # (clips, c, frames, h, w)
        normalised = group_norm(clips, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return normalised.transpose(1, 2).flatten(0, 1)

    return forward
