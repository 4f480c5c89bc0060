"""Segments of a video, by a concept: chunk after chunk, guided or in a single pass (SMITE, section 4.3 and 7.5).

A chunk is everything that is held at once, so memory does not grow with the clip. What a chunk hands to the next is
its `carried`: the final maps of the frames that both have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Box
from pipeline.errors import DataError
from pipeline.features.noise import Noise, frame_noise, shared_noise, turns
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
class Asked:
    """What is asked of a chunk of f frames, whatever part of them is seen.

    Attributes:
        chunk: which.
        size: (H, W) of the labels of whole frames.
        tracks: of the chunk's whole frames, `start` as in the clip; needed where `guidance.needs_tracks`.
        carried: (chunk.carried, k, h, w) final maps of the chunk before; None for the first chunk.
        sources: the frames' numbers in the source, which their noise depends on; None = those in the clip.
        look: how many times all chunks were looked at before; what noise by the order of chunks goes on from.
    """

    chunk: Chunk
    size: Grid
    apply: ApplyParams
    guidance: GuidanceParams
    tracks: Tracks | None = None
    carried: Tensor | None = None
    sources: range | None = None
    look: int = 0


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


def segment_chunk(reader: SegmentReader, latents: Tensor, asked: Asked, view: View | None = None) -> Segmented:
    """Find the segments in one chunk; not to be called within torch's inference mode, as it needs gradients.

    Args:
        latents: (f, 4, h, w) clean latents of what is seen of the chunk's frames.
        view: what is seen of the frames; None = all. Maps are of that, labels of whole frames: what lies outside is
            background, which the reader must have.

    Raises:
        DataError: tracks are needed and missing, or of other frames.
    """
    size, frames = asked.size, asked.chunk.frames
    seen = _seen(reader, latents, asked, view)
    places = [Box(0, size[0], 0, size[1])] * len(latents) if view is None else view.on(size, frames)
    labels = seen.labels_at([place.size for place in places], asked.apply.threshold)
    if view is not None:
        assert reader.background is not None, "something must be outside of a view"
        labels = [put_back(one, place, size, reader.background) for one, place in zip(labels, places, strict=True)]
    numbers = _voted(torch.stack(labels), seen.maps, (latents.shape[-2], latents.shape[-1]), asked)
    return Segmented(seen.initial, seen.maps, numbers, seen.energies)


def segment_patches(
    reader: SegmentReader, latents: Iterable[Tensor], asked: Asked, patches: Patches, views: Sequence[View]
) -> Segmented:
    """As `segment_chunk`, crop by crop: each is guided by itself, and the maps of all are merged (`Patches.merged`).

    A segment that is absent from a crop adds nothing there, as in SLiMe. Energies are the mean over the crops.

    Args:
        latents: (f, 4, h, w) clean latents of each crop of the chunk's frames.
        asked: what is carried lies on the grid (h', w') of the merged maps.
        views: the crops.
    """
    initial, maps, energies, present = [], [], [], []
    for place, (seen_latents, view, cells) in enumerate(zip(latents, views, patches.cells, strict=True)):
        before = None if asked.carried is None else cells.of(asked.carried)
        seen = _seen(reader, seen_latents, replace(asked, carried=before, look=asked.look + place), view)
        initial.append(seen.initial)
        maps.append(seen.maps * seen.present[..., None, None])
        energies.append(seen.energies)
        present.append(seen.present)
    whole = patches.merged(maps)
    labels = enlarged_labels(whole, torch.stack(present).any(dim=0), [asked.size] * len(whole))
    numbers = _voted(torch.stack(labels), whole, patches.cells[0].size, asked)
    return Segmented(patches.merged(initial), whole, numbers, torch.stack(energies).mean(dim=0))


def _seen(reader: SegmentReader, latents: Tensor, asked: Asked, view: View | None) -> _Seen:
    """Look at one view of a chunk, guided or in a single pass."""
    apply, guidance, tracks, first = asked.apply, asked.guidance, asked.tracks, asked.chunk.frames.start
    if guidance.needs_tracks and tracks is None:
        raise DataError("guidance follows points; run `vidseg track` on this clip, or set guidance.lambda_track=0")
    if view is not None and tracks is not None:
        tracks = view.tracks(tracks, (latents.shape[-2], latents.shape[-1]), asked.chunk.frames)
    noisy, look, initial = _begun(reader, latents, asked)
    found = []
    for step, (timestep, following) in enumerate(pairwise(apply.timesteps if guidance.moves else ())):
        noisy = reader.backbone.training_schedule.moved(noisy, look.noise, timestep, following)
        aims = aims_of(look.maps(), initial, step, guidance, tracks, first)
        seen_at = following if guidance.timestep_of == "latents" else timestep
        noisy, of_step = guided(reader, noisy, seen_at, aims, guidance)
        found.append(of_step)
        look = _look(reader, noisy, following)
    energies = torch.stack(found) if found else torch.zeros(0, 0, 0, 3)
    present, maps = look.present(apply.threshold), look.maps()
    if guidance.vote.space == "maps" and tracks is not None:
        maps = vote(maps, tracks, guidance.vote.window, first=first)
        return _Seen(initial, maps, energies, present, None)
    return _Seen(initial, maps, energies, present, look)


def _begun(reader: SegmentReader, latents: Tensor, asked: Asked) -> tuple[Tensor, Look, Tensor]:
    """Noisy latents (f, 4, h, w), a first look at them, and S_ref (f, k, h, w)."""
    apply, moves = asked.apply, asked.guidance.moves
    noise, drawn = _noise(asked, latents)

    def at(seen_by: SegmentReader, own: Tensor, timestep: int) -> tuple[Tensor, Look]:
        noisy = noised(reader.backbone, latents, own, [timestep] * len(latents))
        return noisy, _look(seen_by, noisy, timestep)

    if not apply.separate(moves):
        noisy, look = at(reader, noise.epsilon, apply.timesteps[0])
        initial = look.maps()
    else:
        apart = reader.with_empty_tail() if apply.parity.reference_tail == "empty" else reader
        noisy, look = at(apart, noise.posterior, drawn)
        initial = look.maps()
        if moves:
            noisy, look = at(reader, noise.epsilon, apply.timesteps[0])
    if moves and asked.carried is not None:
        initial = torch.cat([asked.carried.to(initial), initial[len(asked.carried) :]])
    return noisy, look, initial


def _voted(numbers: Tensor, maps: Tensor, grid: Grid, asked: Asked) -> Tensor:
    """The labels (f, H, W) of whole frames, after a vote along tracks (on a grid (h, w)) on them where there is one."""
    vote, tracks = asked.guidance.vote, asked.tracks
    if vote.space != "labels" or tracks is None:
        return numbers
    return vote_labels(numbers, maps.shape[1], tracks, grid, vote.window, first=asked.chunk.frames.start)


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


def _noise(asked: Asked, latents: Tensor) -> tuple[Noise, int]:
    """The noise of a chunk, and the timestep of a separate reference pass, whose own noise is `posterior`."""
    apply, chunk = asked.apply, asked.chunk
    channels, height, width = shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    timesteps = range(max(0, apply.timesteps[0] - REFERENCE_SPAN + 1), apply.timesteps[0] + 1)
    if apply.noise == "by_chunk":
        turn = asked.look * chunk.count + chunk.number
        return turns(apply.seed, (len(latents), channels, height, width), timesteps).of(turn)
    sources = asked.sources or chunk.frames
    noise = frame_noise(apply.seed, sources, shape)
    if apply.noise == "shared":
        noise = replace(noise, epsilon=shared_noise(apply.seed, len(sources), shape).epsilon)
    return noise, int(np.random.default_rng((apply.seed, sources.start)).integers(timesteps.start, timesteps.stop))
