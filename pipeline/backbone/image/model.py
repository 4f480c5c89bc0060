"""Stable Diffusion 2.1's family: any UNet of that topology with an f=8 autoencoder, in diffusers' classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from pipeline.backbone.attention import recorded, recorded_outputs
from pipeline.backbone.base import UNCONDITIONED, AttentionName, Conditioning, Denoised, Schedule, Share, Tap
from pipeline.backbone.image.schedule import GuidedStep, scaled_linear_schedule
from pipeline.backbone.image.variants import RepeatableFrames, shared_taps
from pipeline.backbone.latent_model import LatentModel
from pipeline.backbone.midway import at_timestep, deep_level, first_part, second_part
from pipeline.parameters import DiffusionVideo


class StableDiffusion(LatentModel):
    """`Backbone` of an image model: a window is one frame.

    Args:
        unet, vae, name, fingerprint: as in `LatentModel`.
        context: (t, c) embedding of the empty prompt; the unconditional half uses zeros of that shape.
        betas: first and last beta of the training schedule.
    """

    window = 1
    modulated: tuple[AttentionName, ...] = ("cross_spatial",)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        context: Tensor,
        name: str,
        fingerprint: str,
        betas: tuple[float, float] = (0.00085, 0.012),
    ) -> None:
        super().__init__(unet, vae, name, fingerprint)
        self.context = context.to(unet.device, unet.dtype)
        self._betas = betas

    def schedule(self, steps: int) -> Schedule:
        return scaled_linear_schedule(steps, *self._betas)

    def frames_per_pass(self, together: int, batch: int) -> int:
        return batch

    def guidance_of(self, first: float, last: float, frames: int) -> float:
        return last

    @torch.inference_mode()
    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)
        posterior = self.vae.encode(pixels.to(torch.float32) * 2 / 255 - 1).latent_dist
        sample = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(self.device)
        return sample.float().contiguous() * self.vae.config.scaling_factor

    def condition(self, frame: np.ndarray, noise: Tensor, told: DiffusionVideo) -> Conditioning:
        return UNCONDITIONED

    @torch.inference_mode()
    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        *,
        record: Collection[Tap] = (),
        share: Share | None = None,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Denoised:
        assert isinstance(guidance, int | float), "frames alone have one scale"
        move = GuidedStep.of(schedule, step, guidance)
        halves = [self.context] if move.halves == 1 else [torch.zeros_like(self.context), self.context]
        context = torch.cat([half.expand(len(latents), -1, -1) for half in halves])
        sample, midway = move.scaled(latents).to(self.unet.dtype), None
        shared = () if share is None else shared_taps(share)
        watched = [deep_level(self.unet)] if share is not None and share.deep else []
        with recorded(self.unet, {*record, *shared}) as taps, recorded_outputs(watched) as deep:
            if share is None or share.block is None:
                epsilon = self.unet(sample, move.timestep, context, return_dict=False)[0]
            else:
                arguments = at_timestep(self.unet, sample, move.timestep, context)
                midway = first_part(self.unet, sample, arguments, share.block)
                epsilon = second_part(self.unet, midway)
        repeatable = None
        if share is not None:
            of_shared = {tap: taps[tap] for tap in shared}
            repeatable = RepeatableFrames(self.unet, move, context, share, of_shared, midway, *deep)
        return Denoised(move.moved(latents, epsilon.float()), {tap: taps[tap] for tap in record}, repeatable)

    @torch.inference_mode()
    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        # On a CPU the activations of a batch cost page faults: one image at a time is faster.
        parts = latents.split(1) if self.device.type == "cpu" else (latents,)
        return torch.cat([self._decode(part) for part in parts])

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0].float()
