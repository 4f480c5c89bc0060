"""Models of Stable Video Diffusion's kind: which files they are made of."""

from __future__ import annotations

from pathlib import Path

from pipeline.backbone.family import NETWORKS, Builder, Family, tensors_of
from pipeline.backbone.files import refuse_pickles_without_safetensors
from pipeline.errors import WeightsError


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / "image_encoder").is_dir():
        raise WeightsError(f"{folder}: no image_encoder/; fetch this folder of the model as well")
    refuse_pickles_without_safetensors(folder / "image_encoder")
    return tensors_of(folder, "unet", "vae", "image_encoder")


def _builder() -> Builder:
    from pipeline.backbone.video.build import BUILDER

    return BUILDER


VIDEO = Family(
    denoiser="UNetSpatioTemporalConditionModel",
    conditioning="conditioner.",
    patterns=(*NETWORKS, "image_encoder/*.json", "image_encoder/*.safetensors"),
    weight_files=_weight_files,
    builder=_builder,
)
