"""An image model from a folder in diffusers layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.backbone.empty_prompt import empty_prompt
from pipeline.backbone.image.configuration import betas, check_prediction_type
from pipeline.backbone.networks import load_network
from pipeline.backbone.scheduler_config import scheduler_of
from pipeline.backbone.text import Text, TextEncoder, has_text
from pipeline.errors import WeightsError


@dataclass(frozen=True)
class Parts:
    """A loaded model before it is put together.

    Attributes:
        unet, vae: the networks.
        context: (t, c) of the empty prompt.
        betas: first and last.
        text: prompt -> (t, c); None where no text encoder is at hand.
    """

    unet: Any
    vae: Any
    context: torch.Tensor
    betas: tuple[float, float]
    text: Text | None = None


def load_folder(folder: Path) -> Parts:
    """The networks (float32, on the CPU), empty-prompt context and betas of a diffusers folder.

    Raises:
        WeightsError: a file is missing or damaged, or the model does not predict epsilon.
    """
    from diffusers import UNet2DConditionModel

    scheduler = scheduler_of(folder)
    if not scheduler:
        # Only this file tells a v-prediction model from an epsilon one; guessing would give silent garbage.
        raise WeightsError(f"{folder}: no scheduler/scheduler_config.json; fetch this folder of the model as well")
    check_prediction_type(scheduler.get("prediction_type", "epsilon"), folder)
    unet = load_network(folder, "unet", UNet2DConditionModel)
    context = empty_prompt(folder, unet.config.cross_attention_dim)
    text = TextEncoder(folder) if has_text(folder) else None
    return Parts(unet, load_autoencoder(folder), context, betas(scheduler, folder), text)


def load_autoencoder(folder: Path) -> Any:
    """The autoencoder of a diffusers folder, float32, on the CPU; WeightsError where it is missing or damaged."""
    from diffusers import AutoencoderKL

    return load_network(folder, "vae", AutoencoderKL)
