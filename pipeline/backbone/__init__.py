"""The diffusion model behind one small interface; nothing outside this package names a diffusers class."""

from pipeline.backbone.base import Backbone, Denoised, Offset, Schedule, Tap

__all__ = ["Backbone", "Denoised", "Offset", "Schedule", "Tap"]
