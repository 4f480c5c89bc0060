"""The diffusion model behind one small interface; nothing outside this package names a diffusers class."""

from pipeline.backbone.base import (
    UNCONDITIONED,
    Backbone,
    Conditioning,
    DecodesParts,
    Denoised,
    Keep,
    Kept,
    Modulated,
    Offset,
    Schedule,
    Tap,
    Variants,
)
from pipeline.backbone.boxes import Box

__all__ = [
    "UNCONDITIONED",
    "Backbone",
    "Box",
    "Conditioning",
    "DecodesParts",
    "Denoised",
    "Keep",
    "Kept",
    "Modulated",
    "Offset",
    "Schedule",
    "Tap",
    "Variants",
]
