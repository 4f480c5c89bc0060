"""Stable Video Diffusion's family: a spatio-temporal UNet with a temporal decoder, in diffusers' classes.

All frames of a window are denoised together, conditioned on its first frame: by its latent, which is stacked on every
frame's, and by its image embedding, the only token of every cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from pipeline.backbone.attention import (
    ATTENTION_BLOCKS,
    GivenPattern,
    attention_of,
    attention_weights,
    processed,
    recorded,
    shifted,
    token_shape,
)
from pipeline.backbone.base import (
    UNCONDITIONED,
    Conditioning,
    Denoised,
    Keep,
    Layer,
    Modulated,
    Motion,
    Offset,
    Schedule,
    Tap,
)
from pipeline.backbone.video_schedule import VideoStep, karras_schedule

#: Frame (H, W, 3) uint8 -> its embedding (1, c) float32.
Embed = Callable[[np.ndarray], Tensor]
#: Attention -> its weights (f, heads, n, n) in a kept step, for one half.
Patterns = Mapping[tuple[int, Layer], Tensor]
#: The original network's in all residual blocks. diffusers builds 1e-6 into most of them, and it is no configuration.
RESIDUAL_EPS = 1e-5
LAYERS: Mapping[Modulated, tuple[Layer, ...]] = {
    "cross_spatial": ("cross",),
    "self_spatial": ("self",),
    "self_temporal": ("temporal_self",),
    "self_spatial_temporal": ("self", "temporal_self"),
}


class StableVideoDiffusion:
    """`Backbone` of a video model: the frames of a window are seen together.

    The guidance halves run one after the other: at real sizes one half of a window fills a GPU.

    Args:
        unet, vae: the networks, in evaluation mode on their device. The autoencoder runs in float32, as in the
            authors' code; the denoiser in its own dtype with float32 latents between steps.
        embed: the image embedding.
        name, fingerprint: as in `Backbone`.
        sigmas: largest and smallest noise level.
        injected: the attentions whose patterns variants take over: in the authors' code the temporal ones.
    """

    latent_stride = 8
    modulated: tuple[Modulated, ...] = tuple(LAYERS)

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
        self.unet = unet
        self.vae = vae
        self.embed = embed
        self.name = name
        self.fingerprint = fingerprint
        self.window: int | None = int(unet.config.num_frames)
        self._sigmas = sigmas
        self._injected = injected

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        return token_shape(self.unet, block, size, self.latent_stride)

    def schedule(self, steps: int) -> Schedule:
        return karras_schedule(steps, *self._sigmas)

    @torch.inference_mode()
    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        draws = [None] * len(frames) if noise is None else noise.to(self.device).split(1)
        coded = []
        for frame, draw in zip(frames, draws, strict=True):
            posterior = self.vae.encode(self._pixels(frame)[None]).latent_dist
            coded.append(posterior.mean if draw is None else posterior.mean + posterior.std * draw)
        return torch.cat(coded).float().contiguous() * self.vae.config.scaling_factor

    @torch.inference_mode()
    def condition(self, frame: np.ndarray, noise: Tensor, motion: Motion) -> Conditioning:
        noisy = self._pixels(frame) + motion.noise_augmentation * noise.to(self.device)
        # The posterior's mean, not multiplied by the scaling factor.
        latent = self.vae.encode(noisy[None]).latent_dist.mean[0].float().contiguous()
        ids = torch.tensor([motion.fps_id, motion.motion_bucket, motion.noise_augmentation], device=self.device)
        return Conditioning(latent, self.embed(frame).to(self.device), ids)

    @torch.inference_mode()
    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        *,
        record: Collection[Tap] = (),
        keep: Keep | None = None,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Denoised:
        move = VideoStep.of(schedule, step, guidance, len(latents))
        injected = self._kept_layers(keep)
        shared = {Tap(block, layer, kind) for block, layer in injected for kind in ("query", "key")}
        outputs, taps, patterns = [], [], []
        for conditional in move.halves:
            with recorded(self.unet, {*record, *shared}) as tapped:
                outputs.append(network_output(self.unet, latents[None], move, conditioning, conditional)[0])
            taps.append({tap: tapped[tap] for tap in record})
            patterns.append({key: self._pattern(*key, tapped) for key in injected})
        kept = None if keep is None else KeptWindow(self.unet, move, conditioning, keep.block, tuple(patterns))
        joined = {tap: torch.cat([half[tap] for half in taps]) for tap in record}
        return Denoised(move.moved(latents, outputs), joined, kept)

    @torch.inference_mode()
    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        clips = (latents / self.vae.config.scaling_factor).split(together)
        return torch.cat([self.vae.decode(clip, num_frames=together, return_dict=False)[0] for clip in clips]).float()

    def _pixels(self, frame: np.ndarray) -> Tensor:
        """(3, H, W) float32 in [-1, 1]."""
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)
        return pixels.to(torch.float32) * 2 / 255 - 1

    def _kept_layers(self, keep: Keep | None) -> list[tuple[int, Layer]]:
        if keep is None or not keep.attention:
            return []
        return [(block, layer) for block in ATTENTION_BLOCKS for layer in self._injected]

    def _pattern(self, block: int, layer: Layer, taps: Mapping[Tap, Tensor]) -> Tensor:
        # Kept as weights: for 14 frames these take an eighth of the memory of queries and keys.
        query, key = (taps[Tap(block, layer, kind)] for kind in ("query", "key"))
        return attention_weights(attention_of(self.unet, block, layer), query, key)


def set_residual_eps(unet: nn.Module) -> int:
    """Give every GroupNorm of the residual blocks the epsilon of the original network; returns how many differed."""
    norms = [m for name, m in unet.named_modules() if ".resnets." in name and isinstance(m, nn.GroupNorm)]
    different = [norm for norm in norms if norm.eps != RESIDUAL_EPS]
    for norm in different:
        norm.eps = RESIDUAL_EPS
    return len(different)


def network_output(
    unet: Any, latents: Tensor, move: VideoStep, conditioning: Conditioning, conditional: bool
) -> Tensor:
    """The network's output (j, b, 4, h, w) float32 of j variants of a window, for one half.

    The unconditional half has zeros in place of the first frame's latent and token, but the same ids.
    """
    variants, frames = latents.shape[:2]
    assert conditioning.latent is not None and conditioning.token is not None and conditioning.ids is not None
    latent, token = conditioning.latent, conditioning.token
    if not conditional:
        latent, token = torch.zeros_like(latent), torch.zeros_like(token)
    stacked = torch.cat([move.preconditioning[0] * latents, latent.expand(variants, frames, -1, -1, -1)], dim=2)
    timestep = torch.tensor(move.timestep, dtype=torch.float32, device=latents.device)
    context = token.to(unet.dtype).expand(variants, -1, -1)
    ids = conditioning.ids.expand(variants, -1)
    return unet(stacked.to(unet.dtype), timestep, context, ids, return_dict=False)[0].float()


@dataclass(frozen=True)
class KeptWindow:
    """`Kept` and `Variants` of a video model: a step of a window of f frames.

    Attributes:
        unet: the network.
        move: the step.
        conditioning: of the window.
        block: the decoder block that is modulated; None where variants differ in their latents only.
        patterns: of each half that is run: the attention weights that variants take over.
    """

    unet: Any
    move: VideoStep
    conditioning: Conditioning
    block: int | None
    patterns: tuple[Patterns, ...]

    def variants(self, frames: Collection[int]) -> KeptWindow:
        """Itself: the frames of a window are not separated."""
        return self

    @torch.inference_mode()
    def denoise(self, latents: Tensor, frames: Sequence[int], offset: Offset | None = None) -> Tensor:
        """See `Variants`: the j variants are whole windows, one after the other."""
        windows = latents.unflatten(0, (-1, len(self.move.guidance)))
        shifts = {} if offset is None else self._shifts(offset, len(windows))
        outputs = []
        for conditional, patterns in zip(self.move.halves, self.patterns, strict=True):
            given = {attention_of(self.unet, *key): GivenPattern(weights) for key, weights in patterns.items()}
            with processed(given), shifted(shifts, offset.place if offset else "after"):
                outputs.append(network_output(self.unet, windows, self.move, self.conditioning, conditional))
        return self.move.moved(windows, outputs).flatten(0, 1)

    def _shifts(self, offset: Offset, variants: int) -> dict[Any, Tensor]:
        assert self.block is not None
        values = offset.values.unflatten(0, (variants, -1))  # (j, f, n)
        temporal = values.transpose(1, 2)  # each token's sequence of frames
        return {
            attention_of(self.unet, self.block, layer): (temporal if layer.startswith("temporal") else values)
            .flatten(0, 1)
            .unsqueeze(-1)
            for layer in LAYERS[offset.attention]
        }
