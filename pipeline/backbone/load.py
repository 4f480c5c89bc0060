"""From the weights of a model to a backbone that is ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import Module

from pipeline.backbone.image.folder import load_folder as load_image_folder
from pipeline.backbone.image.model import StableDiffusion
from pipeline.backbone.locate import VIDEO_NAMES, WeightsSource
from pipeline.backbone.video.embedding import ClipImageEmbedding
from pipeline.backbone.video.folder import load_folder as load_video_folder
from pipeline.backbone.video.model import StableVideoDiffusion

if TYPE_CHECKING:
    from pipeline.backbone.base import Backbone


def load_model(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> Backbone:
    """Load a backbone.

    Raises:
        WeightsError: a file is missing or damaged, or the model predicts something else than its family does.
    """
    load = load_video_model if source.name in VIDEO_NAMES else load_image_model
    return load(source, dtype, device)


def load_image_model(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> StableDiffusion:
    """Load a backbone of SD 2.1's topology.

    Raises:
        WeightsError: a file is damaged, or the model predicts something other than epsilon.
    """
    if source.path.is_file():
        from pipeline.backbone.image.single_file import load_single_file

        parts = load_single_file(source.path)
    else:
        parts = load_image_folder(source.path)
    # torch's own `to`: diffusers' warns about every change of precision.
    unet = Module.to(parts.unet, device, dtype).eval().requires_grad_(False)
    # The decoder's convolutions run nearly twice as fast in this layout on a CPU.
    vae = Module.to(parts.vae, device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae = vae.eval().requires_grad_(False)
    return StableDiffusion(unet, vae, parts.context, source.name, source.sha256, parts.betas)


def load_video_model(source: WeightsSource, dtype: torch.dtype, device: torch.device) -> StableVideoDiffusion:
    """Load a backbone of Stable Video Diffusion's topology.

    Raises:
        WeightsError: a file is missing or damaged, or the model does not predict v.
    """
    if source.path.is_file():
        from pipeline.backbone.video.single_file import load_single_file

        parts = load_single_file(source.path)
    else:
        parts = load_video_folder(source.path)
    # torch's own `to`: diffusers' warns about every change of precision.
    unet, encoder = (Module.to(part, device, dtype) for part in (parts.unet, parts.image_encoder))
    vae = Module.to(parts.vae, device, torch.float32)
    for network in (unet, vae, encoder):
        network.eval().requires_grad_(False)
    return StableVideoDiffusion(unet, vae, ClipImageEmbedding(encoder), source.name, source.sha256, parts.sigmas)
