"""The small autoencoder of `compact`: 8x reduction, 4 latent channels, standardised latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.training.data import Picture, center_crop, crop_batch, to_tensor
from pipeline.training.loop import Step, mixed_precision

STRIDE = 8


@dataclass(frozen=True)
class AutoencoderSettings:
    """Shape of the autoencoder and of its training batches."""

    channels: tuple[int, ...] = (24, 48, 72, 96)
    layers: int = 1
    groups: int = 8
    crop: int = 96
    batch: int = 8
    gradient_weight: float = 0.5
    squared_weight: float = 2.0
    colour_weight: float = 2.0
    hue_weight: float = 1.0
    latent_noise: float = 0.05
    latent_weight: float = 1e-3


def build_autoencoder(settings: AutoencoderSettings) -> nn.Module:
    """A diffusers AutoencoderKL without attention: (N,3,H,W) in [-1,1] <-> (N,4,H/8,W/8)."""
    from diffusers import AutoencoderKL

    depth = len(settings.channels)
    model: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        latent_channels=4,
        norm_num_groups=settings.groups,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # deterministic: the log-variance half is pinned at its lower clamp
        model.quant_conv.weight[4:].zero_()
        model.quant_conv.bias[4:].fill_(-30.0)
    return model


def encode(model: Any, images: torch.Tensor) -> torch.Tensor:
    """(N,3,H,W) f32 in [-1,1] to latents (N,4,H/8,W/8): the mean, times the scaling factor (1 here)."""
    return model.encode(images).latent_dist.mean


def decode(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """(N,4,h,w) latents to (N,3,8h,8w) in about [-1,1]."""
    return model.decode(latents).sample


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, gradient: float, squared: float) -> torch.Tensor:
    """Mean of |d| + squared d^2, plus `gradient` times the mean |d| of neighbour differences."""
    error = output - target
    edges = sum(error.diff(dim=axis).abs().mean() for axis in (-1, -2))
    return error.abs().mean() + squared * error.square().mean() + 0.5 * gradient * edges


def hue_residual(latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Share of the two chroma axes, averaged over 8x8 pixels, that no linear map of the latents gives.

    Detail wins over hue in a reconstruction loss: without this term a small autoencoder stays blind to one of the
    axes (green against magenta) for very long, as it did for 2,700 steps here. The linear map is the
    least-squares one of the batch, so it adds no weights. (N,4,h,w) and (N,3,8h,8w) in, scalar f32 out.
    """
    red, green, blue = F.avg_pool2d(images, STRIDE).unbind(1)
    chroma = torch.stack([green - (red + blue) / 2, blue - (red + green) / 2], -1).reshape(-1, 2)
    chroma = chroma - chroma.mean(0)
    known = latents.float().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    known = known - known.mean(0)
    gram = known.T @ known + 1e-3 * len(known) * torch.eye(known.shape[1], device=known.device)
    left = chroma - known @ torch.linalg.solve(gram, known.T @ chroma)
    return (left.square().mean(0) / (chroma.square().mean(0) + 1e-4)).mean()


class AutoencoderLoss:
    """Loss of one batch of random crops.

    A little latent noise makes the decoder tolerate what denoising leaves.
    """

    def __init__(self, images: Sequence[Picture], settings: AutoencoderSettings, device: torch.device) -> None:
        self.images, self.settings, self.device = images, settings, device

    def __call__(self, model: nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        s = self.settings
        target = crop_batch(self.images, s.batch, s.crop, rng).to(self.device)
        with mixed_precision(self.device):
            latents = encode(model, target).float()
            shake = torch.randn(latents.shape, generator=noise).to(self.device)
            output = decode(model, latents + s.latent_noise * shake).float()
        loss = reconstruction_loss(output, target, s.gradient_weight, s.squared_weight)
        colour = F.avg_pool2d(output - target, STRIDE).abs().mean()
        loss = loss + s.colour_weight * colour + s.hue_weight * hue_residual(latents, target)
        loss = loss + s.latent_weight * latents.square().mean()
        with torch.no_grad():
            mse = float(F.mse_loss(output, target))
            hue = float(hue_residual(latents, target))
        shown = {"loss": float(loss.detach()), "mse": mse, "colour": float(colour.detach()), "hue": hue}
        return Step(loss, shown, s.batch)


def freeze_encoder(model: nn.Module) -> None:
    """Only the decoder is trained from here on, so that latents (and a denoiser of them) stay valid."""
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)


@torch.no_grad()
def standardise(model: nn.Module, images: Sequence[Picture], side: int = 192) -> None:
    """Fold per-channel standardisation of the latents into the 1x1 convolutions around them.

    Afterwards the latents of `images` (their central `side` pixels) have mean 0 and deviation 1 per channel,
    with a scaling factor of 1, and reconstructions are unchanged.
    """
    device = next(model.parameters()).device
    latents = torch.cat(
        [encode(model, to_tensor(center_crop(image, side)[None]).to(device)) for image in images]
    ).float()
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before: Any = model.quant_conv
    after: Any = model.post_quant_conv
    before.weight[:4] /= deviation[:, None, None, None]
    before.bias[:4] = (before.bias[:4] - mean) / deviation
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation[None, :, None, None]


@torch.no_grad()
def psnr(model: nn.Module, images: Sequence[Picture], side: int = 192) -> float:
    """Mean PSNR in dB of the 8-bit reconstructions of the central `side` pixels."""
    values = []
    device = next(model.parameters()).device
    for image in images:
        target = to_tensor(center_crop(image, side)[None]).to(device)
        output = decode(model, encode(model, target)).float()
        levels = ((output.clamp(-1, 1) + 1) * 127.5).round() - ((target + 1) * 127.5)
        values.append(10 * np.log10(255**2 / max(1e-9, float(levels.square().mean()))))
    return float(np.mean(values))
