"""Stable Diffusion 2.1's family: any UNet of that topology with an f=8 autoencoder, in diffusers' classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import Parameter

from pipeline.backbone.attention import attention_of, recorded, recorded_outputs
from pipeline.backbone.base import (
    ALONE,
    UNCONDITIONED,
    AttentionName,
    Conditioning,
    Denoised,
    Prediction,
    RepeatableDenoised,
    Schedule,
    Share,
    Tap,
    Together,
)
from pipeline.backbone.image.schedule import (
    GuidedStep,
    scaled_linear_alphas,
    scaled_linear_schedule,
)
from pipeline.backbone.image.variants import RepeatableFrames, shared_taps
from pipeline.backbone.latent_model import LatentModel
from pipeline.backbone.midway import at_timestep, deep_level, first_part, second_part
from pipeline.backbone.text import Text
from pipeline.backbone.together import inflated
from pipeline.backbone.training_schedule import TrainingSchedule
from pipeline.errors import UsageError
from pipeline.parameters import DiffusionVideo


class StableDiffusion(LatentModel):
    """`Backbone`, `Modulates` and `PredictsNoise` of an image model: a window is one frame.

    Args:
        unet, vae, name, fingerprint: as in `LatentModel`.
        context: (t, c) embedding of the empty prompt; the unconditional half uses zeros of that shape.
        betas: first and last beta of the training schedule.
        text: None: the model has no text encoder.
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
        text: Text | None = None,
    ) -> None:
        super().__init__(unet, vae, name, fingerprint)
        self.context = context.to(unet.device, unet.dtype)
        self.training_schedule = TrainingSchedule(scaled_linear_alphas(*betas))
        self._betas = betas
        self._text = text

    @property
    def has_text(self) -> bool:
        return self._text is not None

    def encode_text(self, prompt: str) -> Tensor:
        return self._texts(prompt)

    def text_pieces(self, text: str) -> int:
        return self._texts.pieces(text)

    @property
    def _texts(self) -> Text:
        if self._text is None:
            raise UsageError(f"{self.name} has no text encoder, so it knows no words; begin with random tokens instead")
        return self._text

    def heads(self, block: int) -> int:
        return int(attention_of(self.unet, block, "self").heads)

    def tunable(self) -> dict[str, Parameter]:
        tuned = ("attn2.to_k.weight", "attn2.to_v.weight")
        return {name: weight for name, weight in self.unet.named_parameters() if name.endswith(tuned)}

    def schedule(self, steps: int) -> Schedule:
        return scaled_linear_schedule(steps, *self._betas)

    def frames_per_pass(self, together: int, batch: int) -> int:
        return batch

    def guidance_of(self, first: float, last: float, frames: int) -> float:
        return last

    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        pixels = torch.from_numpy(np.require(frames, requirements=["C", "W"])).to(self.device).permute(0, 3, 1, 2)
        posteriors = [self.vae.encode(part.to(torch.float32) * 2 / 255 - 1).latent_dist for part in self._parts(pixels)]
        mean = torch.cat([posterior.mean for posterior in posteriors])
        if noise is not None:
            mean = mean + torch.cat([posterior.std for posterior in posteriors]) * noise.to(self.device)
        return mean.float().contiguous() * self.vae.config.scaling_factor

    def _parts(self, images: Tensor) -> Sequence[Tensor]:
        """What the autoencoder sees at once: on a CPU one image, as a batch is slower and takes more memory."""
        return images.split(1) if self.device.type == "cpu" else (images,)

    def condition(self, frame: np.ndarray, noise: Tensor, told: DiffusionVideo) -> Conditioning:
        return UNCONDITIONED

    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        *,
        record: Collection[Tap] = (),
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Denoised:
        move, sample, context = self._prepared(latents, step, schedule, guidance, conditioning)
        with recorded(self.unet, record) as taps:
            epsilon = self.unet(sample, move.timestep, context, return_dict=False)[0]
        return Denoised(move.moved(latents, epsilon.float()), taps)

    def denoise_repeatably(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        share: Share,
        *,
        record: Collection[Tap] = (),
        conditioning: Conditioning = UNCONDITIONED,
    ) -> RepeatableDenoised:
        move, sample, context = self._prepared(latents, step, schedule, guidance, conditioning)
        shared, midway = shared_taps(share), None
        watched = [deep_level(self.unet)] if share.deep else []
        with recorded(self.unet, {*record, *shared}) as taps, recorded_outputs(watched) as deep:
            if share.block is None:
                epsilon = self.unet(sample, move.timestep, context, return_dict=False)[0]
            else:
                arguments = at_timestep(self.unet, sample, move.timestep, context)
                midway = first_part(self.unet, sample, arguments, share.block)
                epsilon = second_part(self.unet, midway)
        of_shared = {tap: taps[tap] for tap in shared}
        repeatable = RepeatableFrames(self.unet, move, context, share, of_shared, midway, *deep)
        recorded_taps = {tap: taps[tap] for tap in record}
        return RepeatableDenoised(move.moved(latents, epsilon.float()), recorded_taps, repeatable=repeatable)

    def predict(
        self,
        latents: Tensor,
        timestep: float | Tensor,
        *,
        conditioning: Conditioning = UNCONDITIONED,
        record: Collection[Tap] = (),
        together: Together = ALONE,
    ) -> Prediction:
        sample, context = latents.to(self.unet.dtype), self._context(conditioning, len(latents))
        with inflated(self.unet, together, len(latents)), recorded(self.unet, record) as taps:
            noise = self.unet(sample, timestep, context, return_dict=False)[0]
        return Prediction(noise.float(), taps)

    def _prepared(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        conditioning: Conditioning,
    ) -> tuple[GuidedStep, Tensor, Tensor]:
        """The step, and what the network takes in it: scaled latents and context, each (halves * b, ...)."""
        assert isinstance(guidance, int | float), "frames alone have one scale"
        move = GuidedStep.of(schedule, step, guidance)
        context = self._context(conditioning, len(latents))
        if move.halves == 2:
            context = torch.cat([torch.zeros_like(context), context])
        return move, move.scaled(latents).to(self.unet.dtype), context

    def _context(self, conditioning: Conditioning, frames: int) -> Tensor:
        """(b, t, c) in the network's precision."""
        if conditioning.context is None:
            return self.context.expand(frames, -1, -1)
        context, width = conditioning.context, self.context.shape[-1]
        if context.shape[-1] != width or (context.ndim != 2 and (context.ndim != 3 or len(context) != frames)):
            raise UsageError(
                f"a context of shape {tuple(context.shape)} is none for {frames} frames of {self.name}; it must be "
                f"(tokens, {width}) or ({frames}, tokens, {width})"
            )
        return context.to(self.context.device, self.context.dtype).expand(frames, -1, -1)

    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        return torch.cat([self._decode(part) for part in self._parts(latents)])

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0].float()
