"""Full-resolution labels by masked modulation: exact, or approximated as the group `upsample.fast` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import UNCONDITIONED, Backbone, Conditioning
from pipeline.features.diffusion import clean_pass
from pipeline.upsampling.difference import difference_map, resize_image
from pipeline.upsampling.guided_filter import GuidedFilter
from pipeline.upsampling.labelling import GroupMap, LabelledFrame, label_frame
from pipeline.upsampling.modulation import to_share
from pipeline.upsampling.responses import Passes, Response, responses
from pipeline.upsampling.rules import Rules

#: For the guided filter: source pixels on each side, and the variance of grey levels (0..1) below which it smooths.
EDGE_RADIUS = 4
EDGE_VARIANCE = 1e-2


@dataclass(frozen=True)
class Inputs:
    """What the f frames of a pass are upsampled from.

    Attributes:
        start: (f, 4, h, w) noised latents.
        coarse: (f, h', w') refined labels.
        guides: (f, H, W, 3) uint8 frames, whose edges differences of latents follow.
        conditioning: of a video model's window.
    """

    start: Tensor
    coarse: np.ndarray
    guides: np.ndarray
    conditioning: Conditioning = UNCONDITIONED

    def __getitem__(self, part: slice) -> Inputs:
        return Inputs(self.start[part], self.coarse[part], self.guides[part], self.conditioning)


@torch.inference_mode()
def upsample(
    backbone: Backbone, inputs: Inputs, size: tuple[int, int], rules: Rules, passes: Passes
) -> Iterator[LabelledFrame]:
    """Labels of the frames that are asked for at the source's size (H0, W0), frame by frame.

    A label competes where its region is the nearest of those that were modulated with it. A label that is absent from
    a frame's coarse map never competes there; a frame of one label has just that.

    Raises:
        DataError: what the network gives is not finite.
    """
    clean = clean_pass(
        backbone,
        inputs.start,
        rules.denoising,
        share=to_share(rules),
        conditioning=inputs.conditioning,
        skip=rules.skip,
    )
    waiting = list(range(passes.first, len(inputs.coarse)))
    shown: dict[int, list[GroupMap]] = {frame: [] for frame in waiting}
    for response in responses(backbone, clean, inputs.coarse, rules, passes):
        shown[response.frame].append(shown_map(response, inputs.guides[response.frame], size, rules))
        while waiting and _covers(shown[waiting[0]]):
            frame = waiting.pop(0)
            yield label_frame(shown.pop(frame), inputs.coarse[frame], size, rules.upsample)


def _covers(shown: list[GroupMap]) -> bool:
    """Whether groups that share no token hold all tokens of their frame."""
    return bool(shown) and sum(int(part.group.mask.sum()) for part in shown) == shown[0].group.mask.size


def shown_map(response: Response, guide: np.ndarray, size: tuple[int, int], rules: Rules) -> GroupMap:
    """The difference map of a response at the source's size; `guide` is the frame (H, W, 3) uint8."""
    plus, minus = response.plus.cpu().numpy(), response.minus.cpu().numpy()
    values = difference_map(plus, minus, size, rules.upsample.parity)
    return GroupMap(response.group, _along_edges(values, guide) if rules.fast.decode == "latent" else values)


def _along_edges(values: np.ndarray, guide: np.ndarray) -> np.ndarray:
    image = resize_image(guide, values.shape)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    largest = float(values.max())
    if largest == 0:
        return values
    return np.maximum(GuidedFilter(grey, EDGE_RADIUS, EDGE_VARIANCE)(values / largest), 0) * largest
