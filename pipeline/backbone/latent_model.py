"""What the models of all families have in common: a UNet of SD 2.1's topology and an f=8 autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.backbone.attention import token_shape
from pipeline.backbone.local_decoding import LocalDecoder
from pipeline.backbone.networks import frozen


class LatentModel:
    """The part of `Backbone` that does not depend on the family.

    Args:
        unet, vae: the networks on their device; here they are frozen, and `tunable` weights can be set free. The
            autoencoder runs in float32, as in the authors' code; the denoiser in its own dtype with float32 latents
            between steps.
        name, fingerprint: as in `Backbone`.
    """

    latent_stride = 8

    def __init__(self, unet: Any, vae: Any, name: str, fingerprint: str) -> None:
        self.unet = frozen(unet)
        self.vae = frozen(vae)
        self.name = name
        self.fingerprint = fingerprint

    @property
    def device(self) -> torch.device:
        return self.vae.device  # the denoiser may have no weights: see `load_autoencoder`

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        return token_shape(self.unet, block, size, self.latent_stride)

    def part_decoder(self, latents: Tensor) -> LocalDecoder:
        return LocalDecoder.of(self._decode, self.vae.decoder, latents)

    def _decode(self, latents: Tensor) -> Tensor:
        """Images (b, 3, H, W) float32 of latents (b, 4, h, w) that are decoded in one call."""
        raise NotImplementedError
