"""A tiny video model of Stable Video Diffusion's topology with seeded weights, saved in the real diffusers layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipeline.backbone.video.embedding import ClipImageEmbedding
from pipeline.backbone.video.model import StableVideoDiffusion

WIDTH = 32
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def make_unet(seed: int = 0) -> UNetSpatioTemporalConditionModel:
    torch.manual_seed(seed)
    return UNetSpatioTemporalConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64, 64),  # one value per group would be too few where a frame is one token
        num_attention_heads=(1, 2, 2, 2),
        cross_attention_dim=WIDTH,
        layers_per_block=2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=14,
    ).eval()


def make_vae(seed: int = 0) -> AutoencoderKLTemporalDecoder:
    torch.manual_seed(seed)
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4
    ).eval()


def make_image_encoder(seed: int = 0, width: int = WIDTH) -> CLIPVisionModelWithProjection:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=28,
        projection_dim=width, hidden_act="gelu",
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def make_backbone() -> StableVideoDiffusion:
    return StableVideoDiffusion(make_unet(), make_vae(), ClipImageEmbedding(make_image_encoder()), "tiny", "hash")


def save_model(folder: Path, seed: int = 0, **scheduler: object) -> Path:
    """Write unet/, vae/, image_encoder/ and scheduler/; returns the folder."""
    make_unet(seed).save_pretrained(folder / "unet")
    make_vae(seed).save_pretrained(folder / "vae")
    save_conditioning(folder, seed, **scheduler)
    return folder


def save_conditioning(folder: Path, seed: int = 0, **scheduler: object) -> None:
    """The parts that stand beside the networks: image_encoder/ and scheduler/."""
    make_image_encoder(seed).save_pretrained(folder / "image_encoder")
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **scheduler}))
