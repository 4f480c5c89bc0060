"""An encoder's features joined with a diffusion model's."""

from __future__ import annotations

import numpy as np


def fused(diffusion: np.ndarray, encoder: np.ndarray, weight: float) -> np.ndarray:
    """Each token's diffusion vector at length 1 and, beside it, `weight` times its encoder vector.

    Args:
        diffusion: (f, n, c) float; an all-zero token stays zero.
        encoder: (f, n, c') float, of length 1 per token.

    Returns:
        (f, n, c + c') float32.
    """
    length = np.linalg.norm(diffusion, axis=-1, keepdims=True)
    direction = np.divide(diffusion, length, out=np.zeros_like(diffusion), where=length > 0)
    return np.concatenate([direction, weight * encoder], axis=-1).astype(np.float32)
