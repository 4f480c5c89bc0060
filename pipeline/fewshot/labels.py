"""From the maps of segments to labels, to their margins, and to what labels are upsampled from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.fewshot.attention_maps import Grid, resized
from pipeline.fewshot.reading import largest
from pipeline.upsampling.labelling import relative_margin


def enlarged_labels(maps: Tensor, present: Tensor, sizes: Sequence[Grid]) -> list[Tensor]:
    """The labels of maps (f, k, h, w), each frame's enlarged to its size (H, W); of the segments present (f, k)."""
    parts = zip(maps, present, sizes, strict=True)
    return [largest(resized(one[None], size)[0], there) for one, there, size in parts]


def coarse_numbers(maps: Tensor, numbers: np.ndarray, coarse: Grid) -> np.ndarray:
    """(f, h', w') uint8: the segment with the largest map (Eq. 2) in each cell of a coarser grid, for upsampling.

    Args:
        maps: (f, k, h, w) of the result.
        numbers: (f, H, W) uint8, the labels at full size; a segment that is not among a frame's is none of its cells'.
        coarse: (h', w').
    """
    cells = adaptive_avg_pool2d(maps, coarse)
    for frame, found in enumerate(numbers):
        absent = np.bincount(found.ravel(), minlength=maps.shape[1]) == 0
        cells[frame, torch.from_numpy(absent)] = -torch.inf
    return cells.argmax(dim=1).to(torch.uint8).cpu().numpy()


def margin_of(maps: Tensor, numbers: np.ndarray, logits: bool) -> np.ndarray:
    """By how much each pixel's segment won: (H, W) float32 in [0, 1], as `labelling.relative_margin` has it.

    Args:
        maps: (k, h, w) of one frame, enlarged here.
        numbers: (H, W) uint8, the segment of each pixel. Where another map is larger, because its segment is said to be
            absent, the margin is 0.
        logits: whether maps are logits, whose softmax over the segments competes; else they compete as they are.
    """
    enlarged = resized(maps[None], (numbers.shape[0], numbers.shape[1]))[0]
    chosen = torch.from_numpy(numbers).long()[None]
    own = enlarged.gather(0, chosen)[0]
    others = enlarged.scatter(0, chosen, -torch.inf).amax(dim=0)
    if logits:
        return (1 - torch.exp(others - own)).clamp(min=0).numpy()
    return relative_margin(own.numpy(), others.numpy())


def shares_of(maps: Tensor, numbers: np.ndarray, logits: bool) -> dict[int, np.ndarray]:
    """How much each cell is of a segment, number -> (h, w) float32, for upsampling along the edges of a picture.

    Args:
        maps: (k, h, w) of one frame.
        numbers: (H, W) uint8, the segments at full size; one that is not among them is in no cell.
        logits: whether maps are logits, whose softmax over the segments are shares; else they are shares already.
    """
    there = np.unique(numbers)
    found = maps[torch.from_numpy(there).long()]
    return dict(zip(there.tolist(), (found.softmax(dim=0) if logits else found).numpy(), strict=True))


def pooled_numbers(numbers: np.ndarray, coarse: Grid) -> np.ndarray:
    """(f, h', w') uint8: the segment that covers most of each cell of a coarser grid, the first of equals.

    For labels whose maps are of boxes, and so lie on no grid of the whole frame.

    Args:
        numbers: (f, H, W) uint8, the labels at full size.
        coarse: (h', w').
    """
    found = np.empty((len(numbers), *coarse), np.uint8)
    for frame, labels in enumerate(torch.from_numpy(numbers)):
        segments = labels.unique()
        shares = torch.cat([adaptive_avg_pool2d((labels == one)[None].float(), coarse) for one in segments])
        found[frame] = segments[shares.argmax(dim=0)].numpy()
    return found
