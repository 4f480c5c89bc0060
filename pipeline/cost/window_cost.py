"""What a clip asks of a video model, counted by the real code on torch's meta device.

Every step costs the same, so one is counted and multiplied: all of them would take minutes even without arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Conditioning
from pipeline.cost.counting import Workload, flops_of, peak_of, segment_map
from pipeline.features.diffusion import DiffusionSettings, clean_pass, condition
from pipeline.features.extraction import extract, latent_shape
from pipeline.upsampling.label_groups import Group
from pipeline.upsampling.modulation import ModulationSettings, steps_from
from pipeline.upsampling.upsample import EXACT, FastSettings, compared, fast_keep, modulated_groups


@dataclass(frozen=True)
class PlainSchedule:
    """A window by the plain schedule: every label and sign runs all steps, nothing is shared.

    Attributes:
        denoiser_calls: on both halves of the window.
        encoded, decoded: frames, with the conditioning frame and the unmodulated ones.
        flops: of all of it.
    """

    denoiser_calls: int
    encoded: int
    decoded: int
    flops: float


def flops_per_frame(outline: Backbone, load: Workload) -> dict[str, dict[str, float]]:
    """Floating-point operations of the stages that run a backbone: stage -> operation -> per frame of a window."""
    window, steps = _window(load), len(load.diffusion.remaining())
    _, conditioned = flops_of(lambda: _conditioned(outline, load))
    encoding, denoising = encoded_flops(outline, load), denoised_flops(outline, load)
    found = {"extract": {"encode": encoding + conditioned / window, "denoise": steps * denoising / window}}
    if load.modulation is not None:
        fast = load.fast or EXACT
        groups, signs = _groups(outline, load, fast), len(fast.directions)
        settings = fast.diffusion(load.diffusion, load.modulation)
        repeated = len(steps_from(load.modulation.modulate_step, settings))
        before = len(settings.remaining()) - repeated
        whole = denoised_flops(outline, replace(load, diffusion=settings)) if before else 0.0
        counted = cache(lambda count: _counted(outline, load, count))
        kept = _sum(repeated, lambda count: counted(count).kept)
        varied = _sum(repeated, lambda count: counted(count).varied)
        found["upsample"] = {
            "denoise": (conditioned + before * whole + kept + len(groups) * signs * varied) / window,
            "decode": _compared_flops(outline, load, fast, groups),
        }
    return found


def _sum(count: int, of_first: Callable[[int], float]) -> float:
    """Of so many, of which all but the first are equal: `of_first(k)` is of the first k."""
    one = of_first(1)
    return one if count == 1 else one + (count - 1) * (of_first(2) - one)


def plain_schedule(outline: Backbone, load: Workload) -> PlainSchedule:
    """A window of this workload by the plain schedule, as the authors' code runs it."""
    window, steps = _window(load), len(load.diffusion.remaining())
    calls = steps * (1 + 2 * load.labels)
    encoded, decoded = window + 1, window * (1 + 2 * load.labels)
    flops = (
        calls * denoised_flops(outline, load)
        + encoded * encoded_flops(outline, load)
        + decoded * decoded_flops(outline, load)
    )
    return PlainSchedule(calls, encoded, decoded, flops)


def encoded_flops(outline: Backbone, load: Workload) -> float:
    """Of encoding one frame."""
    return flops_of(lambda: outline.encode(_frames(load, 1)))[1]


def denoised_flops(outline: Backbone, load: Workload) -> float:
    """Of one step of a window, all its halves."""
    conditioning = _conditioned(outline, load)
    last = replace(load.diffusion, start_step=load.diffusion.steps - 1, skip=())
    return flops_of(lambda: clean_pass(outline, _latents(outline, load), last, conditioning=conditioning))[1]


def decoded_flops(outline: Backbone, load: Workload) -> float:
    """Of decoding one frame as the workload says."""
    latents = _latents(outline, load)[: load.together]
    return flops_of(lambda: outline.decode(latents, load.together))[1] / load.together


def peak_bytes(outline: Backbone, load: Workload) -> dict[str, int]:
    """Bytes of tensors that are alive at once in the stages that run a backbone, beside the weights."""
    window = _window(load)
    last = _last_steps(load, EXACT, 1)[0]
    rules = replace(load.extraction, feature_step=last.start_step)
    found = {"extract": peak_of(lambda: extract(outline, _frames(load, window), range(window), last, rules))}
    if load.modulation is not None:
        fast = load.fast or EXACT
        groups = _groups(outline, load, fast)
        settings = fast.diffusion(load.diffusion, load.modulation)
        # Each step keeps the same for the modulated passes.
        found["upsample"] = int(
            _sum(
                len(steps_from(load.modulation.modulate_step, settings)),
                lambda count: peak_of(lambda: _upsampled(outline, load, fast, groups, count)),
            )
        )
    return found


@dataclass(frozen=True)
class _Counted:
    """Operations of the last steps of a window.

    Attributes:
        kept: of the clean pass.
        varied: of one group with one sign.
    """

    kept: float
    varied: float


def _counted(outline: Backbone, load: Workload, steps: int) -> _Counted:
    fast = replace(load.fast or EXACT, signs="plus")
    last, modulation = _last_steps(load, fast, steps)
    start, conditioning = _latents(outline, load), _conditioned(outline, load)
    keep = fast_keep(modulation, last, fast)
    clean, kept = flops_of(lambda: clean_pass(outline, start, last, keep=keep, conditioning=conditioning))
    groups, frames = _groups(outline, load, fast)[:1], range(_window(load))
    _, varied = flops_of(lambda: modulated_groups(outline, clean, frames, groups, last, modulation, fast, len(frames)))
    return _Counted(kept, varied)


def _compared_flops(outline: Backbone, load: Workload, fast: FastSettings, groups: list[Group]) -> float:
    """Of what is compared in one frame."""
    assert load.modulation is not None
    modulation, frames = load.modulation, range(load.together)

    def of(count: int) -> float:
        latents = _latents(outline, load).expand(count, len(fast.directions), -1, -1, -1, -1)
        arguments = latents, groups[:count], modulation, fast, load.decode, load.small_decoder(outline.device)
        return flops_of(lambda: list(compared(outline, _latents(outline, load), frames, *arguments)))[1] / len(frames)

    # Boxes differ in size.
    return of(len(groups)) if fast.decode == "box" else _sum(len(groups), of)


def _upsampled(outline: Backbone, load: Workload, fast: FastSettings, groups: list[Group], steps: int) -> None:
    """One pass of modulated windows through the last steps, compared in one frame."""
    window = range(_window(load))
    last, modulation = _last_steps(load, fast, steps)
    clean = clean_pass(
        outline, _latents(outline, load), last, keep=fast_keep(modulation, last, fast),
        conditioning=_conditioned(outline, load),
    )  # fmt: skip
    together = groups[: max(1, load.samples // len(window) // len(fast.directions))]
    latents = modulated_groups(outline, clean, window, together, last, modulation, fast, load.samples)
    frames, small = window[: load.together], load.small_decoder(outline.device)
    for _ in compared(outline, clean.final, frames, latents, together, modulation, fast, load.decode, small):
        pass


def _last_steps(load: Workload, fast: FastSettings, steps: int) -> tuple[DiffusionSettings, ModulationSettings]:
    """The settings as if these were the only steps, modulated at the first."""
    first, modulation = load.diffusion.steps - steps, load.modulation or ModulationSettings()
    modulation = replace(modulation, modulate_step=first, blend_last_step=load.diffusion.steps - 1)
    every = replace(fast, steps=EXACT.steps)
    return every.diffusion(replace(load.diffusion, start_step=first), modulation), modulation


def _groups(outline: Backbone, load: Workload, fast: FastSettings) -> list[Group]:
    """The passes of a window whose frames all have the same segments."""
    plane = segment_map(outline, load)
    return fast.regrouped(np.broadcast_to(plane, (_window(load), *plane.shape)))


def _conditioned(outline: Backbone, load: Workload) -> Conditioning:
    return condition(outline, _frames(load, 1)[0], 0, load.diffusion)


def _frames(load: Workload, count: int) -> np.ndarray:
    return np.zeros((count, *load.size, 3), np.uint8)


def _latents(outline: Backbone, load: Workload) -> Tensor:
    return torch.empty(_window(load), *latent_shape(outline, load.size), device=outline.device)


def _window(load: Workload) -> int:
    assert load.window is not None, "an image model sees frames alone"
    return load.window
