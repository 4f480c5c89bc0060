"""The small denoiser of `compact` and its two losses: noise prediction, and dense self-supervision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.training.loop import Step, mixed_precision
from pipeline.training.views import Cache, Pair, ViewSettings, sample_pair

TIMESTEPS = 1000
BETAS = (0.00085, 0.012)


@dataclass(frozen=True)
class DenoiserSettings:
    """Shape of the denoiser, its noise and the weight of the second loss."""

    channels: tuple[int, ...] = (48, 96, 160, 160)
    layers: int = 2
    head: int = 32
    groups: int = 16
    context_width: int = 64
    prompt_tokens: int = 8
    zero_context: float = 0.1
    low_noise: float = 0.8
    low_timestep: int = 200
    high_timestep: int = 700
    dense_weight: float = 0.3
    temperature: float = 0.1


class Denoiser(nn.Module):
    """A diffusers UNet of SD 2.1's topology with the learned tokens of the empty prompt.

    `prompt` is (prompt_tokens, context_width) f32.
    """

    def __init__(self, settings: DenoiserSettings) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet: Any = UNet2DConditionModel(
            sample_size=32,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=settings.channels,
            layers_per_block=settings.layers,
            cross_attention_dim=settings.context_width,
            attention_head_dim=[max(1, width // settings.head) for width in settings.channels],
            use_linear_projection=True,
            norm_num_groups=settings.groups,
        )
        self.prompt = nn.Parameter(torch.randn(settings.prompt_tokens, settings.context_width))

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Predicted noise of (b,4,h,w) latents; samples whose `keep` (b,) is 0 see an all-zero context."""
        context = self.prompt[None] * keep[:, None, None]
        return self.unet(noisy, timesteps, context).sample

    def tapped(self) -> list[nn.Module]:
        """The self-attention query maps of decoder blocks 6, 7 and 8."""
        attentions = self.unet.up_blocks[2].attentions
        return [attention.transformer_blocks[0].attn1.to_q for attention in attentions]


@contextmanager
def recorded_queries(model: Denoiser) -> Iterator[list[torch.Tensor]]:
    """Collects the tapped queries, (b, n, c) each, of the forward passes inside the block."""
    found: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, output: found.append(output)) for layer in model.tapped()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class _AllRecorded(Exception):
    """Ends a forward pass whose rest nobody needs."""


def mean_queries(model: Denoiser, noisy: torch.Tensor, timesteps: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Mean of the tapped queries, (b, n, c) f32; arguments as of `Denoiser`. What comes after them is not run."""

    def stop(*_: object) -> None:
        raise _AllRecorded

    with recorded_queries(model) as queries:
        end = model.tapped()[-1].register_forward_hook(stop)
        try:
            model(noisy, timesteps, keep)
        except _AllRecorded:
            pass
        finally:
            end.remove()
    return torch.stack([query.float() for query in queries]).mean(0)


def signal_levels() -> torch.Tensor:
    """The cumulative alpha of SD's scaled-linear schedule, (1000,) f32."""
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def sample_timesteps(count: int, settings: DenoiserSettings, rng: np.random.Generator) -> torch.Tensor:
    """(count,) timesteps: a share `low_noise` below `low_timestep`, the rest up to `high_timestep`."""
    low = rng.integers(0, settings.low_timestep, count)
    high = rng.integers(settings.low_timestep, settings.high_timestep, count)
    return torch.from_numpy(np.where(rng.random(count) < settings.low_noise, low, high))


def dense_contrast(first: torch.Tensor, second: torch.Tensor, grid: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE over shared places of two views; negatives are places of other images only.

    Negatives of the same image would teach where in the picture a token lies: they were worse for clustering.

    Args:
        first, second: (b, c, h, w) query maps of the two views.
        grid: (b, h, w, 2), where the first view's tokens lie in the second (see `Pair`).
        temperature: divides the cosine similarities.

    Returns:
        Scalar f32: mean cross-entropy, both ways, of finding each token's own place among those of the batch.
    """
    b, c, h, w = first.shape
    anchors = F.normalize(first.float(), dim=1).permute(0, 2, 3, 1).reshape(-1, c)
    places = F.grid_sample(F.normalize(second.float(), dim=1), grid, padding_mode="border", align_corners=False)
    places = F.normalize(places, dim=1).permute(0, 2, 3, 1).reshape(-1, c)
    shared = (grid.abs() < 1).all(-1).reshape(-1)
    if int(shared.sum()) < 2:
        return first.sum() * 0.0
    image = torch.arange(b, device=first.device).repeat_interleave(h * w)[shared]
    own = torch.eye(len(image), dtype=torch.bool, device=first.device)
    ignored = (image[:, None] == image[None]) & ~own
    logits = (anchors[shared] @ places[shared].T / temperature).masked_fill(ignored, -1e4)
    target = torch.arange(len(logits), device=first.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


class DenoiserLoss:
    """Both losses on one batch of view pairs; each view has its own noise and timestep."""

    def __init__(self, cache: Cache, views: ViewSettings, settings: DenoiserSettings, device: torch.device) -> None:
        self.cache, self.views, self.settings, self.device = cache, views, settings, device
        self.levels = signal_levels().to(device)

    def __call__(self, model: nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        assert isinstance(model, Denoiser)
        pair = sample_pair(self.cache, self.views, rng)
        return self.on_pair(model, pair, rng, noise)

    def on_pair(self, model: Denoiser, pair: Pair, rng: np.random.Generator, noise: torch.Generator) -> Step:
        s = self.settings
        clean = torch.cat([pair.first, pair.second]).to(self.device)
        timesteps = sample_timesteps(len(clean), s, rng).to(self.device)
        keep = torch.from_numpy((rng.random(len(clean)) >= s.zero_context).astype(np.float32)).to(self.device)
        epsilon = torch.randn(clean.shape, generator=noise).to(self.device)
        level = self.levels[timesteps][:, None, None, None]
        with mixed_precision(self.device), recorded_queries(model) as queries:
            predicted = model(level.sqrt() * clean + (1 - level).sqrt() * epsilon, timesteps, keep)
        denoising = F.mse_loss(predicted.float(), epsilon)
        mean = torch.stack([query.float() for query in queries]).mean(0)
        height, width = pair.grid.shape[1:3]
        maps = mean.transpose(1, 2).unflatten(2, (height, width))
        first, second = maps.chunk(2)
        dense = dense_contrast(first, second, pair.grid.to(self.device), s.temperature)
        loss = denoising + s.dense_weight * dense
        parts = {"denoising": float(denoising.detach()), "dense": float(dense.detach())}
        return Step(loss, parts, len(clean))
