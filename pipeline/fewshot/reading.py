"""One look of the denoiser at noisy latents: the noise it predicts, and the maps of the segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.backbone import ALONE, Conditioning, PredictsNoise, Tap, Together
from pipeline.fewshot.attention_maps import Grid, cross_maps, floored, rescaled, resized, spread, taps_of
from pipeline.parameters import ApplyParams, MapsParams


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen in b frames.

    Attributes:
        noise: (b, 4, h, w) float32, the prediction.
        cross: (b, k, h, w) float32, the cross maps: logits.
        taps, reader: what the other maps are computed from.
    """

    noise: Tensor
    cross: Tensor
    taps: Mapping[Tap, Tensor]
    reader: SegmentReader

    @property
    def learning(self) -> Tensor:
        """(b, k, h, w): Eq. 1 of the logits' softmax over the segments; sums to 1 over them."""
        return self._spread(self.cross.softmax(dim=1))

    def maps(self) -> Tensor:
        """(b, k, h, w): the maps that guidance moves, and labels are taken from.

        Eq. 1 of the cross maps (`maps.cross`) with `maps.background_floor`; then each frame's map of each segment gets
        the range that its cross map has. Without `maps.spread` the cross maps themselves.
        """
        cross = self._chosen
        return rescaled(self._floored(cross), cross)

    def labels(self, size: Grid, threshold: float = 0.0) -> Tensor:
        """(b, H, W) uint8: the segment with the largest map at each pixel (Eq. 2).

        Args:
            size: (H, W).
            threshold: segments whose cross map stays below it in a frame are not in it; 0 = all are.
        """
        return torch.stack(list(self.labels_at([size] * len(self.cross), threshold)))

    def labels_at(self, sizes: Sequence[Grid], threshold: float = 0.0) -> Iterator[Tensor]:
        """The labels of each frame at a size (H, W) of its own."""
        for maps, there in zip(self._enlarged(sizes), self.present(threshold), strict=True):
            yield largest(maps, there)

    def present(self, threshold: float) -> Tensor:
        """(b, k) bool: the segments that are in a frame, whose cross map reaches the threshold; 0 = all are."""
        peaks = self._chosen.amax(dim=(-2, -1))
        return peaks >= threshold if threshold else torch.ones_like(peaks, dtype=torch.bool)

    def enlarged(self, size: Grid) -> Iterator[Tensor]:
        """The maps (k, H, W) of each frame, enlarged before they get their range; one at a time, as they are large."""
        return self._enlarged([size] * len(self.cross))

    def _enlarged(self, sizes: Sequence[Grid]) -> Iterator[Tensor]:
        cross = self._chosen
        for spread_map, of_frame, size in zip(self._floored(cross).split(1), cross.split(1), sizes, strict=True):
            yield rescaled(resized(spread_map, size), of_frame)[0]

    @property
    def _chosen(self) -> Tensor:
        """The cross maps that labels come from."""
        params = self.reader.params
        if params.cross == "logits":
            return self.cross
        grid = (self.cross.shape[-2], self.cross.shape[-1])
        return cross_maps(self.taps, self.reader.heads, self.reader.positions, grid, params.cross_blocks, params.cross)

    def _floored(self, cross: Tensor) -> Tensor:
        params = self.reader.params
        return self._spread(floored(cross, self.reader.background, params.background_floor)) if params.spread else cross

    def _spread(self, maps: Tensor) -> Tensor:
        return spread(self.taps, self.reader.heads, maps, self.reader.params.self_blocks)


@dataclass(frozen=True, eq=False)
class SegmentReader:
    """A denoiser that is asked for segments.

    Attributes:
        backbone: which, with the concept's adapter if it has one.
        context: (t, c) float32.
        positions: (k,) the token of each segment.
        background: number of the background segment; None = there is none.
        params: which layers, and what is made of them.
        together: how a clip's frames are seen; their number is the look's.
    """

    backbone: PredictsNoise
    context: Tensor
    positions: tuple[int, ...]
    background: int | None
    params: MapsParams
    together: Together = ALONE

    @property
    def heads(self) -> dict[int, int]:
        """Block -> heads of its attention, for the blocks that are read."""
        return {block: self.backbone.heads(block) for block in (*self.params.cross_blocks, *self.params.self_blocks)}

    def with_empty_tail(self) -> SegmentReader:
        """These segments in the context of the empty prompt, as the authors' code reads its reference maps.

        Without a text encoder their context is that already.
        """
        empty, own = self.backbone.context.to(self.context), list(self.positions)
        context = torch.cat([empty, self.context[len(empty) :]])
        context[own] = self.context[own]
        return replace(self, context=context)

    def look(self, latents: Tensor, timestep: int | Tensor, frames: int = 1) -> Look:
        """See noisy latents (b, 4, h, w) at a training timestep, or (b,) of them.

        Args:
            frames: of each clip, which are seen as `together` says; b is a multiple of it.
        """
        predicted = self.backbone.predict(
            latents,
            timestep,
            conditioning=Conditioning(context=self.context),
            record=taps_of(self.params),
            together=self.together if self.together == ALONE else replace(self.together, frames=frames),
        )
        grid = (latents.shape[-2], latents.shape[-1])
        cross = cross_maps(predicted.taps, self.heads, self.positions, grid, self.params.cross_blocks)
        return Look(predicted.noise, cross, predicted.taps, self)


def inflation(apply: ApplyParams) -> Together:
    """How a clip's frames are seen when a concept is applied: `apply.frames` and `apply.norm`."""
    if apply.frames == "one" and apply.norm == "frame":
        return ALONE
    return Together(apply.chunk, apply.norm, "joint" if apply.frames == "all" else "frame")


def largest(maps: Tensor, present: Tensor) -> Tensor:
    """(H, W) uint8: the segment with the largest of the maps (k, H, W) at each pixel, among those present (k,)."""
    return maps.masked_fill(~present[:, None, None], -torch.inf).argmax(dim=0).to(torch.uint8)


def noised(backbone: PredictsNoise, latents: Tensor, noise: Tensor, timesteps: list[int]) -> Tensor:
    """Clean latents (b, 4, h, w) with noise of the same shape, each at its own timestep."""
    add = backbone.training_schedule.add_noise
    mixed = [add(clean, drawn, at) for clean, drawn, at in zip(latents, noise.to(latents), timesteps, strict=True)]
    return torch.stack(mixed)
