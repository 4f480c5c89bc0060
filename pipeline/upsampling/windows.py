"""Full-resolution labels by masked modulation with a video model: a label is modulated in all frames of a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Conditioning
from pipeline.features.diffusion import CleanPass, DiffusionSettings, clean_pass
from pipeline.finite import broken_modulation, first_broken
from pipeline.upsampling import difference as maps
from pipeline.upsampling.difference import MapSettings, difference_map
from pipeline.upsampling.exact import ImagePair
from pipeline.upsampling.modulation import Jobs, ModulationSettings, modulate, to_keep


@dataclass(frozen=True)
class WindowPasses:
    """How a window is computed.

    Attributes:
        batch: modulated frames per pass of the network: whole windows, one at least.
        decode: `single`, every frame alone, or `joint`, the frames of a window together.
        first: position in the window from which on frames are labelled.
    """

    batch: int
    decode: str = "single"
    first: int = 0

    def chosen(self, window: int) -> range:
        """The positions in a window of so many frames that are labelled."""
        return range(min(self.first, window), window)


def window_jobs(coarse: Tensor) -> Jobs:
    """All jobs of a window's coarse maps (f, h, w): each label that is present anywhere, with both signs.

    A job is f entries, one per frame in order: where the label is absent its mask is empty, and blending leaves that
    frame as it was. The two signs of a label are neighbours, + first, labels ascending.
    """
    labels = torch.unique(coarse).tolist()
    frames = len(coarse)
    masks = torch.cat([(coarse == label).float().repeat(2, 1, 1) for label in labels])
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(frames).repeat(len(labels))
    repeated = [label for label in labels for _ in range(2 * frames)]
    return Jobs(list(range(frames)) * (2 * len(labels)), repeated, signs, masks)


def upsample_window(
    backbone: Backbone,
    start: Tensor,
    conditioning: Conditioning,
    coarse: np.ndarray,
    size: tuple[int, int],
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    settings: MapSettings,
    passes: WindowPasses,
) -> list[np.ndarray]:
    """Labels (H0, W0) int64 at the source's size, one array per chosen frame of a window of f.

    A label that is absent from a frame's coarse map never competes there.

    Args:
        start: (f, 4, h, w) noised latents.
        conditioning: of this window.
        coarse: (f, h', w') refined labels.
    """
    clean = clean_pass(backbone, start, diffusion, keep=to_keep(modulation, diffusion), conditioning=conditioning)
    winners = {frame: maps.RunningArgmax.empty(size) for frame in passes.chosen(len(coarse))}
    for pair in window_pairs(backbone, clean, coarse, diffusion, modulation, passes):
        values = difference_map(pair.plus, pair.minus, size, settings)
        mask = maps.resize_mask(pair.mask, size, settings.filter_resize)
        winners[pair.frame].add(pair.label, maps.filtered(values, mask, settings.filter))
    return [winner.labels for winner in winners.values()]


def window_pairs(
    backbone: Backbone,
    clean: CleanPass,
    coarse: np.ndarray,
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    passes: WindowPasses,
) -> Iterator[ImagePair]:
    """I+ and I- of every label present in each chosen frame of coarse (f, h', w'): labels ascending, then frames.

    Args:
        clean: the clean pass of the f frames, kept as `to_keep` says.

    Raises:
        DataError: decoded images are not finite.
    """
    frames = len(coarse)
    jobs = window_jobs(torch.from_numpy(coarse.astype(np.int64)))
    per_pass = max(1, passes.batch // frames) * frames
    per_label = 2 * frames
    for first in range(0, len(jobs), per_label):
        of_label = jobs[first : first + per_label]
        present = [frame for frame in passes.chosen(frames) if of_label.masks[frame].any()]
        if not present:
            continue
        final = modulate(backbone, clean, of_label, diffusion, modulation, per_pass).final
        images = decoded(backbone, final.unflatten(0, (2, frames)), present, passes.decode)
        for frame, pair in zip(present, images, strict=True):
            plus, minus = pair.cpu().numpy()
            if first_broken(np.stack([plus, minus])) is not None:
                raise broken_modulation(f"frame {frame} of this window")
            yield ImagePair(frame, of_label.labels[0], of_label.masks[frame].numpy(), plus, minus)


def decoded(backbone: Backbone, windows: Tensor, frames: Sequence[int], decode: str) -> Iterator[Tensor]:
    """Images (j, 3, H, W) of these frames of j windows (j, f, 4, h, w), decoded as in `WindowPasses`."""
    if decode == "joint":
        images = torch.stack([backbone.decode(window, together=len(window)) for window in windows])
        yield from images[:, frames].transpose(0, 1)
    else:
        yield from (backbone.decode(windows[:, frame]) for frame in frames)
