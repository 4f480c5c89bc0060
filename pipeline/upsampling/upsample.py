"""Full-resolution labels by masked modulation at a fraction of its cost: approximations, each a setting of its own.

The exact way is `pipeline.upsampling.exact`, or `pipeline.upsampling.windows` for a video model's windows.
docs/explanation/performance.md has what each setting saves and changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import UNCONDITIONED, Backbone, Box, Conditioning, DecodesParts, Keep
from pipeline.features.diffusion import CleanPass, DiffusionSettings, clean_pass
from pipeline.finite import broken_modulation, first_broken
from pipeline.upsampling import difference as maps
from pipeline.upsampling.difference import MapSettings, difference_map
from pipeline.upsampling.exact import LabelledFrame
from pipeline.upsampling.guided_filter import guided_filter
from pipeline.upsampling.label_groups import Group, alone, coloured, connected_parts, whole_labels
from pipeline.upsampling.modulation import Jobs, ModulationSettings, batches, enlarge, modulate, to_keep
from pipeline.upsampling.windows import WindowPasses, decoded

#: Of the guided filter: source pixels on each side, and the variance of grey levels (0..1) below which it smooths.
EDGE_RADIUS = 4
EDGE_VARIANCE = 1e-2
#: From scaled latents (j, 4, h, w) to what is compared, (j, c, H, W) float32.
Images = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FastSettings:
    """Names are those of params.yaml, section `upsample`, without `fast_`.

    Attributes:
        guidance: of clean and modulated passes, a video model's at a window's last frame; None = that of the features.
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

    @property
    def directions(self) -> tuple[float, ...]:
        """The signs of the offset with which a group is modulated, + first."""
        return (1.0, -1.0) if self.signs == "both" else (1.0,)

    def diffusion(self, settings: DiffusionSettings, modulation: ModulationSettings) -> DiffusionSettings:
        """The diffusion of these passes: fewer steps, another guidance."""
        steps = range(modulation.modulate_step, settings.steps)
        kept = np.linspace(steps.start, steps[-1], min(self.steps, len(steps))).round().astype(int).tolist()
        skip = tuple(step for step in steps if step not in kept)
        guidance = settings.guidance if self.guidance is None else self.guidance
        return replace(settings, guidance=guidance, skip=skip)

    def regrouped(self, planes: np.ndarray) -> list[Group]:
        """The passes of coarse maps (f, h, w) that are modulated together."""
        if self.groups == "single":
            return alone(whole_labels(planes))
        return coloured(whole_labels(planes) if self.groups == "labels" else connected_parts(planes), self.gap)


#: Nothing is approximated: what the exact mode computes.
EXACT = FastSettings(None, "both", sys.maxsize, "single", 1, "full", "own")


@dataclass(frozen=True)
class GroupMap:
    """What one pass shows of one frame: the group, and its difference map D (H0, W0) float32, not normalised."""

    group: Group
    values: np.ndarray


@dataclass(frozen=True)
class Response:
    """What is compared of one group in one frame.

    Attributes:
        frame: place among the frames that are modulated together.
        group: of that frame, (h, w).
        plus, minus: I+ and I- (or the clean image), or latents; each (c, H, W) float32.
    """

    frame: int
    group: Group
    plus: Tensor
    minus: Tensor


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
    passes: WindowPasses,
    small: Images | None = None,
    conditioning: Conditioning = UNCONDITIONED,
) -> Iterator[LabelledFrame]:
    """Labels of the chosen ones of f frames at the source's size (H0, W0), frame by frame, as the exact mode.

    A label competes where its region is the nearest of those that were modulated with it. A label that is absent from
    a frame's coarse map never competes there.

    Args:
        start: (f, 4, h, w) noised latents, a video model's of one window.
        coarse: (f, h', w') refined labels.
        guides: (f, H, W, 3) uint8 frames, whose edges differences of latents follow.
        passes: of an image model all frames are chosen.
        small: the small decoder; only needed where `decode` is `small`.
        conditioning: of a video model's window.

    Raises:
        DataError: what the network gives is not finite.
    """
    steps = fast.diffusion(diffusion, modulation)
    keep = fast_keep(modulation, steps, fast)
    clean = clean_pass(backbone, start, steps, keep=keep, conditioning=conditioning)
    for frames in together(backbone, len(coarse)):
        planes = coarse[frames.start : frames.stop]
        chosen = passes.chosen(len(frames))
        groups = [group for group in fast.regrouped(planes) if group.mask[chosen].any()]
        latents = modulated_groups(backbone, clean, frames, groups, steps, modulation, fast, passes.batch)
        shown: dict[int, list[GroupMap]] = {frame: [] for frame in chosen}
        reference = clean.final[frames.start : frames.stop]
        for response in compared(backbone, reference, chosen, latents, groups, modulation, fast, passes.decode, small):
            plus, minus = (image.cpu().numpy() for image in (response.plus, response.minus))
            if first_broken(np.stack([plus, minus])) is not None:
                raise broken_modulation(f"frame {frames[response.frame]} of this batch")
            values = difference_map(plus, minus, size, replace(settings, normalize=False))
            if fast.decode == "latent":
                values = _along_edges(values, guides[frames[response.frame]])
            shown[response.frame].append(GroupMap(response.group, values))
        yield from (label_groups_frame(shown[frame], planes[frame], size, settings) for frame in chosen)


def together(backbone: Backbone, frames: int) -> list[range]:
    """The frames that are modulated together: each alone, or a video model's window."""
    return [range(frames)] if backbone.window > 1 else [range(frame, frame + 1) for frame in range(frames)]


def fast_keep(modulation: ModulationSettings, steps: DiffusionSettings, fast: FastSettings) -> dict[int, Keep]:
    """What the clean pass keeps: step -> parts."""
    kept = to_keep(modulation, steps)
    if fast.deep == "own":
        return kept
    return {step: replace(parts, deep=parts.block is None) for step, parts in kept.items()}


def modulated_groups(
    backbone: Backbone,
    clean: CleanPass,
    frames: Sequence[int],
    groups: Sequence[Group],
    diffusion: DiffusionSettings,
    modulation: ModulationSettings,
    fast: FastSettings,
    batch: int,
) -> Tensor:
    """Final latents (g, signs, f, 4, h, w) of the groups of f frames that are modulated together; + first."""
    signs, count = fast.directions, len(frames)
    per_group = len(signs) * count
    masks = torch.from_numpy(np.stack([group.mask for group in groups])).float()
    jobs = Jobs(
        [*frames] * (len(signs) * len(groups)),
        [place for place in range(len(groups)) for _ in range(per_group)],
        torch.tensor(signs).repeat_interleave(count).repeat(len(groups)),
        masks.repeat_interleave(len(signs), dim=0).flatten(0, 1),
    )
    per_pass = max(1, batch // count) * count
    # What jobs of a frame share an image model computes once per call; of a window's jobs nothing more is shared.
    calls = [jobs] if backbone.window == 1 else [jobs[part] for part in batches(len(jobs), per_pass)]
    final = [modulate(backbone, clean, part, diffusion, modulation, per_pass).final for part in calls]
    return torch.cat(final).unflatten(0, (len(groups), len(signs), count))


def compared(
    backbone: Backbone,
    reference: Tensor,
    frames: Sequence[int],
    latents: Tensor,
    groups: Sequence[Group],
    modulation: ModulationSettings,
    fast: FastSettings,
    decode: str,
    small: Images | None,
) -> Iterator[Response]:
    """What is compared of each group, in each of the chosen frames in which it has tokens.

    Args:
        reference: (f, 4, h, w) the clean pass's final latents.
        frames: those that are chosen of the f.
        latents: (g, signs, f, 4, h, w), from `modulated_groups`.
        decode: of full images, as in `WindowPasses`.
    """
    if fast.decode == "box":
        yield from _boxes(backbone, reference, frames, latents, groups, modulation)
        return

    def images(windows: Tensor, wanted: Sequence[int]) -> Iterator[Tensor]:
        if fast.decode == "full":
            return decoded(backbone, windows, wanted, decode)
        if fast.decode == "latent":
            return (windows[:, frame] for frame in wanted)
        assert small is not None, "decode = small needs the small decoder"
        return (small(windows[:, frame]) for frame in wanted)

    clean = dict(zip(frames, images(reference[None], frames), strict=True)) if fast.signs == "plus" else None
    for group, of_group in zip(groups, latents, strict=True):
        present = [frame for frame in frames if group.mask[frame].any()]
        for frame, shown in zip(present, images(of_group, present), strict=True):
            minus = shown[-1] if clean is None else clean[frame][0]
            yield Response(frame, group[frame], shown[0], minus)


def _boxes(
    backbone: Backbone,
    reference: Tensor,
    frames: Sequence[int],
    latents: Tensor,
    groups: Sequence[Group],
    modulation: ModulationSettings,
) -> Iterator[Response]:
    """I+ and I- inside the box around what is modulated; the clean image outside."""
    assert isinstance(backbone, DecodesParts), f"{backbone.name} decodes whole images only"
    for frame in frames:
        decoder = backbone.part_decoder(reference[frame : frame + 1])
        for group, variants in zip(groups, latents[:, :, frame], strict=True):
            if not group.mask[frame].any():
                continue
            mask = torch.from_numpy(group.mask[frame])[None]
            box = Box.around(enlarge(mask, latents.shape[-2:], modulation.mask_resize)[0])
            pixels = box.scaled(backbone.latent_stride)
            plus, minus = (decoder.whole[0].clone() for _ in range(2))
            for image, variant in zip((plus, minus), variants, strict=False):  # minus stays the clean image without one
                pixels.of(image)[:] = decoder.part(variant, box)
            yield Response(frame, group[frame], plus, minus)


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
