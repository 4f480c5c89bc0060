"""A tiny network of SD 2.1's topology with seeded weights, saved in the real diffusers layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def make_unet(seed: int = 0, use_linear_projection: bool = True) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 16, 32, 32),
        attention_head_dim=[1, 1, 2, 2],
        cross_attention_dim=16,
        norm_num_groups=8,
        use_linear_projection=use_linear_projection,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).eval()


def make_vae(seed: int = 0, attention: bool = False) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=attention,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()


def make_context(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))


def save_model(folder: Path, seed: int = 0, **scheduler: object) -> Path:
    """Write unet/, vae/, scheduler/ and the empty prompt; returns the folder."""
    make_unet(seed).save_pretrained(folder / "unet")
    make_vae(seed).save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **scheduler}))
    save_file({"embedding": make_context(seed)}, folder / "empty_prompt.safetensors")
    return folder


def save_small_decoder(folder: Path, seed: int = 0, **config: object) -> Path:
    """Write an AutoencoderTiny for SD 2.1's latents; returns the folder."""
    torch.manual_seed(seed)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1), **config,  # type: ignore[arg-type]
    ).save_pretrained(folder)  # fmt: skip
    return folder
