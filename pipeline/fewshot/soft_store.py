"""soft.zarr, the maps of a clip's segments: written chunk by chunk as they are found, read frame by frame.

A frame that several chunks share is taken of the one whose `taken` it is among. The store's first axis is chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.fewshot.apply import Segmented, coarse_numbers, margin_of, segment_chunk
from pipeline.fewshot.attention_maps import Grid
from pipeline.fewshot.chunks import Chunk, groups
from pipeline.fewshot.reading import SegmentReader
from pipeline.parameters import ApplyParams, GuidanceParams
from pipeline.stores.frames import Frames
from pipeline.stores.schemas import ArraySpec
from pipeline.stores.store import Store
from pipeline.stores.writer import StoreWriter
from pipeline.tracking.tracks import Tracks


@dataclass(frozen=True)
class ClipStores:
    """What segments are found in.

    Attributes:
        clip, latents: stores of one clip.
        tracks: of the same clip; None = there are none.
    """

    clip: Store
    latents: Store
    tracks: Store | None

    def find(
        self,
        reader: SegmentReader,
        chunk: Chunk,
        apply: ApplyParams,
        guidance: GuidanceParams,
        carried: np.ndarray | None,
    ) -> Segmented:
        """The segments of a chunk, at the size of the clip's source; raises as `segment_chunk`.

        Args:
            carried: (chunk.carried, k, h, w), the maps that the chunk before ended with.
        """
        frames, device = chunk.frames, reader.context.device
        height, width = self.clip.attrs["source_size"]
        latents = torch.from_numpy(self.latents.read("latents", frames.start, frames.stop)).to(device)
        before = None if carried is None else torch.from_numpy(carried).to(device)
        tracks, sources = self._tracks_of(frames), self._sources(frames)
        return segment_chunk(reader, latents, chunk, (height, width), apply, guidance, tracks, before, sources)

    def _tracks_of(self, frames: range) -> Tracks | None:
        if self.tracks is None:
            return None
        return Tracks(*(self.tracks.read(name, frames.start, frames.stop) for name in ("yx", "visible", "start")))

    def _sources(self, frames: range) -> range:
        """The frames' numbers in the source, which their noise depends on."""
        indices = self.clip.attrs["source_indices"][frames.start : frames.stop]
        step = indices[1] - indices[0] if len(indices) > 1 else 1
        return range(indices[0], indices[-1] + step, step)


def soft_arrays(
    plan: Sequence[Chunk],
    grid: Grid,
    size: Grid,
    segments: int,
    apply: ApplyParams,
    guidance: GuidanceParams,
) -> dict[str, ArraySpec]:
    """The arrays of the store of a clip.

    Args:
        plan: its chunks.
        grid: (h, w) of the maps.
        size: (H, W) of the labels.
        segments: how many there are.
    """
    count, frames = len(plan), len(plan[0].frames)
    maps = (count, frames, segments, *grid)
    arrays = {
        "initial": ArraySpec(maps, "float16", 1),
        "maps": ArraySpec(maps, "float32", 1),
        "numbers": ArraySpec((count, frames, *size), "uint8", 1),
    }
    steps = len(apply.timesteps) - 1
    if guidance.moves and steps:
        energies = (count, steps, guidance.iterations, len(groups(frames, guidance.group)), 3)
        arrays["energies"] = ArraySpec(energies, "float32", 1)
    return arrays


def write_chunk(soft: StoreWriter, number: int, found: Segmented) -> None:
    """Write one chunk. The maps come last: what follows carries them."""
    values = {"initial": found.initial, "numbers": found.labels, "energies": found.energies, "maps": found.maps}
    for name, tensor in values.items():
        if tensor.numel():
            soft.write(name, number, tensor.detach().cpu().numpy()[None])


def carried_maps(soft: StoreWriter, plan: Sequence[Chunk], number: int) -> np.ndarray | None:
    """(carried, k, h, w): what the chunk before ended with, of the frames that both have; None where there are none."""
    carried = plan[number].carried
    return soft.read("maps", number - 1, number)[0, -carried:] if carried else None


def taken_numbers(soft: Store, plan: Sequence[Chunk]) -> Iterator[np.ndarray]:
    """The segments' numbers (f, H, W) u8 of all frames in order, the frames of one chunk at a time."""
    return (_taken(soft, "numbers", number, chunk) for number, chunk in enumerate(plan))


def taken_margins(soft: Store, plan: Sequence[Chunk], logits: bool) -> Iterator[np.ndarray]:
    """By how much these segments won, (H, W) float32 of all frames in order, as `margin_of` has it."""
    for number, chunk in enumerate(plan):
        maps, numbers = (_taken(soft, name, number, chunk) for name in ("maps", "numbers"))
        for of_frame, there in zip(torch.from_numpy(maps), numbers, strict=True):
            yield margin_of(of_frame, there, logits)


def _taken(soft: Store, name: str, number: int, chunk: Chunk) -> np.ndarray:
    """An array's frames (f, ...) that are taken of a chunk."""
    first = chunk.taken.start - chunk.frames.start
    return soft.read(name, number, number + 1)[0, first : first + len(chunk.taken)]


def coarse_planes(soft: Store, plan: Sequence[Chunk], grid: Grid) -> Frames:
    """The segments' numbers (f, h', w') u8 on a coarser grid, as `coarse_numbers` has them."""

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        for number, chunk in enumerate(plan):
            first, last = (min(max(bound, chunk.taken.start), chunk.taken.stop) for bound in (start, stop))
            if first < last:
                own = slice(first - chunk.frames.start, last - chunk.frames.start)
                maps, numbers = (soft.read(name, number, number + 1)[0, own] for name in ("maps", "numbers"))
                parts.append(coarse_numbers(torch.from_numpy(maps), numbers, grid))
        return np.concatenate(parts)

    return Frames(plan[-1].frames.stop, read)
