"""How sure the label of a pixel is: its token's confidence, and how clearly its map won. Not in the paper."""

from __future__ import annotations

import numpy as np

from pipeline.stores.confidence import in_levels, in_shares
from pipeline.upsampling.difference import resize_image

#: Only every so many of the 256 levels is kept: 32 order pixels as well, and take half the room.
STEP = 8


def pixel_confidence(margin: np.ndarray, tokens: np.ndarray | None) -> np.ndarray:
    """Confidence of a frame's labels: (H, W) uint8, 255 for the surest.

    The geometric mean of three shares: neighbours and votes that agree, nearness to the memory (these two are in the
    token's confidence, as their product) and the margin. The mean orders pixels as the product does, and is
    nearer to how often labels are right.

    Args:
        margin: (H, W) floats in [0, 1], by how much the largest map is above the second.
        tokens: (h, w) uint8, confidence of the coarse labels, enlarged bilinearly; None = not known, it counts as 1.
    """
    product = margin.astype(np.float32)
    if tokens is not None:
        product *= resize_image(in_shares(tokens), (margin.shape[0], margin.shape[1]))
    return in_levels(np.cbrt(product), STEP)
