"""Stable Video Diffusion's family: a spatio-temporal UNet with a temporal decoder, in diffusers' classes.

All frames of a window are denoised together, conditioned on its first frame: by its latent, which is stacked on every
frame's, and by its image embedding, the only token of every cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from pipeline.backbone.attention import attention_of, attention_weights, recorded, recorded_outputs
from pipeline.backbone.base import (
    UNCONDITIONED,
    AttentionName,
    Conditioning,
    Denoised,
    Layer,
    RepeatableDenoised,
    Schedule,
    Share,
    Tap,
)
from pipeline.backbone.latent_model import LatentModel
from pipeline.backbone.midway import Midway, deep_level, second_part
from pipeline.backbone.video.schedule import VideoStep, karras_schedule
from pipeline.backbone.video.variants import LAYERS, NetworkInput, RepeatableHalf, RepeatableWindow, shared_layers
from pipeline.errors import UsageError
from pipeline.parameters import DiffusionVideo

#: Frame (H, W, 3) uint8 -> its embedding (1, c) float32.
Embed = Callable[[np.ndarray], Tensor]
#: Epsilon of the original network in all residual blocks; diffusers builds 1e-6 into most, out of reach of any
#: configuration.
RESIDUAL_EPS = 1e-5


class StableVideoDiffusion(LatentModel):
    """`Backbone` of a video model: the frames of a window are seen together.

    The guidance halves run one after the other: at real sizes one half of a window fills a GPU.

    Args:
        unet, vae, name, fingerprint: as in `LatentModel`.
        embed: the image embedding.
        sigmas: largest and smallest noise level.
        injected: the attentions whose patterns variants take over: in the authors' code the temporal ones.
    """

    modulated: tuple[AttentionName, ...] = tuple(LAYERS)

    def __init__(
        self,
        unet: UNetSpatioTemporalConditionModel,
        vae: AutoencoderKLTemporalDecoder,
        embed: Embed,
        name: str,
        fingerprint: str,
        sigmas: tuple[float, float] = (700.0, 0.002),
        injected: tuple[Layer, ...] = ("temporal_self",),
    ) -> None:
        set_residual_eps(unet)
        super().__init__(unet, vae, name, fingerprint)
        self.embed = embed
        self.window = int(unet.config.num_frames)
        self._sigmas = sigmas
        self._injected = injected

    def schedule(self, steps: int) -> Schedule:
        return karras_schedule(steps, *self._sigmas)

    def frames_per_pass(self, together: int, batch: int) -> int:
        return together

    def guidance_of(self, first: float, last: float, frames: int) -> tuple[float, ...]:
        """Linear from the first frame to the last; a frame alone is a first one."""
        return tuple(np.linspace(first, last, frames).tolist())

    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        draws = [None] * len(frames) if noise is None else noise.to(self.device).split(1)
        coded = []
        for frame, draw in zip(frames, draws, strict=True):
            posterior = self.vae.encode(self._pixels(frame)[None]).latent_dist
            coded.append(posterior.mean if draw is None else posterior.mean + posterior.std * draw)
        return torch.cat(coded).float().contiguous() * self.vae.config.scaling_factor

    def condition(self, frame: np.ndarray, noise: Tensor, told: DiffusionVideo) -> Conditioning:
        noisy = self._pixels(frame) + told.noise_augmentation * noise.to(self.device)
        # The posterior's mean, not multiplied by the scaling factor.
        latent = self.vae.encode(noisy[None]).latent_dist.mean[0].float().contiguous()
        ids = torch.tensor([told.fps_id, told.motion_bucket, told.noise_augmentation], device=self.device)
        return Conditioning(latent, self.embed(frame).to(self.device), ids)

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
        denoised, _ = self._step(latents, step, schedule, guidance, None, record, conditioning)
        return denoised

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
        denoised, window = self._step(latents, step, schedule, guidance, share, record, conditioning)
        return RepeatableDenoised(denoised.latents, denoised.taps, repeatable=window)

    def _step(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        share: Share | None,
        record: Collection[Tap],
        conditioning: Conditioning,
    ) -> tuple[Denoised, RepeatableWindow]:
        if conditioning.context is not None:
            raise UsageError(f"{self.name} is conditioned on a frame and takes no context; choose an image model")
        move = VideoStep.of(schedule, step, guidance, len(latents))
        outputs, taps, halves = [], [], []
        for conditional in move.halves:
            whole = NetworkInput.of(self.unet, latents[None], move, conditioning, conditional)
            output, tapped, half = self._half(whole, conditional, record, share)
            outputs.append(output[0])
            taps.append(tapped)
            halves.append(half)
        joined = {tap: torch.cat([half[tap] for half in taps]) for tap in record}
        window = RepeatableWindow(self.unet, move, conditioning, tuple(halves))
        return Denoised(move.moved(latents, outputs), joined), window

    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        return torch.cat([self._decode(clip) for clip in latents.split(together)])

    def _decode(self, clip: Tensor) -> Tensor:
        scaled = clip / self.vae.config.scaling_factor
        return self.vae.decode(scaled, num_frames=len(clip), return_dict=False)[0].float()

    def _pixels(self, frame: np.ndarray) -> Tensor:
        """(3, H, W) float32 in [-1, 1]."""
        pixels = torch.from_numpy(np.require(frame, requirements=["C", "W"])).to(self.device).permute(2, 0, 1)
        return pixels.to(torch.float32) * 2 / 255 - 1

    def _half(
        self, whole: NetworkInput, conditional: bool, record: Collection[Tap], share: Share | None
    ) -> tuple[Tensor, Mapping[Tap, Tensor], RepeatableHalf]:
        """The network's output (1, f, 4, h, w), the recorded taps, and what variants will take over."""
        injected = shared_layers(share, self._injected)
        shared = {Tap(block, layer, kind) for block, layer in injected for kind in ("query", "key")}
        watched = [deep_level(self.unet)] if share is not None and share.deep else []
        midway: Midway | None = None
        with recorded(self.unet, {*record, *shared}) as tapped, recorded_outputs(watched) as deep:
            if share is None or share.block is None:
                output = whole.output(self.unet)
            else:
                midway = whole.first_part(self.unet, share.block)
                output = second_part(self.unet, midway).float()[None]
        patterns = {key: self._pattern(*key, tapped) for key in injected}
        return output, {tap: tapped[tap] for tap in record}, RepeatableHalf(conditional, patterns, midway, *deep)

    def _pattern(self, block: int, layer: Layer, taps: Mapping[Tap, Tensor]) -> Tensor:
        # As weights: for 14 frames these take an eighth of the memory of queries and keys.
        query, key = (taps[Tap(block, layer, kind)] for kind in ("query", "key"))
        return attention_weights(attention_of(self.unet, block, layer), query, key)


def set_residual_eps(unet: nn.Module) -> int:
    """Give every GroupNorm of the residual blocks the epsilon of the original network; returns how many differed."""
    norms = [m for name, m in unet.named_modules() if ".resnets." in name and isinstance(m, nn.GroupNorm)]
    different = [norm for norm in norms if norm.eps != RESIDUAL_EPS]
    for norm in different:
        norm.eps = RESIDUAL_EPS
    return len(different)
