"""Features from a vision transformer in transformers' layout: the patch tokens of its last layer."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.encoder.projection import projected


class PatchEncoder:
    """Patch tokens of the last layer; the input is scaled so that each patch falls on a token.

    Args:
        network: a transformers vision model in evaluation mode, on its device.
        mean, deviation: of each colour channel, for values in [0, 1].
        matrix: (c, c') float32, or None.
    """

    def __init__(
        self,
        network: Any,
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
        matrix: Tensor | None,
        fingerprint: str,
    ) -> None:
        self.network, self.fingerprint = network, fingerprint
        self._mean, self._deviation = (
            torch.tensor(values, device=network.device)[:, None, None] for values in (mean, deviation)
        )
        # SigLIP fits its position embeddings to another size only when told to; DINO does by itself.
        option = "interpolate_pos_encoding"
        self._options = {option: True} if option in signature(network.forward).parameters else {}
        self.patch = int(network.config.patch_size)
        self.matrix = None if matrix is None else matrix.to(network.device)
        self.channels = int(network.config.hidden_size) if matrix is None else matrix.shape[1]

    @torch.inference_mode()
    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> Tensor:
        """Features (n, c) float32, of length 1, of a frame (H, W, 3) uint8 on a token grid (h, w), n = h * w."""
        pixels = torch.from_numpy(np.array(frame)).to(self.network.device)
        size = [side * self.patch for side in grid]
        image = pixels.permute(2, 0, 1)[None].float() / 255
        scaled = interpolate(image, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        inputs = ((scaled - self._mean) / self._deviation).to(self.network.dtype)
        # Before the patch tokens come those of the class and the registers, as many as the model has.
        hidden = self.network(pixel_values=inputs, **self._options).last_hidden_state[0]
        return projected(hidden[-grid[0] * grid[1] :].float(), self.matrix)
