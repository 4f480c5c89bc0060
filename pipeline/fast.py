"""Full-resolution labels by masked modulation at a fraction of its cost: approximations, each a setting of its own.

The exact way is `pipeline.upsampling`. docs/performance.md has what each setting saves and changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline import difference as maps
from pipeline.backbone import Backbone, Box, DecodesParts, Keep
from pipeline.diffusion import CleanPass, DiffusionSettings, clean_pass
from pipeline.finite import broken_modulation, first_broken
from pipeline.guided_filter import guided_filter
from pipeline.label_groups import Group, alone, coloured, connected_parts, whole_labels
from pipeline.modulation import Jobs, ModulationSettings, enlarge, modulate, to_keep
from pipeline.upsampling import LabelledFrame, MapSettings, difference_map

#: Of the guided filter: source pixels on each side, and the variance of grey levels (0..1) below which it smooths.
EDGE_RADIUS = 4
EDGE_VARIANCE = 1e-2
#: From scaled latents (j, 4, h, w) to what is compared, (j, c, H, W) float32.
Images = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FastSettings:
    """Names are those of params.yaml, section `upsample`, without `fast_`.

    Attributes:
        guidance: of clean and modulated passes; None = that of the features.
        signs: `both`, or `plus`: I+ against the clean image.
        steps: how many steps are run from modulate_step on; the others are skipped, evenly.
        groups: what is modulated in one pass: `single` labels, `labels` that do not touch, or `parts`, connected
            parts of labels that do not touch.
        gap: tokens between what is modulated in one pass.
        decode: `full`; `box`: the box around what is modulated; `small`: by the small decoder; `latent`: not at all,
            differences of latents are enlarged along the image's edges.
        deep: `own`, or `clean`: after modulate_step all but the network's top level is the clean pass's.
    """

    guidance: float | None = 1.0
    signs: Literal["both", "plus"] = "both"
    steps: int = 2
    groups: Literal["single", "labels", "parts"] = "labels"
    gap: int = 2
    decode: Literal["full", "box", "small", "latent"] = "latent"
    deep: Literal["own", "clean"] = "clean"

    def diffusion(self, settings: DiffusionSettings, modulation: ModulationSettings) -> DiffusionSettings:
        """The diffusion of these passes: fewer steps, another guidance."""
        steps = range(modulation.modulate_step, settings.steps)
        kept = np.linspace(steps.start, steps[-1], min(self.steps, len(steps))).round().astype(int).tolist()
        skip = tuple(step for step in steps if step not in kept)
        guidance = settings.guidance if self.guidance is None else self.guidance
        return replace(settings, guidance=guidance, skip=skip)

    def regrouped(self, plane: np.ndarray) -> list[Group]:
        """The passes of one coarse map (h, w)."""
        if self.groups == "single":
            return alone(whole_labels(plane))
        return coloured(whole_labels(plane) if self.groups == "labels" else connected_parts(plane), self.gap)


@dataclass(frozen=True)
class GroupMap:
    """What one pass shows of one frame: the group, and its difference map D (H0, W0) float32, not normalised."""

    group: Group
    values: np.ndarray


def upsample_fast(
    backbone: Backbone,
    start: Tensor,
    coarse: np.ndarray,
    guides: np.ndarray,
    size: tuple[int, int],
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    settings: MapSettings,
    fast: FastSettings,
    batch: int,
    small: Images | None = None,
) -> Iterator[LabelledFrame]:
    """Labels of f frames at the source's size (H0, W0), frame by frame, as `pipeline.upsampling.upsample`.

    A label competes where its region is the nearest of those that were modulated with it.

    Args:
        start: (f, 4, h, w) noised latents.
        coarse: (f, h', w') refined labels.
        guides: (f, H, W, 3) uint8 frames, whose edges differences of latents follow.
        batch: modulated samples per pass.
        small: the small decoder; only needed where `decode` is `small`.

    Raises:
        DataError: what the network gives is not finite.
    """
    steps = fast.diffusion(diffusion, modulation)
    clean = clean_pass(backbone, start, steps, keep=fast_keep(modulation, steps, fast))
    for frame, plane in enumerate(coarse):
        groups = fast.regrouped(plane)
        latents = modulated_groups(backbone, clean, frame, groups, steps, modulation, fast, batch)
        shown = []
        pairs = compared(backbone, clean, frame, latents, groups, modulation, fast, small)
        for group, pair in zip(groups, pairs, strict=True):
            plus, minus = (image.cpu().numpy() for image in pair)
            if first_broken(np.stack([plus, minus])) is not None:
                raise broken_modulation(f"frame {frame} of this batch")
            values = difference_map(plus, minus, size, replace(settings, normalize=False))
            shown.append(GroupMap(group, _along_edges(values, guides[frame]) if fast.decode == "latent" else values))
        yield label_groups_frame(shown, plane, size, settings)


def fast_keep(modulation: ModulationSettings, steps: DiffusionSettings, fast: FastSettings) -> dict[int, Keep]:
    """What the clean pass keeps: step -> parts."""
    kept = to_keep(modulation, steps)
    if fast.deep == "own":
        return kept
    return {step: replace(parts, deep=parts.block is None) for step, parts in kept.items()}


def modulated_groups(
    backbone: Backbone,
    clean: CleanPass,
    frame: int,
    groups: Sequence[Group],
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    fast: FastSettings,
    batch: int,
) -> Tensor:
    """Final latents (g, signs, 4, h, w) of the groups of one frame; + first."""
    signs = [1.0, -1.0] if fast.signs == "both" else [1.0]
    masks = torch.from_numpy(np.stack([group.mask for group in groups])).float()
    jobs = Jobs(
        [frame] * (len(signs) * len(groups)),
        [place for place in range(len(groups)) for _ in signs],
        torch.tensor(signs).repeat(len(groups)),
        masks.repeat_interleave(len(signs), dim=0),
    )
    final = modulate(backbone, clean, jobs, diffusion, modulation, batch).final
    return final.unflatten(0, (len(groups), len(signs)))


def compared(
    backbone: Backbone,
    clean: CleanPass,
    frame: int,
    latents: Tensor,
    groups: Sequence[Group],
    modulation: ModulationSettings,
    fast: FastSettings,
    small: Images | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What is compared for each group of a frame: I+ and I- (or the clean image), or latents; each (c, H, W) float32.

    Args:
        latents: (g, signs, 4, h, w), from `modulated_groups`.
    """
    reference = clean.final[frame : frame + 1]
    if fast.decode == "box":
        yield from _boxes(backbone, reference, latents, groups, modulation)
        return
    images = {"full": backbone.decode, "small": small, "latent": _unchanged}[fast.decode]
    assert images is not None, "decode = small needs the small decoder"
    last = images(reference) if fast.signs == "plus" else None
    for of_group in latents:
        shown = images(of_group)
        yield shown[0], (shown if last is None else last)[-1]


def _unchanged(latents: Tensor) -> Tensor:
    return latents


def _boxes(
    backbone: Backbone, clean: Tensor, latents: Tensor, groups: Sequence[Group], modulation: ModulationSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """I+ and I- inside the box around what is modulated; the clean image outside."""
    assert isinstance(backbone, DecodesParts), f"{backbone.name} decodes whole images only"
    decoder = backbone.part_decoder(clean)
    masks = enlarge(
        torch.from_numpy(np.stack([group.mask for group in groups])), latents.shape[-2:], modulation.mask_resize
    )
    for of_group, mask in zip(latents, masks, strict=True):
        box = Box.around(mask)
        pixels = box.scaled(backbone.latent_stride)
        plus, minus = (decoder.whole[0].clone() for _ in range(2))
        for image, variant in zip((plus, minus), of_group, strict=False):  # minus stays the clean image without one
            pixels.of(image)[:] = decoder.part(variant, box)
        yield plus, minus


def _along_edges(values: np.ndarray, guide: np.ndarray) -> np.ndarray:
    image = maps.resize_image(guide, values.shape)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    largest = float(values.max())
    if largest == 0:
        return values
    return np.maximum(guided_filter(values / largest, grey, EDGE_RADIUS, EDGE_VARIANCE), 0) * largest


def label_groups_frame(
    shown: Sequence[GroupMap], plane: np.ndarray, size: tuple[int, int], settings: MapSettings
) -> LabelledFrame:
    """Section 3.2 and Eq. 7 where each pixel of a pass shows one label: the largest value wins.

    Args:
        shown: the passes of a frame.
        plane: its coarse map (h, w).
    """
    labels = np.unique(plane)
    owners = [_nearest(np.searchsorted(labels, part.group.owners), size) for part in shown]
    largest = np.zeros(len(labels), np.float32)
    for part, owner in zip(shown, owners, strict=True):
        for place in np.unique(owner):
            largest[place] = max(largest[place], part.values.max(where=owner == place, initial=0))
    winner = maps.RunningArgmax.empty(size)
    differences = np.zeros((len(labels), *size), np.float32)
    masks = np.stack([maps.resize_mask(plane == label, size, settings.filter_resize) for label in labels])
    for part, owner in zip(shown, owners, strict=True):
        values = part.values / (largest[owner] + np.float32(maps.EPSILON)) if settings.normalize else part.values
        inside = np.take_along_axis(masks, owner[None], axis=0)[0]
        winner.add(labels[owner], maps.filtered(values, inside, settings.filter))
        np.put_along_axis(differences, owner[None], values[None], axis=0)
    return LabelledFrame(winner.labels, dict(zip(labels.tolist(), differences, strict=True)))


def _nearest(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    enlarged = cv2.resize(plane.astype(np.int32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return enlarged.astype(np.int64)
