"""Whole cases of the video scripts against the library: each returns its tally."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pipeline.segmentation.authors_code import authors_passes
from tests.reference import segmentation
from tests.reference.cases import Case, Tally, pass_of
from tests.reference.runs import complaint_of, short_names, tally_of
from tests.reference.video_cases import FOLDER, VideoCase, VideoVectors, load_vectors
from tests.reference.video_rules import RULES

#: What a free run starts from; K-Means is compared from its recorded features only.
FREE_INPUTS = ("labels", "p0_first_frame_labels", "p0_kmeans_labels_all_frames")
FREE_SHORT = (
    r"posterior_noise|eps\w*|image_noise\w*|p\d_(latent|x_start|cond_latent|image_embedding|xt\d+|q_block\d|feature_norm"
    r"|knn_labels|cbr_(labels|trajectories|keep)\w*|block8_\w+_before|block8_step\w+)"
)
FREE_MAPS = r"p\d_(decoded_\w+|difference_\w+|seg_\w+|mod_l\d_(pos|neg)_x24)"
#: Steps 4 and 5 where the image scripts have checks of their own.
CHECKED = (
    "labels|p0_kmeans_labels_all_frames|p0_kmeans_labels_frame0|p0_kmeans_(centers|inertia|n_iter)|p0_kmeans_frame0_only"
    r"_(labels|inertia)|p0_first_frame_labels|p\d_cbr_(trajectory_margin|paper_next_index)"
)


@cache
def vectors_here() -> VideoVectors:
    """The clip and networks, loaded once per process."""
    torch.set_num_threads(1)
    return load_vectors(FOLDER)


def recorded_short(path: Path) -> Tally:
    """From recorded inputs: all but what is long; the tally's title says how much of the file that is."""
    return _from_recorded(path, short_names)


def recorded_all(path: Path) -> Tally:
    """Every array from recorded inputs."""
    return _from_recorded(path, list)


def free_short(path: Path) -> Tally:
    """From the frames, with the first labels given, to the refined labels."""
    return _free(path, FREE_SHORT)


def free_all(path: Path) -> Tally:
    """From the frames, with the first labels given, to the final maps of all frames."""
    return _free(path, f"{FREE_SHORT}|{FREE_MAPS}")


def _from_recorded(path: Path, choose: Callable[[Case], list[str]]) -> Tally:
    recorded = dict(np.load(path))
    case = VideoCase(recorded, vectors_here(), RULES, set(recorded))  # type: ignore[arg-type]
    return tally_of(path.stem, case, choose(case), complaint_from_recorded)


def _free(path: Path, pattern: str) -> Tally:
    recorded = dict(np.load(path))
    case = VideoCase(recorded, vectors_here(), RULES, FREE_INPUTS)  # type: ignore[arg-type]
    names = [name for name in recorded if re.fullmatch(pattern, name)]
    tally = Tally(f"{path.stem} ({len(recorded)} arrays), free run", len(names))
    for name in names:
        tally.add(name, case.complaint(name))
    return tally


def complaint_from_recorded(case: VideoCase, name: str) -> str | None:
    if name == "meta_json":
        return complaint_of_settings(case)
    if re.fullmatch(CHECKED, name):
        check = segmentation.find_check(segmentation.CHECKS, name)
        assert check is not None
        return complaint_of(check, case, pass_of(name), name)
    return case.complaint(name)


def complaint_of_settings(case: VideoCase) -> str | None:
    """The settings that the library does not take as parameters must be what it does."""
    meta, steps = case.meta, list(range(case.meta["modulated_step"], case.meta["num_steps"]))
    frames, single = len(case.vectors.clip["frames"]), case.is_single
    fixed: Mapping[str, object] = {
        "injected_blocks": list(range(3, 12)),
        "injected_steps": steps,
        "injected": "queries and keys of the temporal self-attention",
        "blended_steps": steps,
        "modulated_layers": ["spatial cross-attention"] if single
        else ["spatial self-attention", "temporal self-attention"],
        "modulation_start_step": 14 if single else meta["start_step"],
        "knn_neighbors": None if single else 4,
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "rho": 7.0,
        "decode_chunk": 1,
        "gt_used": False,
        "frame_height": case.vectors.clip["frames"].shape[1],
        "frame_width": case.vectors.clip["frames"].shape[2],
        "network_height": case.vectors.network_frames.shape[1],
        "network_width": case.vectors.network_frames.shape[2],
        "clip_frames": frames,
        "passes": [[0, frames]] if single
        else [[part.start, part.stop] for part in authors_passes(frames, meta["batch_size"])],
    }  # fmt: skip
    wrong = {name: meta[name] for name, value in fixed.items() if meta[name] != value}
    return f"settings that are not covered: {wrong}" if wrong else None


# --- svd_clip.npz


def clip_arrays(vectors: VideoVectors) -> dict[str, np.ndarray]:
    """The arrays of svd_clip.npz that the library computes."""
    from pipeline.backbone.video.schedule import VideoStep

    clip, backbone = vectors.clip, vectors.backbone
    schedule = backbone.schedule(len(clip["c_in"]))
    scale = backbone.vae.config.scaling_factor
    mean = backbone.encode(vectors.network_frames).numpy() / scale
    deviation = backbone.encode(vectors.network_frames, torch.ones(mean.shape)).numpy() / scale - mean
    steps = [VideoStep.of(schedule, step, 1.0, 1).preconditioning for step in range(len(clip["c_in"]))]
    conditioning = backbone.condition(vectors.network_frames[0], torch.zeros(3, 192, 320), _released_motion())
    assert conditioning.ids is not None
    embeddings = np.concatenate([backbone.embed(frame).numpy() for frame in vectors.network_frames])
    latents = torch.from_numpy(clip["unit_decode_latent"]) * scale
    return {
        "network_frame0": vectors.network_frames[0],
        "vae_mean": mean,
        "vae_logvar": 2 * np.log(deviation),
        "sigmas": schedule.sigmas.numpy(),
        "c_noise": np.array(schedule.timesteps, np.float32),
        **{name: np.array(values, np.float32)
           for name, values in zip(("c_in", "c_skip", "c_out"), zip(*steps, strict=True), strict=True)},
        "image_embedding": embeddings,
        "added_time_ids": conditioning.ids.numpy(),
        "vector": backbone.unet.add_time_proj(conditioning.ids).flatten().numpy(),
        **_unit_outputs(vectors),
        "unit_decode_image_chunk1": backbone.decode(latents).numpy(),
        "unit_decode_image_chunk3": backbone.decode(latents, together=3).numpy(),
    }  # fmt: skip


def _released_motion():  # type: ignore[no-untyped-def]
    from pipeline.parameters import DiffusionVideo

    return DiffusionVideo()


@torch.inference_mode()
def _unit_outputs(vectors: VideoVectors) -> dict[str, np.ndarray]:
    clip, unet = vectors.clip, vectors.backbone.unet
    places = {"middle": unet.mid_block, "up0": unet.up_blocks[0], "up1": unet.up_blocks[1]}
    found: dict[str, np.ndarray] = {}
    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output.numpy()}))
        for name, module in places.items()
    ]
    sample, timestep, context = (torch.from_numpy(np.array(clip[f"unit_unet_{name}"]))
                                 for name in ("sample", "timestep", "context"))  # fmt: skip
    ids = torch.from_numpy(clip["added_time_ids"])[None].repeat(2, 1)
    found["output"] = unet(sample, timestep, context, ids, return_dict=False)[0].numpy()
    for handle in handles:
        handle.remove()
    return {f"unit_unet_{name}": values for name, values in found.items()}


#: Arrays of svd_clip.npz with their bounds; the inputs stand with what is computed from them. Processors round the
#: powers of the schedule (sigmas go up to 700) and the angles of the embedded ids (up to 127) differently.
CLIP_BOUNDS = {
    "network_frame0": 0, "vae_mean": 5e-4, "vae_logvar": 1e-2, "sigmas": 1e-4, "c_in": 1e-6, "c_skip": 1e-6,
    "c_out": 1e-6, "c_noise": 1e-6, "image_embedding": 0, "added_time_ids": 0, "vector": 1e-5, "unit_unet_output": 1e-4,
    "unit_unet_middle": 1e-4, "unit_unet_up0": 1e-4, "unit_unet_up1": 1e-4, "unit_decode_image_chunk1": 1e-3,
    "unit_decode_image_chunk3": 1e-3,
}  # fmt: skip
CLIP_INPUTS = {
    "frames": "network_frame0", "unit_unet_sample": "unit_unet_output", "unit_unet_timestep": "unit_unet_output",
    "unit_unet_context": "unit_unet_output", "unit_decode_latent": "unit_decode_image_chunk1",
}  # fmt: skip
