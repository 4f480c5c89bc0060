"""The diffusion model behind one small interface; nothing outside this package names a diffusers class."""

from pipeline.backbone.base import Backbone, Denoised, Keep, Kept, Offset, Schedule, Tap, Variants
from pipeline.backbone.boxes import Box

__all__ = ["Backbone", "Box", "Denoised", "Keep", "Kept", "Offset", "Schedule", "Tap", "Variants"]
