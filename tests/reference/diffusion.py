"""Rules of the recorded arrays of steps 1-3 and 6: latents, denoising, features, modulation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch

from pipeline.backbone import Offset, Tap
from pipeline.backbone.attention import recorded
from pipeline.features.diffusion import add_noise, conditional_half
from pipeline.features.extraction import aggregate, max_abs_normalize
from pipeline.features.noise import batch_noise
from pipeline.upsampling.modulation import Jobs, ModulatedStep, modulate
from pipeline.upsampling.rules import Rules
from tests.reference.cases import Case, Rule, Vectors, within
from tests.support.params import changed

#: Deviations from the released rules that have a recorded array of their own.
VARIANTS: dict[str, dict[str, object]] = {
    "bilinear_blend": {"mask_resize": "bilinear"},
    "offset_before_projection": {"offset": "inside"},
    "no_blend": {"blend": False},
    "blend_all_steps": {"blend_last_step": -1},
    "no_injection": {"inject": False},
}
SIGNS = {"pos": 1.0, "neg": -1.0}


# --- steps 1-3


def noise(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    draws = batch_noise(case.meta["seed"], case.latent_shape)
    return (draws.posterior if match[0] == "posterior_noise" else draws.epsilon).numpy()


def latent(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    frames = case.vectors.network_frames[case.frames(index)]
    return case.vectors.backbone.encode(frames, case.tensor("posterior_noise")).numpy()


def x_start(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    latents, epsilon = case.tensor(f"p{index}_latent"), case.tensor("eps")
    return add_noise(latents, epsilon, case.diffusion, case.vectors.backbone).numpy()


def noised_latent(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    sigma = float(case.vectors.backbone.schedule(case.diffusion.steps).sigmas[0])
    return case[f"p{index}_x_start"] / (1 + sigma**2) ** 0.5


def state(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return case.clean(index).states[int(match[2])].numpy()


def query(case: Case, index: int, block: int) -> torch.Tensor:
    tapped_there = case.clean(index).taps[case.meta["feature_step"]][Tap(block, "self", "query")]
    return conditional_half(tapped_there, len(case.frames(index))).float()


def block_query(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return query(case, index, int(match[2])).numpy()


def average(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    # Not from the recorded queries: those of two blocks are stored in half precision.
    return aggregate([query(case, index, block) for block in case.meta["feature_blocks"]]).numpy()


def normalised(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    return max_abs_normalize(case.tensor(f"p{index}_feature_avg")).numpy()


def attention(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    block, step, frame, layer, kind = match.groups()[1:]
    tap = Tap(int(block), cast(Literal["self", "cross"], layer), "query" if kind == "q" else "key")
    return of_frame(case.clean(index).taps[int(step)][tap], int(frame), len(case.frames(index)))


def of_frame(values: torch.Tensor, frame: int, frames: int) -> np.ndarray:
    """Both guidance halves of one frame: (halves, n, c) of (halves * frames, n, c)."""
    return values.unflatten(0, (-1, frames))[:, frame].numpy()


# --- step 6


def jobs(case: Case, index: int, label: int, sign: str, positions: Sequence[int]) -> Jobs:
    """One label in some frames of a pass."""
    planes = case.tensor(f"p{index}_cbr_labels")[list(positions)]
    masks = (planes.reshape(len(positions), *case.grid) == label).float()
    return Jobs(list(positions), torch.full((len(positions),), SIGNS[sign]), masks)


def modulated(
    case: Case, index: int, label: int, sign: str, positions: Sequence[int], rules: Rules
) -> dict[int, ModulatedStep]:
    """Step -> modulated latents of one label in some frames of a pass."""
    clean = case.from_given(index, rules.upsample.parity.inject)
    todo = jobs(case, index, label, sign, positions)
    return {after.step: after for after in modulate(case.vectors.backbone, clean, todo, rules, batch=4)}


def modulated_state(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    label, sign, step, unblended = match.groups()[1:]
    key = (f"modulated l{label} {sign}", index)  # several of its steps are recorded
    if key not in case.memo:
        case.memo[key] = modulated(case, index, int(label), sign, range(len(case.frames(index))), case.rules)
    result = case.memo[key][int(step)]
    return (result.unblended if unblended else result.latents).numpy()


def variant(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    label, sign, strength, name, step = match.groups()[1:]
    changes: dict[str, object] = dict(VARIANTS[name])
    if changes.get("blend_last_step") == -1:
        changes["blend_last_step"] = case.diffusion.steps - 1
    if strength:
        changes["strength"] = float(strength)
    rules = Rules(case.diffusion, changed(case.rules.upsample, **changes))
    result = modulated(case, index, int(label), sign, range(len(case.frames(index))), rules)
    return result[int(step)].latents.numpy()


def cross_output(case: Case, index: int, match: re.Match[str]) -> np.ndarray:
    """The cross-attention output of a block in one frame, both halves, at the modulated step."""
    label, sign, block, frame = match.groups()[1:]
    params, frames, offset = case.rules.upsample, list(range(len(case.frames(index)))), None
    if label:
        todo = jobs(case, index, int(label), sign, frames)
        offset = Offset((params.strength * todo.signs[:, None, None] * todo.masks).flatten(1))
    clean, tap = case.from_given(index), Tap(int(block), "cross", "output")
    with recorded(case.vectors.backbone.unet, [tap]) as taps:
        clean.repeatable[params.modulate_step].variants(frames).denoise(clean.start, frames, offset)
    return of_frame(taps[tap], int(frame), len(frames))


CROSS = r"block(\d+)_cross_out_frame(\d+)"
RULES = (
    Rule(r"posterior_noise|eps", noise, within(0)),
    Rule(r"p(\d+)_latent", latent, within(2e-5)),
    Rule(r"p(\d+)_x_start", x_start, within(2e-5)),
    Rule(r"p(\d+)_noised_latent", noised_latent, within(2e-5)),
    Rule(r"p(\d+)_xt(\d+)", state, within(1e-4)),
    Rule(r"p(\d+)_q_block(\d+)", block_query, within(1e-4)),
    Rule(r"p(\d+)_feature_avg", average, within(1e-4)),
    Rule(r"p(\d+)_feature_norm", normalised, within(1e-4)),
    Rule(r"p(\d+)_block(\d+)_step(\d+)_frame(\d+)_(self|cross)_(q|k)", attention, within(1e-4)),
    Rule(r"p(\d+)_mod_l(\d+)_(pos|neg)_x(\d+)(_unblended)?", modulated_state, within(1e-4)),
    Rule(rf"p(\d+)_variant_l(\d+)_(pos|neg)_(?:lambda(\d+)_)?({'|'.join(VARIANTS)})_x(\d+)", variant, within(1e-4)),
    Rule(rf"p(\d+)_mod_l(\d+)_(pos|neg)_{CROSS}", cross_output, within(1e-4)),
    Rule(rf"p(\d+)_()(){CROSS}_before", cross_output, within(1e-4)),
)


# --- clip.npz


def clip_arrays(vectors: Vectors) -> dict[str, np.ndarray]:
    """The arrays of clip.npz that the library computes."""
    clip, backbone = vectors.clip, vectors.backbone
    schedule = backbone.schedule(len(clip["timesteps"]))
    scale = backbone.vae.config.scaling_factor
    mean = backbone.encode(vectors.network_frames).numpy() / scale
    deviation = backbone.encode(vectors.network_frames, torch.ones(mean.shape)).numpy() / scale - mean
    contexts = torch.stack([backbone.context, torch.zeros_like(backbone.context)])
    with torch.inference_mode():
        sample, timesteps = (torch.from_numpy(clip[f"unit_unet_{name}"]) for name in ("sample", "timestep"))
        output = backbone.unet(sample, timesteps.long(), contexts, return_dict=False)[0]
    return {
        "network_frame0": vectors.network_frames[0],
        "vae_mean": mean,
        "vae_logvar": 2 * np.log(deviation),
        "sigmas": schedule.sigmas.numpy(),
        "timesteps": np.array(schedule.timesteps),
        "context_cond": contexts[0].numpy(),
        "context_uncond": contexts[1].numpy(),
        "unit_unet_output": output.numpy(),
        "unit_decode_image": backbone.decode(torch.from_numpy(clip["unit_decode_latent"]) * scale).numpy(),
    }


#: Arrays of clip.npz with their bounds; the inputs stand with what is computed from them.
CLIP_BOUNDS = {
    "network_frame0": 0, "vae_mean": 1e-4, "vae_logvar": 1e-2, "sigmas": 2e-5, "timesteps": 0, "context_cond": 0,
    "context_uncond": 0, "unit_unet_output": 1e-4, "unit_decode_image": 1e-3,
}  # fmt: skip
CLIP_INPUTS = {
    "frames": "network_frame0", "unit_unet_sample": "unit_unet_output", "unit_unet_timestep": "unit_unet_output",
    "unit_decode_latent": "unit_decode_image",
}  # fmt: skip
