"""Decoding a part of the latents as if the whole had been decoded.

A decoder is local but for its normalisations, whose statistics are of the whole image, and for the attention in its
middle. Both are taken from one decoding of the whole and held fixed, so that any box can be decoded by itself. With
other latents inside the box than in the whole this is an approximation: their statistics would be a little different.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.boxes import Box
from pipeline.backbone.networks import replaced

#: Latent cells around a box that are decoded with it and thrown away: there the image's border would show.
MARGIN = 4


@dataclass(frozen=True)
class LocalDecoder:
    """A decoder whose statistics are those of one whole image.

    Attributes:
        decode: from latents (1, 4, h, w) to (1, 3, 8h, 8w).
        whole: (1, 3, H, W) float32, the image itself.
        norms: group normalisation -> mean and reciprocal deviation, each (1, groups, 1).
        attentions: attention -> what it adds to its input in the whole image, (1, c, h, w).
    """

    decode: Callable[[Tensor], Tensor]
    whole: Tensor
    norms: Mapping[nn.GroupNorm, tuple[Tensor, Tensor]]
    attentions: Mapping[Any, Tensor]

    @classmethod
    def of(cls, decode: Callable[[Tensor], Tensor], decoder: Any, latents: Tensor) -> LocalDecoder:
        """Decode the whole of latents (1, 4, h, w) once and keep its statistics.

        Args:
            decoder: the network that `decode` runs.
        """
        norms: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}
        attentions: dict[Any, Tensor] = {}
        inside = [attention for attention in (getattr(decoder.mid_block, "attentions", None) or []) if attention]
        within = {module for attention in inside for module in attention.modules()}
        with ExitStack() as handles:
            for module in decoder.modules():
                if isinstance(module, nn.GroupNorm) and module not in within:
                    handles.callback(module.register_forward_pre_hook(_keep_statistics(norms)).remove)
            for attention in inside:
                handles.callback(attention.register_forward_hook(_keep_change(attentions)).remove)
            whole = decode(latents)
        return cls(decode, whole, norms, attentions)

    def part(self, latents: Tensor, box: Box) -> Tensor:
        """The box of the image (3, 8h, 8w) float32 of other latents (4, h, w)."""
        size = (latents.shape[-2], latents.shape[-1])
        wide = box.grown(MARGIN, size)
        with replaced(self._forwards(wide)):
            image = self.decode(wide.of(latents)[None].contiguous())[0]
        inner = Box(box.top - wide.top, box.bottom - wide.top, box.left - wide.left, box.right - wide.left)
        return inner.scaled(image.shape[-1] // (wide.right - wide.left)).of(image)

    def _forwards(self, box: Box) -> dict[nn.Module, Callable[..., Tensor]]:
        forwards: dict[nn.Module, Callable[..., Tensor]] = {
            norm: _normalised(norm, *statistics) for norm, statistics in self.norms.items()
        }
        for attention, change in self.attentions.items():
            forwards[attention] = _added(box.of(change))
        return forwards


def _keep_statistics(norms: dict[nn.GroupNorm, tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def hook(module: nn.GroupNorm, inputs: tuple[Tensor]) -> None:
        grouped = inputs[0].reshape(len(inputs[0]), module.num_groups, -1)
        variance, mean = torch.var_mean(grouped, dim=-1, correction=0, keepdim=True)
        norms[module] = mean, (variance + module.eps).rsqrt()

    return hook


def _keep_change(attentions: dict[Any, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        attentions[module] = output - inputs[0]

    return hook


def _normalised(norm: nn.GroupNorm, mean: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    # One multiplication and one addition per value: the statistics are constants.
    per_channel = len(norm.weight) // norm.num_groups
    gain = norm.weight * scale.flatten().repeat_interleave(per_channel)
    shift = norm.bias - gain * mean.flatten().repeat_interleave(per_channel)

    def forward(values: Tensor) -> Tensor:
        per_value = (-1, *(1 for _ in values.shape[2:]))  # a video model's have an axis of frames
        return values * gain.reshape(per_value) + shift.reshape(per_value)

    return forward


def _added(change: Tensor) -> Callable[..., Tensor]:
    return lambda hidden_states, *_, **__: hidden_states + change
