"""From tapped queries to the features that clustering and matching read (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def aggregate(queries: Sequence[Tensor]) -> Tensor:
    """Mean of the blocks' queries: F~ of section 4.1.

    Args:
        queries: one (f, n, c) float tensor per block, all of one shape.
    """
    return torch.stack(list(queries)).mean(dim=0)


def max_abs_normalize(features: Tensor) -> Tensor:
    """Divide every token (f, n, c) by its largest absolute channel value; all-zero tokens stay zero.

    The paper does not mention it; the authors' code does it before K-Means and kNN.
    """
    largest = features.abs().amax(dim=-1, keepdim=True)
    return features / largest.clamp_min(torch.finfo(features.dtype).tiny)
