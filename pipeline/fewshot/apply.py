"""Segments of a video, by a concept: chunk after chunk, guided or in a single pass (SMITE, section 4.3 and 7.5).

A chunk is everything that is held at once, so memory does not grow with the clip. What a chunk hands to the next is
its `carried`: the final maps of the frames that both have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Box
from pipeline.errors import DataError
from pipeline.features.noise import frame_noise, shared_noise
from pipeline.fewshot.attention_maps import Grid
from pipeline.fewshot.chunks import Chunk
from pipeline.fewshot.guidance import Aims, guided
from pipeline.fewshot.labels import enlarged_labels
from pipeline.fewshot.reading import Look, SegmentReader, noised
from pipeline.fewshot.views import Patches, View, put_back
from pipeline.fewshot.voting import vote, vote_labels
from pipeline.parameters import ApplyParams, GuidanceParams
from pipeline.tracking.tracks import Tracks

#: Timesteps among which that of a separate reference pass is drawn.
REFERENCE_SPAN = 10


@dataclass(frozen=True, eq=False)
class Segmented:
    """What is found in a chunk of f frames: maps of a view, or of whole frames from all crops; labels of whole frames.

    Attributes:
        initial: (f, k, h, w) S_ref, what guidance holds on to; without guidance the result.
        maps: (f, k, h, w), the result; what the next chunk carries of it is its last frames'.
        labels: (f, H, W) uint8, the number of each pixel's segment (Eq. 2), at the size that was asked for.
        energies: (steps - 1, iterations, groups, 3) float32 of guidance (`guidance.guided`); of no step without.
    """

    initial: Tensor
    maps: Tensor
    labels: Tensor
    energies: Tensor


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is found in what is seen of f frames: `initial`, `maps` and `energies` as in `Segmented`.

    Attributes:
        present: (f, k) bool, the segments that are in a frame (`apply.threshold`).
        look: whose maps these are; None = they have been voted on.
    """

    initial: Tensor
    maps: Tensor
    energies: Tensor
    present: Tensor
    look: Look | None

    def labels_at(self, sizes: Sequence[Grid], threshold: float) -> list[Tensor]:
        """The labels of each frame at a size (H, W) of its own."""
        if self.look is None:
            return enlarged_labels(self.maps, self.present, sizes)
        return list(self.look.labels_at(sizes, threshold))


def segment_chunk(
    reader: SegmentReader,
    latents: Tensor,
    chunk: Chunk,
    size: Grid,
    apply: ApplyParams,
    guidance: GuidanceParams,
    tracks: Tracks | None = None,
    carried: Tensor | None = None,
    sources: range | None = None,
    view: View | None = None,
) -> Segmented:
    """Find the segments in one chunk; not to be called within torch's inference mode, as it needs gradients.

    Args:
        latents: (f, 4, h, w) clean latents of what is seen of the chunk's frames.
        size: (H, W) of the labels of whole frames.
        tracks: of the chunk's whole frames, `start` as in the clip; needed where `guidance.needs_tracks`.
        carried: (chunk.carried, k, h, w) final maps of the chunk before; None for the first chunk.
        sources: the frames' numbers in the source, which their noise depends on; None = those in the clip.
        view: what is seen of the frames; None = all. Maps are of that, labels of whole frames: what lies outside is
            background, which the reader must have.

    Raises:
        DataError: tracks are needed and missing, or of other frames.
    """
    seen = _seen(reader, latents, chunk, apply, guidance, tracks, carried, sources, view)
    places = [Box(0, size[0], 0, size[1])] * len(latents) if view is None else view.on(size, chunk.frames)
    labels = seen.labels_at([place.size for place in places], apply.threshold)
    if view is not None:
        assert reader.background is not None, "something must be outside of a view"
        labels = [put_back(one, place, size, reader.background) for one, place in zip(labels, places, strict=True)]
    grid = (latents.shape[-2], latents.shape[-1])
    numbers = _voted(torch.stack(labels), seen.maps, grid, chunk, guidance, tracks)
    return Segmented(seen.initial, seen.maps, numbers, seen.energies)


def segment_patches(
    reader: SegmentReader,
    latents: Iterable[Tensor],
    chunk: Chunk,
    size: Grid,
    apply: ApplyParams,
    guidance: GuidanceParams,
    patches: Patches,
    views: Sequence[View],
    tracks: Tracks | None = None,
    carried: Tensor | None = None,
    sources: range | None = None,
) -> Segmented:
    """As `segment_chunk`, crop by crop: each is guided by itself, and the maps of all are merged (`Patches.merged`).

    A segment that is absent from a crop adds nothing there, as in SLiMe. Energies are the mean over the crops.

    Args:
        latents: (f, 4, h, w) clean latents of each crop of the chunk's frames.
        views: the crops.
        carried: (chunk.carried, k, h', w') final maps of the chunk before, on the grid of the merged ones.
    """
    initial, maps, energies, present = [], [], [], []
    for seen_latents, view, cells in zip(latents, views, patches.cells, strict=True):
        before = None if carried is None else cells.of(carried)
        seen = _seen(reader, seen_latents, chunk, apply, guidance, tracks, before, sources, view)
        initial.append(seen.initial)
        maps.append(seen.maps * seen.present[..., None, None])
        energies.append(seen.energies)
        present.append(seen.present)
    whole = patches.merged(maps)
    labels = enlarged_labels(whole, torch.stack(present).any(dim=0), [size] * len(whole))
    numbers = _voted(torch.stack(labels), whole, patches.cells[0].size, chunk, guidance, tracks)
    return Segmented(patches.merged(initial), whole, numbers, torch.stack(energies).mean(dim=0))


def _seen(
    reader: SegmentReader,
    latents: Tensor,
    chunk: Chunk,
    apply: ApplyParams,
    guidance: GuidanceParams,
    tracks: Tracks | None,
    carried: Tensor | None,
    sources: range | None,
    view: View | None,
) -> _Seen:
    """Look at one view of a chunk, guided or in a single pass; arguments as of `segment_chunk`."""
    if guidance.needs_tracks and tracks is None:
        raise DataError("guidance follows points; run `vidseg track` on this clip, or set guidance.lambda_track=0")
    if view is not None and tracks is not None:
        tracks = view.tracks(tracks, (latents.shape[-2], latents.shape[-1]), chunk.frames)
    sources = sources or chunk.frames
    steps = apply.timesteps if guidance.moves else apply.timesteps[:1]
    noisy = noised(reader.backbone, latents, _noise(apply, sources, latents), [steps[0]] * len(latents))
    look = _look(reader, noisy, steps[0])
    initial = look.maps()
    if guidance.moves:
        if apply.reference == "separate":
            initial = _separate(reader, latents, sources, apply)
        if carried is not None:
            initial = torch.cat([carried.to(initial), initial[len(carried) :]])
    found = []
    for step, (timestep, following) in enumerate(pairwise(steps)):
        noisy = reader.backbone.training_schedule.moved(noisy, look.noise, timestep, following)
        aims = aims_of(look.maps(), initial, step, guidance, tracks, chunk.frames.start)
        seen_at = following if guidance.timestep_of == "latents" else timestep
        noisy, of_step = guided(reader, noisy, seen_at, aims, guidance)
        found.append(of_step)
        look = _look(reader, noisy, following)
    energies = torch.stack(found) if found else torch.zeros(0, 0, 0, 3)
    present, maps = look.present(apply.threshold), look.maps()
    if guidance.vote.space == "maps" and tracks is not None:
        maps = vote(maps, tracks, guidance.vote.window, first=chunk.frames.start)
        return _Seen(initial, maps, energies, present, None)
    return _Seen(initial, maps, energies, present, look)


def _voted(
    numbers: Tensor, maps: Tensor, grid: Grid, chunk: Chunk, guidance: GuidanceParams, tracks: Tracks | None
) -> Tensor:
    """The labels (f, H, W) of whole frames, after a vote along tracks (on a grid (h, w)) on them where there is one."""
    if guidance.vote.space != "labels" or tracks is None:
        return numbers
    return vote_labels(numbers, maps.shape[1], tracks, grid, guidance.vote.window, first=chunk.frames.start)


def aims_of(
    maps: Tensor, reference: Tensor, step: int, params: GuidanceParams, tracks: Tracks | None, first: int
) -> Aims:
    """What guidance goes for after a step, from the maps (f, k, h, w) that the step saw.

    Args:
        reference: (f, k, h, w) S_ref.
        step: from 0; the first has a threshold of its own.
        first: number of the first frame, as `tracks.start` counts them.
    """
    tracked = None
    if params.lambda_track and tracks is not None:
        tracked = vote(maps, tracks, params.vote.window, first=first)
    threshold = params.low_pass.threshold if step else params.low_pass.first_threshold
    return Aims(tracked, reference if params.lambda_reg else None, threshold)


@torch.no_grad()
def _look(reader: SegmentReader, noisy: Tensor, timestep: int) -> Look:
    """See all frames of a chunk together."""
    return reader.look(noisy, timestep, frames=len(noisy))


def _noise(params: ApplyParams, sources: range, latents: Tensor) -> Tensor:
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    if params.noise == "shared":
        return shared_noise(params.seed, len(sources), shape).epsilon
    return frame_noise(params.seed, sources, shape).epsilon


def _separate(reader: SegmentReader, latents: Tensor, sources: range, params: ApplyParams) -> Tensor:
    """S_ref as the authors take it: of a pass with noise and a timestep of its own."""
    last = params.timesteps[0]
    drawn = np.random.default_rng((params.seed, sources.start)).integers(max(0, last - REFERENCE_SPAN + 1), last + 1)
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    noise = frame_noise(params.seed, sources, shape).posterior  # the draw that nothing else uses
    noisy = noised(reader.backbone, latents, noise, [int(drawn)] * len(latents))
    return _look(reader, noisy, int(drawn)).maps()
