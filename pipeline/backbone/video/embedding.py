"""The image embedding of a window's first frame, by a CLIP vision model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

#: Mean and standard deviation of the images that CLIP was trained on, by channel.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipImageEmbedding:
    """Computes the projected image embedding of a frame.

    Args:
        encoder: transformers' CLIPVisionModelWithProjection, in evaluation mode on its device.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def __call__(self, frame: np.ndarray) -> Tensor:
        """(1, c) float32 of a frame (H, W, 3) uint8."""
        side = int(self.encoder.config.image_size)
        pixels = torch.from_numpy(np.require(frame, requirements=["C", "W"])).to(self.encoder.device)
        images = pixels.permute(2, 0, 1)[None].to(torch.float32) * 2 / 255 - 1
        resized = (resize_smoothly(images, (side, side)) + 1) / 2
        mean, deviation = (resized.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_DEVIATION))
        normalised = ((resized - mean) / deviation).to(self.encoder.dtype)
        return self.encoder(normalised).image_embeds.float()


def resize_smoothly(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (b, c, H, W) at another size: a Gaussian blur against aliasing, then bicubic with aligned corners.

    As SVD was trained: standard deviation (factor - 1) / 2 pixels per axis, the kernel cut off at two of them.
    """
    for axis, side in zip((2, 3), size, strict=True):
        images = _blurred(images, axis, images.shape[axis] / side)
    return interpolate(images, size=size, mode="bicubic", align_corners=True)


def _blurred(images: Tensor, axis: int, factor: float) -> Tensor:
    deviation = max((factor - 1) / 2, 0.001)
    half = int(max(4 * deviation, 3)) // 2
    places = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(places**2) / (2 * deviation**2))
    shape = [1, 1, 1, 1]
    shape[axis] = len(kernel)
    weights = (kernel / kernel.sum()).reshape(shape).repeat(images.shape[1], 1, 1, 1)
    border = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
    return conv2d(pad(images, border, mode="reflect"), weights, groups=images.shape[1])
