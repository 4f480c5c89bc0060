"""Models of Stable Diffusion 2.1's kind: which files they are made of."""

from __future__ import annotations

from pathlib import Path

from pipeline.backbone.family import NETWORKS, Builder, Family, tensors_of
from pipeline.backbone.files import EMPTY_PROMPT


def _weight_files(folder: Path) -> list[Path]:
    """The text encoder's only use is the embedding of the empty prompt: where that is stored, it does not count."""
    if (folder / EMPTY_PROMPT).is_file():
        return [folder / EMPTY_PROMPT, *tensors_of(folder, "unet", "vae")]
    return tensors_of(folder, "unet", "vae", "text_encoder")


def _builder() -> Builder:
    from pipeline.backbone.image.build import BUILDER

    return BUILDER


IMAGE = Family(
    denoiser="UNet2DConditionModel",
    conditioning="cond_stage_model.",
    patterns=(*NETWORKS, "text_encoder/*.json", "text_encoder/*.safetensors", "tokenizer/*"),
    weight_files=_weight_files,
    builder=_builder,
)
