"""Maps of segments, read from the denoiser's attention (SMITE's Eq. 1 and section 7.6).

Cross-attention says how much the token of a segment is meant at each place: the *cross maps* A_ca. Self-attention says
which places belong together: Eq. 1 spreads the cross maps with it, S_k[q] = sum over p of A[q, p] R_k[p], where R are
the cross maps on the grid of the keys. S is linear in A, so it is computed as attention whose values are R, and A,
of n x n weights, is never held.

There are three forms. *Plain*, Eq. 1 as printed: `spread(cross)`. *Training*: `spread(cross.softmax(dim=1))`, which
sums to 1 over the segments. *Inference*: `rescaled(resized(spread(floored(cross))), cross)`. Everything is
differentiable; grids are the latents' (h, w), which need not be square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention

from pipeline.backbone import Tap

Grid = tuple[int, int]
Floor = Literal["minimum", "zero", "none"]
Kind = Literal["logits", "segments", "tokens"]


class MapBlocks(Protocol):
    """The decoder blocks whose attention is read."""

    @property
    def cross_blocks(self) -> tuple[int, ...]: ...

    @property
    def self_blocks(self) -> tuple[int, ...]: ...


def taps_of(blocks: MapBlocks) -> tuple[Tap, ...]:
    """What a prediction must record, so that maps can be read from it."""
    cross = [Tap(block, "cross", tensor) for block in blocks.cross_blocks for tensor in ("query", "key")]
    own = [Tap(block, "self", tensor) for block in blocks.self_blocks for tensor in ("query", "key")]
    return (*cross, *own)


def cross_maps(
    taps: Mapping[Tap, Tensor],
    heads: Mapping[int, int],
    positions: Sequence[int],
    grid: Grid,
    blocks: Sequence[int],
    kind: Kind = "logits",
) -> Tensor:
    """A_ca, (b, k, h, w) float32: the mean over heads and layers of what the segments' tokens score at each place.

    Args:
        taps: queries (b, n, c) and keys (b, t, c) of each block's cross-attention.
        heads: block -> number of its heads.
        positions: (k,) the token of each segment in the context.
        grid: (h, w) of the maps; layers of other grids are resized.
        kind: `logits`, q.k / sqrt(d), as the authors' code does; or their softmax over the k `segments` or over all
            t `tokens` (SLiMe's test rule), before the mean.
    """
    layers = []
    for block in blocks:
        query, key = (taps[Tap(block, "cross", tensor)] for tensor in _QUERY_AND_KEY)
        inner = _grid_of(query.shape[1], grid)
        scores = _scores(query, key, heads[block], list(positions), kind)
        layers.append(resized(scores.unflatten(-1, inner), grid))
    return torch.stack(layers).mean(dim=0)


def spread(taps: Mapping[Tap, Tensor], heads: Mapping[int, int], maps: Tensor, blocks: Sequence[int]) -> Tensor:
    """Eq. 1: maps (b, k, h, w), averaged at each place over the places that it looks at; mean over heads and layers.

    A place looks at those of its own frame only, also where the network sees several frames together.

    Args:
        taps: queries and keys (b, h * w, c) of each block's self-attention.
        heads: block -> number of its heads.
    """
    grid = (maps.shape[-2], maps.shape[-1])
    layers = []
    for block in blocks:
        query, key = (_by_head(taps[Tap(block, "self", tensor)], heads[block]) for tensor in _QUERY_AND_KEY)
        inner = _grid_of(query.shape[2], grid)
        values = resized(maps, inner).flatten(2).transpose(1, 2)  # (b, n, k)
        layers.append(resized(_attended(query, key, values).transpose(1, 2).unflatten(-1, inner), grid))
    return torch.stack(layers).mean(dim=0)


def floored(cross: Tensor, background: int | None, floor: Floor) -> Tensor:
    """Cross maps (b, k, h, w) without the background's values up to its frame's mean.

    Args:
        background: number of its segment; None = there is none.
        floor: these values become the least of the frame, `minimum`; 0, `zero`, as the authors' code does with logits
            as if they were probabilities; or they stay, `none`.
    """
    if background is None or floor == "none":
        return cross
    row = cross[:, background]
    bottom = row.amin(dim=(-2, -1), keepdim=True) if floor == "minimum" else torch.zeros_like(row)
    cut = torch.where(row > row.mean(dim=(-2, -1), keepdim=True), row, bottom)
    return torch.cat([cross[:, :background], cut[:, None], cross[:, background + 1 :]], dim=1)


def rescaled(maps: Tensor, cross: Tensor) -> Tensor:
    """Maps (b, k, H, W) moved and stretched, each frame and segment for itself, to the range of its cross map.

    A constant map becomes the least value of the cross map; the authors' code divides by its range of 0.

    Args:
        cross: (b, k, h, w), of any grid.
    """
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    bottom, top = cross.amin(dim=(-2, -1), keepdim=True), cross.amax(dim=(-2, -1), keepdim=True)
    extent = high - low
    factor = (top - bottom) / torch.where(extent > 0, extent, 1)
    return (maps - low) * factor + bottom


def resized(maps: Tensor, grid: Grid) -> Tensor:
    """Maps (b, k, h, w) on another grid: bilinear, with half-pixel centres."""
    if tuple(maps.shape[-2:]) == tuple(grid):
        return maps
    return interpolate(maps, grid, mode="bilinear", align_corners=False)


_QUERY_AND_KEY: tuple[Literal["query", "key"], ...] = ("query", "key")


def _scores(query: Tensor, key: Tensor, heads: int, positions: list[int], kind: Kind) -> Tensor:
    """(b, k, n) float32, the mean over heads."""
    scale = (query.shape[-1] // heads) ** -0.5
    if kind == "logits":  # linear in the heads: one product over all of them
        return _precise(key[:, positions]) @ (_precise(query) * (scale / heads)).transpose(1, 2)
    keys = _by_head(key if kind == "tokens" else key[:, positions], heads)
    shares = (_by_head(query, heads) * scale @ keys.transpose(-1, -2)).softmax(dim=-1).mean(dim=1)
    return (shares[..., positions] if kind == "tokens" else shares).transpose(1, 2)


def _attended(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    """(b, n, k): attention with values (b, n, k) that all heads (b, heads, n, d) share, mean over heads.

    Kernels that hold no n x n weights want values as wide as the queries, without gaps in memory: these are filled up
    with zeros, or taken d segments at a time.
    """
    width, parts = query.shape[-1], []
    for part in values.contiguous().split(width, dim=-1):
        wide = pad(part, (0, width - part.shape[-1]))[:, None].expand(-1, query.shape[1], -1, -1)
        parts.append(scaled_dot_product_attention(query, key, wide).mean(dim=1)[..., : part.shape[-1]])
    return torch.cat(parts, dim=-1)


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """(b, heads, n, d) float32 of (b, n, c)."""
    return _precise(tensor).unflatten(-1, (heads, -1)).transpose(1, 2)


def _precise(tensor: Tensor) -> Tensor:
    """At least float32: at half precision scores of SD 2.1 may overflow."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _grid_of(tokens: int, grid: Grid) -> Grid:
    """The grid of a layer with so many tokens: the latents' divided by 1, 2, 4 or 8."""
    stride = round(math.sqrt(grid[0] * grid[1] / tokens))
    return grid[0] // stride, grid[1] // stride
