"""Models of Stable Video Diffusion's kind: which files they are made of."""

from __future__ import annotations

from pathlib import Path

from pipeline.backbone.family import NETWORKS, Builder, Family
from pipeline.backbone.files import network_weights, transformers_weights
from pipeline.backbone.video.configuration import settings
from pipeline.errors import WeightsError


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / "image_encoder").is_dir():
        raise WeightsError(f"{folder}: no image_encoder/; fetch this folder of the model as well")
    networks = [file for part in ("unet", "vae") for file in network_weights(folder / part).files]
    return [*networks, *transformers_weights(folder / "image_encoder").files]


def _builder() -> Builder:
    from pipeline.backbone.video.build import BUILDER

    return BUILDER


VIDEO = Family(
    denoiser="UNetSpatioTemporalConditionModel",
    conditioning="conditioner.",
    patterns=(*NETWORKS, "image_encoder/*.json", "image_encoder/*.safetensors"),
    settings=settings,
    weight_files=_weight_files,
    builder=_builder,
)
