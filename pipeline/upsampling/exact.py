"""Full-resolution labels by masked modulation: jobs, decoding, difference maps, argmax (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone
from pipeline.features.diffusion import CleanPass, DiffusionSettings, clean_pass
from pipeline.finite import broken_modulation, first_broken
from pipeline.upsampling import difference as maps
from pipeline.upsampling.difference import MapSettings, difference_map
from pipeline.upsampling.modulation import Jobs, ModulationSettings, batches, jobs_of, modulate, to_keep


@dataclass(frozen=True)
class ImagePair:
    """I+ and I- of one label in one frame: decoder outputs (3, H, W) float32, and the mask M_l (h', w') float32."""

    frame: int
    label: int
    mask: np.ndarray
    plus: np.ndarray
    minus: np.ndarray


@dataclass(frozen=True)
class LabelledFrame:
    """One frame's result: labels (H0, W0) int64 and, per label, its map before Eq. 7 (H0, W0), floats."""

    labels: np.ndarray
    differences: dict[int, np.ndarray]


def upsample(
    backbone: Backbone,
    start: Tensor,
    coarse: np.ndarray,
    size: tuple[int, int],
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    settings: MapSettings,
    batch: int,
) -> Iterator[LabelledFrame]:
    """Labels of f frames at the source's size (H0, W0), frame by frame.

    A label that is absent from a frame's coarse map never competes there; a frame of one label has just that.

    Args:
        start: (f, 4, h, w) noised latents.
        coarse: (f, h', w') refined labels.
        batch: modulated samples per pass; the two signs of a label are never separated.
    """
    clean = clean_pass(backbone, start, diffusion, keep=to_keep(modulation, diffusion))
    pairs = image_pairs(backbone, clean, coarse, diffusion, modulation, batch)
    for _, of_frame in groupby(pairs, key=lambda pair: pair.frame):
        yield label_frame(of_frame, size, settings)


def image_pairs(
    backbone: Backbone,
    clean: CleanPass,
    coarse: np.ndarray,
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    batch: int,
) -> Iterator[ImagePair]:
    """I+ and I- of every label present in each frame of coarse (f, h', w'): frames in order, labels ascending.

    Args:
        clean: the clean pass of the f frames, kept as `to_keep` says.
        batch: modulated samples per pass; the two signs of a label are never separated.

    Raises:
        DataError: decoded images are not finite.
    """
    jobs = jobs_of(torch.from_numpy(coarse.astype(np.int64)))
    size = max(1, batch // 2) * 2
    for group in frame_groups(jobs.frames, size):
        of_frames = jobs[group]
        modulated = modulate(backbone, clean, of_frames, diffusion, modulation, size)
        for part in batches(len(of_frames), size):
            images = backbone.decode(modulated.final[part]).cpu().numpy()
            yield from _paired(of_frames[part], images)


def frame_groups(frames: Sequence[int], least: int) -> Iterator[slice]:
    """Consecutive jobs of whole frames, at least `least` at a time while there are so many.

    Args:
        frames: (j,) each job's frame, ascending.
    """
    first = 0
    for end in range(1, len(frames) + 1):
        ends_frame = end == len(frames) or frames[end] != frames[end - 1]
        if ends_frame and (end - first >= least or end == len(frames)):
            yield slice(first, end)
            first = end


def _paired(jobs: Jobs, images: np.ndarray) -> Iterator[ImagePair]:
    broken = first_broken(images)
    if broken is not None:
        raise broken_modulation(f"frame {jobs.frames[broken]} of this batch")
    for plus in range(0, len(jobs), 2):
        mask = jobs.masks[plus].numpy()
        yield ImagePair(jobs.frames[plus], jobs.labels[plus], mask, *images[plus : plus + 2])


def label_frame(pairs: Iterable[ImagePair], size: tuple[int, int], settings: MapSettings) -> LabelledFrame:
    """Section 3.2 and Eq. 7: the label with the largest map wins each of the (H0, W0) pixels of one frame."""
    winner = maps.RunningArgmax.empty(size)
    differences = {}
    for pair in pairs:
        values = differences[pair.label] = difference_map(pair.plus, pair.minus, size, settings)
        mask = maps.resize_mask(pair.mask, size, settings.filter_resize)
        winner.add(pair.label, maps.filtered(values, mask, settings.filter))
    return LabelledFrame(winner.labels, differences)
