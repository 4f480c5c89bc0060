"""Tiny vision transformers with seeded weights, saved in transformers' real layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_dinov2(folder: Path, seed: int = 0) -> Path:
    """A model of DINOv2's kind, with patches of 14 pixels; returns the folder."""
    torch.manual_seed(seed)
    Dinov2Model(Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **SIZES)).save_pretrained(folder)
    return _with_preprocessing(folder, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def save_siglip(folder: Path, seed: int = 0, hidden: int = 16) -> Path:
    """A vision model of SigLIP's kind, with patches of 16 pixels; returns the folder."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "hidden_size": hidden}
    SiglipVisionModel(SiglipVisionConfig(image_size=64, patch_size=16, intermediate_size=32, **sizes)).save_pretrained(
        folder
    )
    return _with_preprocessing(folder, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def save_dinov3(folder: Path, seed: int = 0) -> Path:
    """A model of DINOv3's kind, with four registers before its patches of 16 pixels; returns the folder."""
    torch.manual_seed(seed)
    config = DINOv3ViTConfig(image_size=64, patch_size=16, intermediate_size=32, num_register_tokens=4, **SIZES)
    DINOv3ViTModel(config).save_pretrained(folder)
    return _with_preprocessing(folder, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def save_whole_siglip(folder: Path, seed: int = 0) -> Path:
    """SigLIP as it is published, with its text model beside the vision model; returns the folder."""
    torch.manual_seed(seed)
    text = {**SIZES, "intermediate_size": 32, "vocab_size": 64, "max_position_embeddings": 8}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**SIZES, "intermediate_size": 32, "image_size": 64, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config={**text, **ends}, vision_config=vision)).save_pretrained(folder)
    return _with_preprocessing(folder, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _with_preprocessing(folder: Path, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Path:
    text = json.dumps({"image_mean": mean, "image_std": deviation, "do_rescale": True})
    (folder / "preprocessor_config.json").write_text(text)
    return folder
