"""The interface that the pipeline needs of an image encoder: one vector per token of a frame."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Encoder(Protocol):
    """An encoder that sees each frame alone."""

    #: SHA-256 (hex) of all that decides its numbers: weights, configuration, projection, maps, scale.
    fingerprint: str
    #: Numbers per token.
    channels: int
    #: What is run, whose weights are counted.
    network: Any

    def tokens(self, frame: np.ndarray, grid: tuple[int, int]) -> Tensor:
        """Features (n, c) float32, of length 1, of a frame (H, W, 3) uint8 on a token grid (h, w), n = h * w."""
        ...
