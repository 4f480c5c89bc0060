"""soft.zarr, the maps of a clip's segments: written chunk by chunk as they are found, read frame by frame.

A frame that several chunks share is taken of the one whose `taken` it is among. The store's first axis is chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.backbone import Box
from pipeline.fewshot.apply import Asked, Segmented, segment_chunk, segment_patches
from pipeline.fewshot.attention_maps import Grid
from pipeline.fewshot.chunks import Chunk, groups
from pipeline.fewshot.focus import boxes_around, has_box, smoothed
from pipeline.fewshot.labels import coarse_numbers, margin_of, pooled_numbers, shares_of
from pipeline.fewshot.learning import SegmentModel
from pipeline.fewshot.reading import SegmentReader
from pipeline.fewshot.views import Patches, View, canvas_of, on_picture
from pipeline.parameters import ApplyParams, GuidanceParams
from pipeline.stores.frames import Frames
from pipeline.stores.schemas import ArraySpec
from pipeline.stores.store import Store
from pipeline.stores.writer import StoreWriter
from pipeline.tracking.tracks import Tracks
from pipeline.upsampling.difference import resize_image
from pipeline.upsampling.interpolation import guided_maps
from pipeline.upsampling.labelling import Decision


@dataclass(frozen=True)
class ClipStores:
    """What segments are found in.

    Attributes:
        clip, latents: stores of one clip.
        tracks: of the same clip; None = there are none.
        model: what boxes of frames are encoded with.
    """

    clip: Store
    latents: Store
    tracks: Store | None
    model: SegmentModel

    def find(
        self,
        reader: SegmentReader,
        chunk: Chunk,
        apply: ApplyParams,
        guidance: GuidanceParams,
        carried: np.ndarray | None = None,
        view: View | None = None,
    ) -> Segmented:
        """The segments of a chunk, at the size of the clip's source; raises as `segment_chunk`.

        Args:
            carried: (chunk.carried, k, h, w), the maps that the chunk before ended with.
            view: what is seen of the frames; None = all, at once or in crops.
        """
        frames, device = chunk.frames, reader.context.device
        height, width = self.clip.attrs["source_size"]
        asked = Asked(
            chunk,
            (height, width),
            apply,
            guidance,
            self._tracks_of(frames),
            None if carried is None else torch.from_numpy(carried).to(device),
            self._sources(frames),
            look=0 if view is None else 1,  # after the one that found its boxes
        )
        if apply.patches == 1:
            return segment_chunk(reader, self._latents_of(frames, device, view), asked, view)
        patches = Patches.of(apply, self.seen)
        views = patches.views(self.clip.frames("frames"), self.size)
        latents = (self._latents_of(frames, device, crop) for crop in views)
        return segment_patches(reader, latents, asked, patches, views)

    def first_boxes(
        self, reader: SegmentReader, chunk: Chunk, apply: ApplyParams, guidance: GuidanceParams, background: int
    ) -> np.ndarray:
        """(f, 4) int32: boxes around the foreground of a chunk's frames, as a single look finds it (`boxes_around`).

        Args:
            background: the number of that segment.
        """
        frames = chunk.frames
        free = replace(guidance, lambda_track=0.0, lambda_reg=0.0, vote=replace(guidance.vote, space="none"))
        latents = self._latents_of(frames, reader.context.device)
        asked = Asked(chunk, self.size, apply, free, sources=self._sources(frames))
        return boxes_around(segment_chunk(reader, latents, asked).labels, background)

    @property
    def size(self) -> Grid:
        """(H, W) of the frames, which is the models'."""
        return self.clip.size("frames")

    @property
    def seen(self) -> Grid:
        """(h, w) of the latents, and of the maps of what is seen at once."""
        height, width = self.latents.array("latents").shape[2:]
        return height, width

    def _latents_of(self, frames: range, device: torch.device, view: View | None = None) -> torch.Tensor:
        """The clean latents (f, 4, h, w) of what is seen of frames."""
        latents = torch.from_numpy(self.latents.read("latents", frames.start, frames.stop)).to(device)
        for place, frame in enumerate(frames):
            if view is not None and view.box(frame) is not None:
                seen = view.cut(frame, self.clip.read("frames", frame, frame + 1)[0])
                with torch.no_grad():
                    latents[place] = self.model.encode(seen[None])[0]
        return latents

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
    seen: Grid,
    size: Grid,
    segments: int,
    apply: ApplyParams,
    guidance: GuidanceParams,
) -> dict[str, ArraySpec]:
    """The arrays of the store of a clip.

    Args:
        plan: its chunks.
        seen: (h, w) of the maps of what is seen at once.
        size: (H, W) of the labels.
        segments: how many there are.
    """
    count, frames = len(plan), len(plan[0].frames)
    maps = (count, frames, segments, *canvas_of(apply, seen))
    arrays = {
        "initial": ArraySpec(maps, "float16", 1),
        "maps": ArraySpec(maps, "float32", 1),
        "numbers": ArraySpec((count, frames, *size), "uint8", 1),
    }
    if apply.focus == "box":
        boxes = ArraySpec((count, frames, 4), "int32", 1)
        arrays = {"found": boxes, "boxes": boxes, **arrays}
    steps = len(apply.timesteps) - 1
    if guidance.moves and steps:
        energies = (count, steps, guidance.iterations, len(groups(frames, guidance.group)), 3)
        arrays["energies"] = ArraySpec(energies, "float32", 1)
    return arrays


def write_chunk(soft: StoreWriter, plan: Sequence[Chunk], number: int, found: Segmented, view: View | None) -> None:
    """Write one chunk. The maps come last: what follows carries them."""
    if view is not None:
        frames = plan[number].frames
        soft.write("boxes", number, view.boxes[None, frames.start : frames.stop])
    values = {"initial": found.initial, "numbers": found.labels, "energies": found.energies, "maps": found.maps}
    for name, tensor in values.items():
        if tensor.numel():
            soft.write(name, number, tensor.detach().cpu().numpy()[None])


def focus_of(soft: StoreWriter, plan: Sequence[Chunk], size: Grid, apply: ApplyParams, window: int) -> View:
    """The boxes of a clip, once each chunk has those that were `found`.

    Args:
        size: (H, W) of the frames.
        window: frames that boxes are smoothed over.
    """
    parity = apply.parity
    around = window if parity.boxes == "smoothed" else 1
    return View(smoothed(_first_boxes(soft, plan), apply.focus_margin, around, size, parity.short_boxes), size)


def frames_without_box(soft: Store | StoreWriter, plan: Sequence[Chunk], apply: ApplyParams) -> list[int]:
    """The clip's frames in which the first look found nothing that makes a box, so that they are seen whole."""
    return np.flatnonzero(~has_box(_first_boxes(soft, plan), apply.parity.short_boxes)).tolist()


def carried_maps(soft: StoreWriter, plan: Sequence[Chunk], number: int) -> np.ndarray | None:
    """(carried, k, h, w): what the chunk before ended with, of the frames that both have; None where there are none."""
    carried = plan[number].carried
    return soft.read("maps", number - 1, number)[0, -carried:] if carried else None


def taken_numbers(soft: Store, plan: Sequence[Chunk]) -> Iterator[np.ndarray]:
    """The segments' numbers (f, H, W) u8 of all frames in order, the frames of one chunk at a time."""
    return (_taken(soft, "numbers", number, chunk) for number, chunk in enumerate(plan))


def taken_margins(soft: Store, plan: Sequence[Chunk], logits: bool) -> Iterator[np.ndarray]:
    """By how much these segments won, (H, W) float32 of all frames in order, as `margin_of` has it; 1 outside a box."""
    for number, chunk in enumerate(plan):
        maps, numbers = (torch.from_numpy(_taken(soft, name, number, chunk)) for name in ("maps", "numbers"))
        for of_frame, there, place in zip(maps, numbers, _places(soft, number, chunk), strict=True):
            margin = torch.ones(there.shape)
            place.of(margin)[:] = torch.from_numpy(margin_of(of_frame, place.of(there).numpy(), logits))
            yield margin.numpy()


def along_edges(soft: Store, plan: Sequence[Chunk], clip: Store, frames: range, logits: bool) -> Iterator[Decision]:
    """The segments' numbers (H, W) of frames with borders that follow the edges of the pictures (`guided_maps`).

    Outside a box nothing competes with the background, and the margin is 1.

    Args:
        clip: the frames.
        logits: whether maps are logits.
    """
    height, width = soft.array("numbers").shape[2:]
    for number, chunk in enumerate(plan):
        wanted = range(max(frames.start, chunk.taken.start), min(frames.stop, chunk.taken.stop))
        if not wanted:
            continue
        maps, numbers = (_taken(soft, name, number, chunk) for name in ("maps", "numbers"))
        places = _places(soft, number, chunk)
        for frame in wanted:
            at = frame - chunk.taken.start
            guide = resize_image(clip.read("frames", frame, frame + 1)[0], (height, width))
            labels, margin = numbers[at].astype(np.int64), np.ones((height, width), np.float32)
            inside = places[at].slices
            shares = shares_of(torch.from_numpy(maps[at]), numbers[at][inside], logits)
            decided = guided_maps(shares, guide[inside])
            labels[inside], margin[inside] = decided.labels, decided.margin
            yield Decision(labels, margin)


def _places(soft: Store, number: int, chunk: Chunk) -> list[Box]:
    """What the maps of the frames that are taken of a chunk are of, in pixels of the labels."""
    height, width = soft.array("numbers").shape[2:]
    if not soft.has("boxes"):
        return [Box(0, height, 0, width)] * len(chunk.taken)
    return on_picture(_taken(soft, "boxes", number, chunk), tuple(soft.attrs["size"]), (height, width))


def _first_boxes(soft: Store | StoreWriter, plan: Sequence[Chunk]) -> np.ndarray:
    """The boxes (f, 4) of the whole clip as its first look found them."""
    return np.concatenate([_taken(soft, "found", number, chunk) for number, chunk in enumerate(plan)])


def _taken(soft: Store | StoreWriter, name: str, number: int, chunk: Chunk) -> np.ndarray:
    """An array's frames (f, ...) that are taken of a chunk."""
    first = chunk.taken.start - chunk.frames.start
    return soft.read(name, number, number + 1)[0, first : first + len(chunk.taken)]


def coarse_planes(soft: Store, plan: Sequence[Chunk], coarse: Grid) -> Frames:
    """The segments' numbers (f, h', w') u8 on a coarser grid: of the maps, or of the labels where maps are of boxes."""

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        for number, chunk in enumerate(plan):
            first, last = (min(max(bound, chunk.taken.start), chunk.taken.stop) for bound in (start, stop))
            if first < last:
                own = slice(first - chunk.frames.start, last - chunk.frames.start)
                numbers = soft.read("numbers", number, number + 1)[0, own]
                if soft.has("boxes"):
                    parts.append(pooled_numbers(numbers, coarse))
                else:
                    maps = soft.read("maps", number, number + 1)[0, own]
                    parts.append(coarse_numbers(torch.from_numpy(maps), numbers, coarse))
        return np.concatenate(parts)

    return Frames(plan[-1].frames.stop, read)
