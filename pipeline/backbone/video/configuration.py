"""What the files of a video model say about it: its networks' shapes and its noise levels (no torch here)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.backbone.files import configuration, effective
from pipeline.backbone.scheduler_config import check_fields, number, scheduler_of
from pipeline.errors import WeightsError

SVD_UNET: Mapping[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "num_attention_heads": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "layers_per_block": 2,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "num_frames": 14,
}
SVD_VAE: Mapping[str, Any] = {
    "sample_size": 768,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
}
#: The image encoder of the published model: OpenCLIP ViT-H/14.
SVD_IMAGE_ENCODER: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
_SIGMAS = {"sigma_max": 700.0, "sigma_min": 0.002}
#: What the schedule in `schedule.py` stands for.
_TRAINED = {"use_karras_sigmas": (None, True), "timestep_type": (None, "continuous"), "rho": (None, 7, 7.0)}
#: The noise levels say it all.
_BETAS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")


def settings(model: Path) -> dict[str, Any]:
    """The effective configuration of a folder or checkpoint: all that decides its numbers, beside its weights.

    Raises:
        WeightsError: a configuration is damaged, or says what VidSeg cannot honour.
    """
    return {
        "unet": effective("UNetSpatioTemporalConditionModel", configuration(model, "unet", SVD_UNET)),
        "vae": effective("AutoencoderKLTemporalDecoder", configuration(model, "vae", SVD_VAE)),
        "image_encoder": effective(
            "CLIPVisionModelWithProjection", configuration(model, "image_encoder", SVD_IMAGE_ENCODER)
        ),
        "sigmas": noise_levels(scheduler_of(model), model),
    }


def noise_levels(scheduler: Mapping[str, Any], where: Path) -> tuple[float, float]:
    """Largest and smallest noise level of a scheduler configuration; SVD's own where it does not say.

    Raises:
        WeightsError: the model does not predict v, or was trained with other noise levels than VidSeg knows.
    """
    kind = scheduler.get("prediction_type", "v_prediction")
    if kind != "v_prediction":
        raise WeightsError(
            f"{where}: the model predicts '{kind}', a video model here must predict 'v_prediction'; "
            "fetch stable-video-diffusion-img2vid, with its scheduler/"
        )
    check_fields(scheduler, {*_SIGMAS, "prediction_type"}, _TRAINED, _BETAS, where)
    largest, smallest = (number(scheduler, name, default, where) for name, default in _SIGMAS.items())
    return largest, smallest
