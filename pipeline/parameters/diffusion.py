"""The diffusion model, and how it denoises: `backbone` and `diffusion`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.parameters.declare import param


@dataclass(frozen=True)
class BackboneParams:
    """Section `backbone`: which diffusion model is read."""

    name: Literal["compact", "sd21", "svd"] = param("compact", "svd is a video model")
    path: str | None = param(None, "local diffusers folder, hub id or single-file checkpoint; null = the name's own")
    revision: str | None = param(
        None, "revision of a hub id; null = what the local cache calls main (backbone.lock pins the weights by hash)"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = param(
        "auto", "precision of the denoiser; auto = float32 on CPU, float16 on GPU"
    )


@dataclass(frozen=True)
class DiffusionVideo:
    """Group `diffusion.video`: what only video models have."""

    guidance_first: float = param(1.0, "guidance at a window's first frame, then linear to diffusion.guidance", low=0.0)
    fps_id: int = param(14, "frames per second that the model is told", low=0)
    motion_bucket: int = param(127, "amount of motion that the model is told", low=0, high=255)
    noise_augmentation: float = param(0.02, "standard deviation of the noise on the window's first frame", low=0.0)


@dataclass(frozen=True)
class DiffusionParams:
    """Section `diffusion`: the schedule and noise that extract and upsample share."""

    steps: int = param(25, "Euler steps of the schedule", low=1, high=1000)
    start_step: int = param(22, "t_inv: the step at which noise is added and denoising starts", low=0)
    guidance: float = param(
        5.0,
        "classifier-free guidance against an all-zero context; 1 = off; a video model's at a window's last frame",
        low=0.0,
    )
    noise: Literal["per_frame", "shared"] = param(
        "per_frame", "per_frame: by source frame index; shared: the same for all"
    )
    seed: int = param(0, "seed of the noise", low=0)
    batch: int = param(
        4, "frames per pass of the encoder and the clean denoising; a video model's is its window", low=1
    )
    video: DiffusionVideo = DiffusionVideo()
