"""A backbone without weights: its networks' shapes on torch's meta device, for counting what a run costs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import Module

from pipeline.backbone.sd import StableDiffusion
from pipeline.backbone.single_file import SD21_UNET, SD21_VAE
from pipeline.backbone.weights import EMPTY_PROMPT, read_json, stored_prompt

#: Tokens of a prompt of SD's text encoders.
PROMPT_TOKENS = 77


def outline(name: str, path: Path | None, dtype: torch.dtype) -> StableDiffusion:
    """The networks of a backbone on the meta device.

    Args:
        path: its folder or checkpoint; what this does not say, or None, is SD 2.1's.
    """
    folder = Path() if path is None else path if path.is_dir() else path.parent
    unet_config = (path and read_json(folder / "unet" / "config.json")) or dict(SD21_UNET)
    vae_config = (path and read_json(folder / "vae" / "config.json")) or dict(SD21_VAE)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        vae = AutoencoderKL.from_config(vae_config)
        context = torch.empty(_prompt_tokens(path, folder, unet), unet.config.cross_attention_dim)
    return _assembled(name, Module.to(unet, dtype), vae, context)


def filled(outline: StableDiffusion, device: torch.device) -> StableDiffusion:
    """The same networks on a device, with weights that mean nothing, for timing."""
    unet, vae = (_filled(network, device) for network in (outline.unet, outline.vae))
    vae = vae.to(memory_format=torch.channels_last)  # as weights are loaded
    return _assembled(outline.name, unet, vae, torch.zeros(outline.context.shape))


def _assembled(name: str, unet: Any, vae: Any, context: torch.Tensor) -> StableDiffusion:
    for network in (unet, vae):
        network.eval().requires_grad_(False)
    return StableDiffusion(unet, vae, context, name, "no weights")


def _filled(network: Any, device: torch.device) -> Any:
    network = copy.deepcopy(network).to_empty(device=device)
    for parameter in network.parameters():
        parameter.data.fill_(1e-3)
    return network


def _prompt_tokens(path: Path | None, folder: Path, unet: Any) -> int:
    stored = folder / EMPTY_PROMPT
    if path is None or not stored.is_file():
        return PROMPT_TOKENS
    return len(stored_prompt(stored, unet.config.cross_attention_dim))
