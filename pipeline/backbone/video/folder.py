"""A video model from a folder in diffusers layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.backbone.files import transformers_weights
from pipeline.backbone.networks import cannot_be_loaded, load_network, without_bars
from pipeline.backbone.scheduler_config import scheduler_of
from pipeline.backbone.video.configuration import noise_levels
from pipeline.errors import WeightsError


@dataclass(frozen=True)
class VideoParts:
    """A loaded model before it is put together, float32 on the CPU: networks, largest and smallest noise level."""

    unet: Any
    vae: Any
    image_encoder: Any
    sigmas: tuple[float, float]


def load_folder(folder: Path) -> VideoParts:
    """The networks and noise levels of a diffusers folder.

    Raises:
        WeightsError: a file is missing or damaged, the model does not predict v, or its parts do not fit.
    """
    from diffusers import UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    scheduler = scheduler_of(folder)
    levels = noise_levels(scheduler, folder)
    unet = load_network(folder, "unet", UNetSpatioTemporalConditionModel)
    vae = load_autoencoder(folder)
    place = folder / "image_encoder"
    variant = transformers_weights(place).variant
    try:
        with without_bars():
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                place, local_files_only=True, use_safetensors=True, dtype=torch.float32, variant=variant
            )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise cannot_be_loaded(place, error) from error
    check_widths(unet, encoder, folder)
    return VideoParts(unet, vae, encoder, levels)


def load_autoencoder(folder: Path) -> Any:
    """The autoencoder of a diffusers folder, float32, on the CPU; WeightsError where it is missing or damaged."""
    from diffusers import AutoencoderKLTemporalDecoder

    return load_network(folder, "vae", AutoencoderKLTemporalDecoder)


def check_widths(unet: Any, encoder: Any, where: Path) -> None:
    """Refuse an image encoder whose embedding is not what the denoiser reads."""
    given, needed = encoder.config.projection_dim, unet.config.cross_attention_dim
    if given != needed:
        raise WeightsError(
            f"{where}: the image embedding has {given} values, the denoiser needs {needed}; "
            "fetch image_encoder/ of the same model"
        )
