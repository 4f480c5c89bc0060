"""What a clip asks of a video model, counted by the real code on torch's meta device.

Every step costs the same, so one is counted and multiplied: all of them would take minutes even without arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Conditioning
from pipeline.cost import Workload, flops_of, peak_of
from pipeline.diffusion import DiffusionSettings, clean_pass, condition
from pipeline.extraction import extract, latent_shape
from pipeline.modulation import ModulationSettings, modulate, to_keep
from pipeline.window_upsampling import window_jobs


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
    conditioning, conditioned = flops_of(lambda: _conditioned(outline, load))
    start = _latents(outline, load)
    encoding, denoising = encoded_flops(outline, load), denoised_flops(outline, load)
    found = {"extract": {"encode": encoding + conditioned / window, "denoise": steps * denoising / window}}
    if load.modulation is not None:
        last, modulation = _last_steps(load, 1)
        keep = to_keep(modulation, last)
        clean, kept = flops_of(lambda: clean_pass(outline, start, last, keep=keep, conditioning=conditioning))
        jobs = window_jobs(_planes(outline, load))[:window]
        _, varied = flops_of(lambda: modulate(outline, clean, jobs, last, modulation, window))
        repeated = load.diffusion.steps - load.modulation.modulate_step
        decoding = decoded_flops(outline, load)
        found["upsample"] = {
            "denoise": (steps * kept + 2 * load.labels * repeated * varied + conditioned) / window,
            "decode": 2 * load.labels * decoding,
        }
    return found


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
    conditioning, last = _conditioned(outline, load), _last_steps(load, 1)[0]
    return flops_of(lambda: clean_pass(outline, _latents(outline, load), last, conditioning=conditioning))[1]


def decoded_flops(outline: Backbone, load: Workload) -> float:
    """Of decoding one frame as the workload says."""
    latents = _latents(outline, load)[: load.together]
    return flops_of(lambda: outline.decode(latents, load.together))[1] / load.together


def peak_bytes(outline: Backbone, load: Workload) -> dict[str, int]:
    """Bytes of tensors that are alive at once in the stages that run a backbone, beside the weights."""
    window = _window(load)
    last = _last_steps(load, 1)[0]
    rules = replace(load.extraction, feature_step=last.start_step)
    found = {"extract": peak_of(lambda: extract(outline, _frames(load, window), range(window), last, rules))}
    if load.modulation is not None:
        one, two = (peak_of(lambda count=count: _modulated(outline, load, count)) for count in (1, 2))  # type: ignore[misc]
        # Each step keeps the same for the modulated passes.
        steps = load.diffusion.steps - load.modulation.modulate_step
        found["upsample"] = one + (steps - 1) * (two - one)
    return found


def _modulated(outline: Backbone, load: Workload, steps: int) -> Tensor:
    """One pass of modulated windows through the last steps, decoded."""
    window = _window(load)
    last, modulation = _last_steps(load, steps)
    clean = clean_pass(
        outline, _latents(outline, load), last, keep=to_keep(modulation, last), conditioning=_conditioned(outline, load)
    )
    batch = max(1, load.samples // window) * window
    jobs = window_jobs(_planes(outline, load))[:batch]
    final = modulate(outline, clean, jobs, last, modulation, batch).final
    return outline.decode(final[: load.together], load.together)


def _last_steps(load: Workload, steps: int) -> tuple[DiffusionSettings, ModulationSettings]:
    """The settings as if these were the only steps, modulated at the first."""
    first = load.diffusion.steps - steps
    modulation = load.modulation or ModulationSettings()
    return (
        replace(load.diffusion, start_step=first),
        replace(modulation, modulate_step=first, blend_last_step=load.diffusion.steps - 1),
    )


def _conditioned(outline: Backbone, load: Workload) -> Conditioning:
    return condition(outline, _frames(load, 1)[0], 0, load.diffusion)


def _frames(load: Workload, count: int) -> np.ndarray:
    return np.zeros((count, *load.size, 3), np.uint8)


def _latents(outline: Backbone, load: Workload) -> Tensor:
    return torch.empty(_window(load), *latent_shape(outline, load.size), device=outline.device)


def _planes(outline: Backbone, load: Workload) -> Tensor:
    """Coarse maps in which every label is present."""
    assert load.modulation is not None
    height, width, _ = outline.token_shape(load.modulation.block, load.size)
    plane = torch.arange(height * width).reshape(1, height, width) % load.labels
    return plane.expand(_window(load), -1, -1)


def _window(load: Workload) -> int:
    assert load.window is not None, "an image model sees frames alone"
    return load.window
