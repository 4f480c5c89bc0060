"""The diffusion model behind one small interface; nothing outside this package names a diffusers class."""

from pipeline.backbone.base import (
    UNCONDITIONED,
    Backbone,
    Conditioning,
    Denoised,
    Keep,
    Kept,
    Modulated,
    Motion,
    Offset,
    Schedule,
    Tap,
    Variants,
)

__all__ = [
    "UNCONDITIONED",
    "Backbone",
    "Conditioning",
    "Denoised",
    "Keep",
    "Kept",
    "Modulated",
    "Motion",
    "Offset",
    "Schedule",
    "Tap",
    "Variants",
]
