"""Segments of a video, by a concept: chunk after chunk, guided or in a single pass (SMITE, section 4.3 and 7.5).

A chunk is everything that is held at once, so memory does not grow with the clip. What a chunk hands to the next is
its `carried`: the final maps of the frames that both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pipeline.backbone import Box
from pipeline.errors import DataError
from pipeline.features.noise import frame_noise, shared_noise
from pipeline.fewshot.attention_maps import Grid, resized
from pipeline.fewshot.chunks import Chunk
from pipeline.fewshot.focus import Focus, put_back
from pipeline.fewshot.guidance import Aims, guided
from pipeline.fewshot.reading import Look, SegmentReader, largest, noised
from pipeline.fewshot.voting import vote, vote_labels
from pipeline.parameters import ApplyParams, GuidanceParams
from pipeline.tracking.tracks import Tracks
from pipeline.upsampling.labelling import relative_margin

#: Timesteps among which that of a separate reference pass is drawn.
REFERENCE_SPAN = 10


@dataclass(frozen=True, eq=False)
class Segmented:
    """What is found in a chunk of f frames: maps of what is seen of a frame, labels of whole frames.

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
    focus: Focus | None = None,
) -> Segmented:
    """Find the segments in one chunk; not to be called within torch's inference mode, as it needs gradients.

    Args:
        latents: (f, 4, h, w) clean latents of what is seen of the chunk's frames.
        size: (H, W) of the labels of whole frames.
        tracks: of the chunk's whole frames, `start` as in the clip; needed where `guidance.needs_tracks`.
        carried: (chunk.carried, k, h, w) final maps of the chunk before; None for the first chunk.
        sources: the frames' numbers in the source, which their noise depends on; None = those in the clip.
        focus: what is seen of the frames; None = all. Maps are of that, labels of whole frames.

    Raises:
        DataError: tracks are needed and missing, or of other frames.
    """
    if guidance.needs_tracks and tracks is None:
        raise DataError("guidance follows points; run `vidseg track` on this clip, or set guidance.lambda_track=0")
    followed = tracks
    if focus is not None and tracks is not None:
        followed = focus.tracks(tracks, (latents.shape[-2], latents.shape[-1]), chunk.frames)
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
    energies = []
    for step, (timestep, following) in enumerate(pairwise(steps)):
        noisy = reader.backbone.training_schedule.moved(noisy, look.noise, timestep, following)
        aims = aims_of(look.maps(), initial, step, guidance, followed, chunk.frames.start)
        seen_at = following if guidance.timestep_of == "latents" else timestep
        noisy, found = guided(reader, noisy, seen_at, aims, guidance)
        energies.append(found)
        look = _look(reader, noisy, following)
    places = [Box(0, size[0], 0, size[1])] * len(latents) if focus is None else focus.on(size, chunk.frames)
    maps, sizes, voting = look.maps(), [place.size for place in places], guidance.vote
    if voting.space == "maps" and followed is not None:
        maps = vote(maps, followed, voting.window, first=chunk.frames.start)
        labels = _enlarged_labels(maps, look.present(apply.threshold), sizes)
    else:
        labels = list(look.labels_at(sizes, apply.threshold))
    if focus is not None:
        labels = [put_back(one, place, size, focus.background) for one, place in zip(labels, places, strict=True)]
    numbers = torch.stack(labels)
    if voting.space == "labels" and tracks is not None:
        grid = (maps.shape[-2], maps.shape[-1])
        numbers = vote_labels(numbers, maps.shape[1], tracks, grid, voting.window, first=chunk.frames.start)
    return Segmented(initial, maps, numbers, torch.stack(energies) if energies else torch.zeros(0, 0, 0, 3))


def _enlarged_labels(maps: Tensor, present: Tensor, sizes: Sequence[Grid]) -> list[Tensor]:
    """The labels of maps (f, k, h, w), each frame's enlarged to its size (H, W); of the segments present (f, k)."""
    parts = zip(maps, present, sizes, strict=True)
    return [largest(resized(one[None], size)[0], there) for one, there, size in parts]


def coarse_numbers(maps: Tensor, numbers: np.ndarray, grid: Grid) -> np.ndarray:
    """(f, h', w') uint8: the segment with the largest map (Eq. 2) in each cell of a coarser grid, for upsampling.

    Args:
        maps: (f, k, h, w) of the result.
        numbers: (f, H, W) uint8, the labels at full size; a segment that is not among a frame's is none of its cells'.
        grid: (h', w').
    """
    cells = adaptive_avg_pool2d(maps, grid)
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


def pooled_numbers(numbers: np.ndarray, grid: Grid) -> np.ndarray:
    """(f, h', w') uint8: the segment that covers most of each cell of a coarser grid, the first of equals.

    For labels whose maps are of boxes, and so lie on no grid of the whole frame.

    Args:
        numbers: (f, H, W) uint8, the labels at full size.
        grid: (h', w').
    """
    found = np.empty((len(numbers), *grid), np.uint8)
    for frame, labels in enumerate(torch.from_numpy(numbers)):
        segments = labels.unique()
        shares = torch.cat([adaptive_avg_pool2d((labels == one)[None].float(), grid) for one in segments])
        found[frame] = segments[shares.argmax(dim=0)].numpy()
    return found


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
