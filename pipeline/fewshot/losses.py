"""What learning minimises (SMITE, section 4.2 and 7.6), and the weighted cross-entropy that guidance minimises too.

Label maps hold segment ids 0..k-1, and `IGNORE` where nothing is known: such pixels have no influence on any loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fewshot.segments import IGNORE

#: What the authors' code cuts out of a spectrum to count its high frequencies: so far from the centre, on each side.
CENTRE = 30
#: How much more high frequencies count.
HIGH_WEIGHT = 10.0


def class_weights(labels: Tensor, segments: int, background: int | None = 0) -> Tensor:
    """The weight of each segment, so that small ones count as much as large ones: (k,) float32.

    w_k = (pixels of all segments but the background) / (pixels of k); 0 for a segment that is not there. The
    background's is 1. Without a background all segments are treated alike.

    Args:
        labels: (...) integers, of one image or one group of frames.
        background: id of the background; None = there is none.
    """
    counts = torch.bincount(labels[labels != IGNORE].flatten().long(), minlength=segments).float()
    foreground = counts.sum() - (counts[background] if background is not None else 0)
    weights = torch.where(counts > 0, foreground / counts.clamp(min=1), 0.0)
    if background is not None:
        weights[background] = 1
    return weights


def cross_entropy(maps: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_CE: cross-entropy of maps as logits against labels, the weighted mean over pixels; 0 where none counts.

    Args:
        maps: (b, k, h, w).
        labels: (b, h, w) integers.
        weights: (k,); None counts all pixels alike.
    """
    targets = labels.long()
    counts = torch.ones(maps.shape[1]).to(maps) if weights is None else weights.to(maps)
    total = F.cross_entropy(maps, targets, counts, ignore_index=IGNORE, reduction="sum")
    weight = counts[targets[targets != IGNORE]].sum()
    return total / torch.where(weight > 0, weight, 1)


def map_error(maps: Tensor, labels: Tensor) -> Tensor:
    """L_MSE: the squared error of maps in [0, 1] against masks, the mean over pixels and the sum over segments.

    Args:
        maps: (b, k, h, w), the maps' training form.
        labels: (b, h, w) integers.
    """
    known = labels != IGNORE
    squared = (maps - _masks(labels, maps)) ** 2 * known[:, None]
    return squared.sum() / known.sum().clamp(min=1)


def spectral_error(maps: Tensor, labels: Tensor) -> Tensor:
    """L_Fourier, of the authors' code only: amplitudes and phases of maps against those of masks.

    Per segment the mean squared difference of amplitudes, and that of phases (as numbers: no wrap-around), of the whole
    spectrum, and `HIGH_WEIGHT` times the same with its centre multiplied by 0; the sum over segments, the mean over
    images.

    Args:
        maps: (b, k, h, w), the maps' training form.
        labels: (b, h, w) integers.
    """
    known = (labels != IGNORE)[:, None]
    found, wanted = (torch.fft.fft2(values * known) for values in (maps, _masks(labels, maps)))
    height, width = maps.shape[-2:]
    outside = torch.ones(height, width, dtype=maps.dtype, device=maps.device)
    outside[_centre(height), _centre(width)] = 0
    # A product, as in the code: zeros keep a sign, and a phase of 0 or pi, which counts among the high frequencies.
    outside = torch.fft.ifftshift(outside)
    return (_difference(found, wanted) + HIGH_WEIGHT * _difference(found * outside, wanted * outside)).sum(dim=1).mean()


def noise_error(predicted: Tensor, noise: Tensor) -> Tensor:
    """L_LDM: the mean squared error of the predicted noise (b, 4, h, w)."""
    return F.mse_loss(predicted, noise)


def _difference(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of amplitudes plus that of phases: (b, k)."""
    squared = (found.abs() - wanted.abs()) ** 2 + (found.angle() - wanted.angle()) ** 2
    return squared.mean(dim=(-2, -1))


def _masks(labels: Tensor, maps: Tensor) -> Tensor:
    """(b, k, h, w) of the maps' dtype: 1 where a pixel is of the segment."""
    segments = torch.arange(maps.shape[1], device=maps.device)
    return (labels[:, None] == segments[:, None, None]).to(maps)


def _centre(length: int) -> slice:
    return slice(max(0, length // 2 - CENTRE), length // 2 + CENTRE)
