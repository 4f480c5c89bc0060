"""Stable Diffusion 2.1's family: any UNet of that topology with an f=8 autoencoder, in diffusers' classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from pipeline.backbone.attention import BLOCKS_PER_LEVEL, linear, tapped
from pipeline.backbone.base import Denoised, Offset, Schedule, Tap
from pipeline.backbone.schedule import scaled_linear_schedule


class StableDiffusion:
    """`Backbone` of an image model: every frame of a window is treated alone.

    Args:
        unet, vae: the networks, in evaluation mode on their device. The autoencoder runs in float32, as in the
            authors' code; the denoiser in its own dtype with float32 latents between steps.
        context: (t, c) embedding of the empty prompt; the unconditional half uses zeros of that shape.
        name, fingerprint: as in `Backbone`.
        betas: first and last beta of the training schedule.
    """

    latent_stride = 8

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        context: Tensor,
        name: str,
        fingerprint: str,
        betas: tuple[float, float] = (0.00085, 0.012),
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.context = context.to(unet.device, unet.dtype)
        self.name = name
        self.fingerprint = fingerprint
        self._betas = betas

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        query = linear(self.unet, Tap(block, "self", "query"))
        # Level 0 works at an eighth of the latents' resolution, level 3 at full resolution.
        stride = self.latent_stride * 2 ** (3 - block // BLOCKS_PER_LEVEL)
        return size[0] // stride, size[1] // stride, int(query.out_features)

    def schedule(self, steps: int) -> Schedule:
        return scaled_linear_schedule(steps, *self._betas)

    @torch.inference_mode()
    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)
        posterior = self.vae.encode(pixels.to(torch.float32) * 2 / 255 - 1).latent_dist
        sample = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(self.device)
        return sample.float().contiguous() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float,
        *,
        record: Collection[Tap] = (),
        inject: Mapping[Tap, Tensor] | None = None,
        offset: Offset | None = None,
    ) -> Denoised:
        sigma, following = (float(value) for value in schedule.sigmas[step : step + 2])
        contexts = [self.context] if guidance == 1 else [torch.zeros_like(self.context), self.context]
        context = torch.cat([half.expand(len(latents), -1, -1) for half in contexts])
        scaled = (latents / (1 + sigma**2) ** 0.5).to(self.unet.dtype).repeat(len(contexts), 1, 1, 1)
        with tapped(self.unet, record, inject, offset) as taps:
            epsilon = self.unet(scaled, schedule.timesteps[step], context, return_dict=False)[0].float()
        if len(contexts) == 2:
            unconditional, conditional = epsilon.chunk(2)
            epsilon = unconditional + guidance * (conditional - unconditional)
        return Denoised(latents + (following - sigma) * epsilon, taps)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0].float()
