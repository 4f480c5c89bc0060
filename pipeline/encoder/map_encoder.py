"""Features from the maps of several blocks of a convolutional encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from pipeline.encoder.efficientnet import EfficientNetLite0
from pipeline.encoder.projection import projected


class MapEncoder:
    """Maps of named blocks, each resized to the token grid and of length 1 per token, joined and projected.

    Args:
        network: in evaluation mode, on its device.
        maps: names of blocks, see `efficientnet.BLOCKS`.
        scale: how many times larger than the frame its input is.
        matrix: (c of all maps, c) float32, or None.
    """

    def __init__(
        self, network: EfficientNetLite0, maps: Sequence[str], scale: float, matrix: Tensor | None, fingerprint: str
    ) -> None:
        self.network, self.maps, self.scale, self.fingerprint = network, tuple(maps), scale, fingerprint
        device = network.classifier.weight.device
        self.matrix = None if matrix is None else matrix.to(device)
        self.channels = network.channels(self.maps) if matrix is None else matrix.shape[1]

    @torch.inference_mode()
    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> Tensor:
        """Features (n, c) float32, of length 1, of a frame (H, W, 3) uint8 on a token grid (h, w), n = h * w."""
        pixels = torch.from_numpy(np.array(frame)).to(self.network.classifier.weight.device)
        image = pixels.permute(2, 0, 1)[None].float()
        size = [round(side * self.scale) for side in frame.shape[:2]]
        enlarged = interpolate(image, size, mode="bicubic", align_corners=False)
        maps = self.network.maps((enlarged - 127) / 128, self.maps)
        on_grid = [interpolate(found, grid, mode="bilinear", align_corners=False) for found in maps]
        joined = torch.cat([normalize(found, dim=1) for found in on_grid], dim=1)
        return projected(joined.flatten(2)[0].T, self.matrix)
