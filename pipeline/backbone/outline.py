"""A backbone without weights: its networks' shapes on torch's meta device, for counting what a run costs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor
from torch.nn import Module
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipeline.backbone.empty_prompt import stored_prompt
from pipeline.backbone.files import EMPTY_PROMPT, read_json
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.image.single_file import SD21_UNET, SD21_VAE
from pipeline.backbone.locate import VIDEO_NAMES, check_family
from pipeline.backbone.video.embedding import ClipImageEmbedding
from pipeline.backbone.video.folder import check_widths
from pipeline.backbone.video.model import StableVideoDiffusion
from pipeline.backbone.video.single_file import SVD_IMAGE_ENCODER, SVD_UNET, SVD_VAE

#: Tokens of a prompt of SD's text encoders.
PROMPT_TOKENS = 77
NO_WEIGHTS = "no weights"

Outline = StableDiffusion | StableVideoDiffusion


def outline(name: str, path: Path | None, dtype: torch.dtype) -> Outline:
    """The networks of a backbone on the meta device.

    Args:
        path: its folder or checkpoint; what this does not say, or None, is that of the published model.

    Raises:
        WeightsError: it is a model of the other family, its configuration is damaged, or its parts do not fit.
    """
    if path is not None:
        check_family(name, path)
    folder = Path() if path is None else path if path.is_dir() else path.parent

    def config(part: str, published: Any) -> dict[str, Any]:
        return (path and read_json(folder / part / "config.json")) or dict(published)

    if name in VIDEO_NAMES:
        with torch.device("meta"):
            unet = UNetSpatioTemporalConditionModel.from_config(config("unet", SVD_UNET))
            vae = AutoencoderKLTemporalDecoder.from_config(config("vae", SVD_VAE))
            vision = CLIPVisionConfig.from_dict(config("image_encoder", SVD_IMAGE_ENCODER))
            encoder = CLIPVisionModelWithProjection(vision)
        check_widths(unet, encoder, path or Path(name))
        # The mix factors are made on the CPU whatever the device is.
        return _video(name, Module.to(unet, "meta", dtype), Module.to(vae, "meta"), Module.to(encoder, dtype))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet", SD21_UNET))
        vae = AutoencoderKL.from_config(config("vae", SD21_VAE))
        context = torch.empty(_prompt_tokens(path, folder, unet), unet.config.cross_attention_dim)
    return _image(name, Module.to(unet, dtype), vae, context)


def networks(outline: Outline) -> tuple[Any, ...]:
    """All networks that a run of the backbone keeps in memory."""
    if isinstance(outline, StableVideoDiffusion):
        return outline.unet, outline.vae, outline.embed.encoder  # type: ignore[attr-defined]
    return outline.unet, outline.vae


def filled(outline: Outline, device: torch.device) -> Outline:
    """The same networks on a device, with weights that mean nothing, for timing."""
    unet, vae, *encoder = (_filled(network, device) for network in networks(outline))
    if encoder:
        return _video(outline.name, unet, vae, encoder[0])
    assert isinstance(outline, StableDiffusion)
    vae = vae.to(memory_format=torch.channels_last)  # as weights are loaded
    return _image(outline.name, unet, vae, torch.zeros(outline.context.shape))


def _image(name: str, unet: Any, vae: Any, context: Tensor) -> StableDiffusion:
    return StableDiffusion(_frozen(unet), _frozen(vae), context, name, NO_WEIGHTS)


def _video(name: str, unet: Any, vae: Any, encoder: Any) -> StableVideoDiffusion:
    return StableVideoDiffusion(_frozen(unet), _frozen(vae), ClipImageEmbedding(_frozen(encoder)), name, NO_WEIGHTS)


def _frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


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
