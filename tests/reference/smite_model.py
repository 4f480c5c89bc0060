"""The small network of the recorded arrays of SMITE."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pipeline.backbone.image.model import StableDiffusion
from tests.reference.smite import DEFAULT_FOLDER, FOLDER, Arrays
from tests.support import tiny


@cache
def _unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    folder = FOLDER if (FOLDER / "weights").exists() else DEFAULT_FOLDER
    with torch.inference_mode(False):  # others learn with it, whoever loads it first
        unet = UNet2DConditionModel.from_pretrained(folder / "weights" / "unet", torch_dtype=torch.float32)
    return unet.eval().requires_grad_(False)


def network(context: Tensor) -> StableDiffusion:
    """The network, whose empty prompt is `context` (t, c); latents are given, so the autoencoder is any."""
    return StableDiffusion(_unet(), tiny.make_vae(), context, "reference", "")  # type: ignore[arg-type]


def tensor(arrays: Arrays, name: str) -> Tensor:
    """A recorded array as float32."""
    return torch.from_numpy(arrays[name].astype("float32"))
