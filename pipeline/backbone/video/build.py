"""Making models of Stable Video Diffusion's kind, with weights or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch.nn import Module
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipeline.backbone.family import Builder, WeightsSource
from pipeline.backbone.files import configuration
from pipeline.backbone.networks import NO_WEIGHTS, frozen
from pipeline.backbone.video.configuration import SVD_IMAGE_ENCODER, SVD_UNET, SVD_VAE
from pipeline.backbone.video.embedding import ClipImageEmbedding
from pipeline.backbone.video.folder import check_widths, load_autoencoder, load_folder
from pipeline.backbone.video.model import StableVideoDiffusion
from pipeline.backbone.video.single_file import (
    load_single_autoencoder,
    load_single_file,
)


def _load(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> StableVideoDiffusion:
    parts = load_single_file(source.path) if source.path.is_file() else load_folder(source.path)
    # torch's own `to`: diffusers' warns about every change of precision.
    unet, encoder = (frozen(Module.to(part, device, dtype)) for part in (parts.unet, parts.image_encoder))
    vae = frozen(Module.to(parts.vae, device, torch.float32))
    return StableVideoDiffusion(unet, vae, ClipImageEmbedding(encoder), source.name, source.sha256, parts.sigmas)


def _outline(name: str, path: Path | None, dtype: torch.dtype) -> StableVideoDiffusion:
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel.from_config(configuration(path, "unet", SVD_UNET))
        vae = AutoencoderKLTemporalDecoder.from_config(configuration(path, "vae", SVD_VAE))
        vision = CLIPVisionConfig.from_dict(configuration(path, "image_encoder", SVD_IMAGE_ENCODER))
        encoder = CLIPVisionModelWithProjection(vision)
    check_widths(unet, encoder, path or Path(name))
    # The mix factors are made on the CPU whatever the device is.
    networks = Module.to(unet, "meta", dtype), Module.to(vae, "meta"), Module.to(encoder, dtype)
    unet, vae, encoder = map(frozen, networks)
    return StableVideoDiffusion(unet, vae, ClipImageEmbedding(encoder), name, NO_WEIGHTS)


def _autoencoder(path: Path) -> Any:
    return load_single_autoencoder(path) if path.is_file() else load_autoencoder(path)


def _networks(model: StableVideoDiffusion) -> tuple[Any, ...]:
    return model.unet, model.vae, model.embed.encoder  # type: ignore[attr-defined]


def _rebuilt(model: StableVideoDiffusion, unet: Any, vae: Any, encoder: Any) -> StableVideoDiffusion:
    return StableVideoDiffusion(unet, vae, ClipImageEmbedding(encoder), model.name, model.fingerprint)


BUILDER = Builder(_load, _outline, _autoencoder, _networks, _rebuilt)
