"""Modulation by the plain schedule: whole passes for every single job, nothing shared, written out by forward hooks.

The slow version that `pipeline.upsampling.modulation` must equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.image.model import StableDiffusion
from pipeline.features.steps import remaining_steps
from pipeline.upsampling.modulation import enlarge
from pipeline.upsampling.rules import Rules

Hook = Callable[..., Any]


@torch.inference_mode()
def plain_modulated(backbone: StableDiffusion, start: Tensor, mask: Tensor, sign: float, rules: Rules) -> Tensor:
    """Final latents (1, 4, h, w) of one job, from the frame's noised latents (1, 4, h, w) and its mask (h', w')."""
    diffusion, params, parity = rules.diffusion, rules.upsample, rules.upsample.parity
    schedule = backbone.schedule(diffusion.steps)
    layers = injected_layers(backbone.unet)
    clean = modulated = start
    for step in remaining_steps(diffusion):
        stored: dict[nn.Module, Tensor] = {}
        with hooked({layer: storing(stored) for layer in layers}):
            next_clean = euler(backbone, clean, step, schedule, diffusion.guidance)
        hooks: dict[nn.Module, Hook] = {}
        if parity.inject and step >= params.modulate_step:
            hooks = {layer: replacing(stored[layer]) for layer in layers}
        before: dict[nn.Module, Hook] = {}
        if step == params.modulate_step:
            modulated = clean
            grid = backbone.token_shape(params.block, tuple(8 * side for side in start.shape[-2:]))[:2]
            values = params.strength * sign * enlarge(mask[None], grid, "nearest").flatten()[None, :, None]
            cross = attention(backbone.unet, params.block, "attn2")
            if parity.offset == "after":
                hooks[cross] = lambda module, inputs, output, values=values: output + values
            else:
                before[cross.to_out[0]] = lambda module, inputs, values=values: (inputs[0] + values,)
        with hooked(hooks, before):
            modulated = euler(backbone, modulated, step, schedule, diffusion.guidance)
        clean = next_clean
        if params.blend and params.modulate_step <= step <= parity.blend_last_step:
            large = enlarge(mask[None], start.shape[-2:], parity.mask_resize)[:, None]
            modulated = large * modulated + (1 - large) * clean
    return modulated


def euler(backbone: StableDiffusion, latents: Tensor, step: int, schedule: Any, guidance: float) -> Tensor:
    sigma, following = schedule.sigmas[step], schedule.sigmas[step + 1]
    scaled = (latents / (1 + sigma**2) ** 0.5).repeat(2, 1, 1, 1)
    contexts = torch.stack([torch.zeros_like(backbone.context), backbone.context])
    unconditional, conditional = backbone.unet(scaled, schedule.timesteps[step], contexts).sample.chunk(2)
    return latents + (following - sigma) * (unconditional + guidance * (conditional - unconditional))


def attention(unet: Any, block: int, name: str) -> Any:
    return getattr(unet.up_blocks[block // 3].attentions[block % 3].transformer_blocks[0], name)


def injected_layers(unet: Any) -> list[nn.Module]:
    """Queries and keys of blocks 3-11; keys of cross-attention depend on the context only."""
    layers = []
    for block in range(3, 12):
        own, cross = attention(unet, block, "attn1"), attention(unet, block, "attn2")
        layers += [own.to_q, own.to_k, cross.to_q]
    return layers


def storing(store: dict[nn.Module, Tensor]) -> Hook:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        store[module] = output

    return hook


def replacing(value: Tensor) -> Hook:
    return lambda module, inputs, output: value


@contextmanager
def hooked(after: dict[nn.Module, Hook], before: dict[nn.Module, Hook] | None = None) -> Iterator[None]:
    with ExitStack() as handles:
        for module, hook in after.items():
            handles.callback(module.register_forward_hook(hook).remove)
        for module, hook in (before or {}).items():
            handles.callback(module.register_forward_pre_hook(hook).remove)
        yield
