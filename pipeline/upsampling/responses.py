"""What modulation makes of images: I+ and I- of every label, in every frame (paper section 4.3).

docs/explanation/performance.md has what each approximation of `upsample.fast` saves and changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Box, DecodesParts
from pipeline.features.diffusion import CleanPass
from pipeline.finite import broken_modulation
from pipeline.upsampling.label_groups import Group, grouped
from pipeline.upsampling.modulation import Jobs, enlarge, modulate
from pipeline.upsampling.rules import Rules

#: From scaled latents (j, 4, h, w) to what is compared, (j, c, H, W) float32.
Images = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Passes:
    """How a pass of frames is worked off.

    Attributes:
        batch: modulated frames per pass of the network: whole windows, one at least.
        together: frames of a window; those of a pass are whole windows.
        first: position in the pass from which on frames are asked for.
        small: the small decoder; only needed where `fast.decode` is `small`.
    """

    batch: int
    together: int = 1
    first: int = 0
    small: Images | None = None


@dataclass(frozen=True)
class Window:
    """Frames that are modulated together.

    Attributes:
        frames: their positions in the pass.
        asked: positions in the window of the frames that are asked for.
        groups: what is modulated, each (w, h, w').
    """

    frames: range
    asked: range
    groups: Sequence[Group]


@dataclass(frozen=True)
class Response:
    """What is compared of one group in one frame.

    Attributes:
        frame: position in the pass.
        group: of that frame, (h, w).
        plus, minus: I+ and I- (or the clean image), or latents; each (c, H, W) float32.
    """

    frame: int
    group: Group
    plus: Tensor
    minus: Tensor


@torch.inference_mode()
def responses(
    backbone: Backbone, clean: CleanPass, coarse: np.ndarray, rules: Rules, passes: Passes
) -> Iterator[Response]:
    """What is compared of every group in each frame that is asked for and has tokens of it.

    Args:
        clean: the clean pass of f frames, sharing what `to_share` says.
        coarse: (f, h', w') refined labels.

    Raises:
        DataError: what the network gives is not finite.
    """
    windows = windows_of(coarse, rules, passes)
    for part in calls(windows, rules, passes.batch):
        latents = modulated(backbone, clean, windows[part], rules, passes.batch)
        for window, of_window in zip(windows[part], latents, strict=True):
            reference = clean.final[window.frames.start : window.frames.stop]
            for response in compared(backbone, reference, window, of_window, rules, passes.small):
                if not all(bool(torch.isfinite(image).all()) for image in (response.plus, response.minus)):
                    raise broken_modulation(f"frame {response.frame} of this batch")
                yield response


def windows_of(coarse: np.ndarray, rules: Rules, passes: Passes) -> list[Window]:
    """The windows of a pass with coarse maps (f, h', w'), as far as frames of them are asked for."""
    windows = []
    for start in range(0, len(coarse), passes.together):
        planes = coarse[start : start + passes.together]
        asked = range(min(max(0, passes.first - start), len(planes)), len(planes))
        groups = [group for group in grouped(planes, rules.fast) if group.mask[asked].any()]
        if groups:
            windows.append(Window(range(start, start + len(planes)), asked, groups))
    return windows


def calls(windows: Sequence[Window], rules: Rules, batch: int) -> Iterator[slice]:
    """Consecutive windows that are modulated in one call: at least a batch, while there are so many."""
    first, frames = 0, 0
    for place, window in enumerate(windows, 1):
        frames += len(window.groups) * len(rules.directions) * len(window.frames)
        if frames >= batch or place == len(windows):
            yield slice(first, place)
            first, frames = place, 0


def modulated(
    backbone: Backbone, clean: CleanPass, windows: Sequence[Window], rules: Rules, batch: int
) -> list[Tensor]:
    """Final latents (g, signs, w, 4, h, w) of each window's groups; + first.

    Args:
        batch: modulated frames per pass of the network, if they are no less than a window.
    """
    signs = torch.tensor(rules.directions)
    frames: list[int] = []
    masks = []
    for window in windows:
        frames += [*window.frames] * (len(signs) * len(window.groups))
        of_window = torch.from_numpy(np.stack([group.mask for group in window.groups])).float()
        masks.append(of_window.repeat_interleave(len(signs), dim=0).flatten(0, 1))
    together = len(windows[0].frames)
    in_order = signs.repeat_interleave(together).repeat(len(frames) // (len(signs) * together))
    jobs = Jobs(frames, in_order, torch.cat(masks))
    per_pass = max(1, batch // together) * together
    for step in modulate(backbone, clean, jobs, rules, per_pass):
        final = step.latents
    sizes = [len(of_window) for of_window in masks]
    return [
        latents.unflatten(0, (len(window.groups), len(signs), together))
        for window, latents in zip(windows, final.split(sizes), strict=True)
    ]


def compared(
    backbone: Backbone, reference: Tensor, window: Window, latents: Tensor, rules: Rules, small: Images | None
) -> Iterator[Response]:
    """What is compared of each group, in each of the frames that are asked for and in which it has tokens.

    Args:
        reference: (w, 4, h, w) the clean pass's final latents.
        latents: (g, signs, w, 4, h, w), from `modulated`.
    """
    if rules.upsample.video.decode == "joint":
        return _windows_together(backbone, reference, window, latents, rules)
    if rules.fast.decode == "box":
        return _boxes(backbone, reference, window, latents, rules)
    if rules.fast.decode == "full":
        return _frames_alone(backbone.decode, reference, window, latents, rules)
    if rules.fast.decode == "latent":
        return _frames_alone(lambda given: given, reference, window, latents, rules)
    assert small is not None, "decode = small needs the small decoder"
    return _frames_alone(small, reference, window, latents, rules)


def _frames_alone(
    images: Images, reference: Tensor, window: Window, latents: Tensor, rules: Rules
) -> Iterator[Response]:
    for place in window.asked:
        clean = list(images(reference[place : place + 1])) if rules.fast.signs == "plus" else []
        for group, of_group in zip(window.groups, latents[:, :, place], strict=True):
            if group.mask[place].any():
                plus, minus = [*images(of_group), *clean]
                yield Response(window.frames[place], group[place], plus, minus)


def _windows_together(
    backbone: Backbone, reference: Tensor, window: Window, latents: Tensor, rules: Rules
) -> Iterator[Response]:
    def decoded(frames: Tensor) -> Tensor:
        return backbone.decode(frames, together=len(frames))

    clean = [decoded(reference)] if rules.fast.signs == "plus" else []
    for group, of_group in zip(window.groups, latents, strict=True):
        plus, minus = [*map(decoded, of_group), *clean]
        for place in window.asked:
            if group.mask[place].any():
                yield Response(window.frames[place], group[place], plus[place], minus[place])


def _boxes(backbone: Backbone, reference: Tensor, window: Window, latents: Tensor, rules: Rules) -> Iterator[Response]:
    """I+ and I- inside the box around what is modulated; the clean image outside."""
    assert isinstance(backbone, DecodesParts), f"{backbone.name} decodes whole images only"
    for place in window.asked:
        decoder = backbone.part_decoder(reference[place : place + 1])
        for group, variants in zip(window.groups, latents[:, :, place], strict=True):
            if not group.mask[place].any():
                continue
            mask = torch.from_numpy(group.mask[place])[None]
            box = Box.around(enlarge(mask, latents.shape[-2:], rules.upsample.parity.mask_resize)[0])
            pixels = box.scaled(backbone.latent_stride)
            plus, minus = (decoder.whole[0].clone() for _ in range(2))
            for image, variant in zip((plus, minus), variants, strict=False):  # minus stays the clean image without one
                pixels.of(image)[:] = decoder.part(variant, box)
            yield Response(window.frames[place], group[place], plus, minus)
