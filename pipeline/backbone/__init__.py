"""The diffusion model behind one small interface; nothing outside this package names a diffusers class."""

from pipeline.backbone.base import (
    UNCONDITIONED,
    AttentionName,
    Backbone,
    Conditioning,
    DecodesParts,
    Denoised,
    Offset,
    RepeatableStep,
    Schedule,
    Share,
    Tap,
    Variants,
)
from pipeline.backbone.boxes import Box

__all__ = [
    "UNCONDITIONED",
    "AttentionName",
    "Backbone",
    "Box",
    "Conditioning",
    "DecodesParts",
    "Denoised",
    "Offset",
    "RepeatableStep",
    "Schedule",
    "Share",
    "Tap",
    "Variants",
]
