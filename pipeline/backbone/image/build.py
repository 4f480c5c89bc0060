"""Making models of Stable Diffusion's kind, with weights or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import Module

from pipeline.backbone.empty_prompt import stored_prompt
from pipeline.backbone.family import Builder, WeightsSource
from pipeline.backbone.files import EMPTY_PROMPT, configuration
from pipeline.backbone.image.configuration import SD21_UNET, SD21_VAE
from pipeline.backbone.image.folder import load_autoencoder, load_folder
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.image.single_file import load_single_autoencoder, load_single_file
from pipeline.backbone.networks import NO_WEIGHTS

#: Tokens of a prompt of SD's text encoders.
PROMPT_TOKENS = 77


def _load(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> StableDiffusion:
    parts = load_single_file(source.path) if source.path.is_file() else load_folder(source.path)
    # torch's own `to`: diffusers' warns about every change of precision.
    unet = Module.to(parts.unet, device, dtype)
    # The decoder's convolutions run nearly twice as fast in this layout on a CPU.
    vae = Module.to(parts.vae, device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return StableDiffusion(unet, vae, parts.context, source.name, source.sha256, parts.betas, parts.text)


def _outline(name: str, path: Path | None, dtype: torch.dtype) -> StableDiffusion:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configuration(path, "unet", SD21_UNET))
        vae = AutoencoderKL.from_config(configuration(path, "vae", SD21_VAE))
        context = torch.empty(_prompt_tokens(path, unet), unet.config.cross_attention_dim)
    return StableDiffusion(Module.to(unet, dtype), vae, context, name, NO_WEIGHTS)


def _autoencoder(path: Path) -> Any:
    return load_single_autoencoder(path) if path.is_file() else load_autoencoder(path)


def _prompt_tokens(path: Path | None, unet: Any) -> int:
    stored = path and (path if path.is_dir() else path.parent) / EMPTY_PROMPT
    if not stored or not stored.is_file():
        return PROMPT_TOKENS
    return len(stored_prompt(stored, unet.config.cross_attention_dim))


def _networks(model: StableDiffusion) -> tuple[Any, ...]:
    return model.unet, model.vae


def _rebuilt(model: StableDiffusion, unet: Any, vae: Any) -> StableDiffusion:
    vae = vae.to(memory_format=torch.channels_last)  # as weights are loaded
    return StableDiffusion(unet, vae, torch.zeros(model.context.shape), model.name, model.fingerprint)


BUILDER = Builder(_load, _outline, _autoencoder, _networks, _rebuilt)
