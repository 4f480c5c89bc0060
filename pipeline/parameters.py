"""Every parameter, declared once: a frozen dataclass per section of params.yaml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

MOST_FPS = 1e6


def param(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field of a `Params` class: its default, a one-line description and what it accepts."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class BackboneParams:
    """Section `backbone`: which diffusion model is read."""

    name: str = param("compact", "compact, sd21, svd (a video model)", choices=("compact", "sd21", "svd"))
    path: str | None = param(None, "local diffusers folder, hub id or single-file checkpoint; null = the name's own")
    revision: str | None = param(
        None, "revision of a hub id; null = what the local cache calls main (backbone.lock pins the weights by hash)"
    )
    dtype: str = param(
        "auto",
        "precision of the denoiser; auto = float32 on CPU, float16 on GPU",
        choices=("auto", "float32", "float16", "bfloat16"),
    )


@dataclass(frozen=True)
class DiffusionParams:
    """Section `diffusion`: the schedule and noise that extract and upsample share."""

    steps: int = param(25, "Euler steps of the schedule", low=1, high=1000)
    start_step: int = param(22, "t_inv: the step at which noise is added and denoising starts", low=0)
    guidance: float = param(
        5.0,
        "classifier-free guidance against an all-zero context; 1 = off; a video model's at a window's last frame",
        low=0.0,
    )
    noise: str = param(
        "per_frame",
        "per_frame: by source frame index; shared: the same for all",
        choices=("per_frame", "shared"),
    )
    seed: int = param(0, "seed of the noise", low=0)
    batch: int = param(
        4, "frames per pass of the encoder and the clean denoising; a video model's is its window", low=1
    )
    guidance_first: float = param(
        1.0, "video models: guidance at a window's first frame, then linear to diffusion.guidance", low=0.0
    )
    fps_id: int = param(14, "video models: frames per second that the model is told", low=0)
    motion_bucket: int = param(127, "video models: amount of motion that the model is told", low=0, high=255)
    noise_augmentation: float = param(
        0.02, "video models: standard deviation of the noise on the window's first frame", low=0.0
    )


@dataclass(frozen=True)
class IngestParams:
    """Section `ingest`."""

    size: str | int = param(
        "native", "native, short side in pixels, HxW, or 1/N of the pixels; multiples of 64 are made of it", low=1
    )
    frames: str | int | None = param(None, "range of source frames like 0:28 or 10:; null = all")
    stride: int = param(1, "take every n-th frame of the range", low=1)
    fps: float | None = param(
        None, "frame rate of the source; null = what it says, 25 for a folder", low=0.01, high=MOST_FPS
    )
    seed: str = param(
        "none", "truth: the first frame's ground truth becomes the mask in seed/", choices=("none", "truth")
    )


@dataclass(frozen=True)
class ExtractParams:
    """Section `extract`."""

    blocks: tuple[int, ...] = param((6, 7, 8), "decoder blocks whose queries are averaged", low=3, high=11)
    matching_block: int = param(7, "decoder block whose queries are matched (Eq. 3)", low=3, high=11)
    feature_step: int = param(24, "step at which queries are read", low=0)
    normalize: str = param(
        "max_abs", "of `aggregated`, per token by its largest absolute value", choices=("max_abs", "none")
    )
    encode: str = param("mode", "mode of the autoencoder's posterior, or a seeded sample", choices=("mode", "sample"))
    dtype: str = param("float16", "how features are stored", choices=("float16", "float32", "int8"))
    shard: int = param(14, "frames per file; a video model's is its window", low=1)
    window: int | None = param(None, "video models: frames that are seen together; null = each frame alone", low=1)


@dataclass(frozen=True)
class CorrespondParams:
    """Section `correspond`."""

    max_squared_distance: float = param(2.0, "T of Eq. 3: largest squared distance of a match, tokens^2", low=0.0)
    rule: str = param(
        "constrained",
        "constrained: the best match within the distance; reject: the best anywhere, none if too far",
        choices=("constrained", "reject"),
    )


@dataclass(frozen=True)
class SegmentParams:
    """Section `segment`."""

    init: str = param("kmeans", "K-Means on frame 1, or mask: its labels are given", choices=("kmeans", "mask"))
    clusters: int = param(20, "K, number of segments", low=1)
    restarts: int = param(10, "K-Means runs; the best counts", low=1)
    kmeans_frames: str = param(
        "first",
        "frames that K-Means sees: the first, or all of the first window",
        choices=("first", "window"),
    )
    features: str = param("aggregated", "features of the context model", choices=("aggregated", "matching"))
    window: int = param(14, "B, frames per window", low=1)
    neighbors: int = param(4, "k of the nearest-neighbour vote", low=1)
    first_frame: str = param("keep", "frame 1 keeps its labels, or is predicted again", choices=("keep", "predict"))
    memory: str = param(
        "last_window", "what the context remembers: last_window, first_and_last, sliding:N (last N windows)"
    )
    vote: str = param(
        "forward",
        "vote along tracks: forward (Eq. 5), both directions, none",
        choices=("forward", "both", "none"),
    )
    label_merge: str = param(
        "none", "first_frame: clusters take the labels of the given mask", choices=("none", "first_frame")
    )
    seed: int = param(0, "seed of K-Means", low=0)

    def __post_init__(self) -> None:
        from pipeline.segmentation.context import parse_memory

        parse_memory(self.memory)


@dataclass(frozen=True)
class UpsampleParams:
    """Section `upsample`."""

    method: str = param(
        "modulation",
        "masked modulation, or interpolation of the coarse map",
        choices=("modulation", "bilinear", "nearest", "joint_bilateral"),
    )
    strength: float = param(50.0, "lambda of Eq. 2; 10 without blending", low=0.0)
    block: int = param(7, "b_m: decoder block whose attention is modulated", low=3, high=11)
    modulate_step: int = param(22, "t_m: step at which it is modulated", low=0)
    offset: str = param("after", "offset after or inside the output projection", choices=("after", "inside"))
    blend: bool = param(True, "latent blending (Eq. 6)")
    blend_last_step: int = param(23, "last step that is blended", low=0)
    mask_resize: str = param("bilinear", "enlargement of masks to the latents", choices=("bilinear", "nearest"))
    inject: bool = param(True, "queries and keys of blocks 3-11 from the clean pass")
    difference: str = param("squared", "squared or root norm; wrapped = the authors' 8-bit maps",
                            choices=("squared", "root", "wrapped"))  # fmt: skip
    blur: bool = param(True, "5x5 Gaussian blur of difference maps")
    normalize: bool = param(True, "difference maps divided by their own maximum")
    filter: float = param(0.7, "s of Eq. 7; 1 = unfiltered", low=0.0, high=1.0)
    filter_resize: str = param("bilinear", "enlargement of masks in Eq. 7", choices=("bilinear", "lanczos"))
    batch: int = param(
        8, "modulated samples per pass; a video model's are whole windows of frames, at least one", low=1
    )
    attention: str = param(
        "cross_spatial",
        "which attention of the block is modulated; image models have the first only",
        choices=("cross_spatial", "self_spatial", "self_temporal", "self_spatial_temporal"),
    )
    decode: str = param(
        "single", "video models: frames decoded alone, or a window's together", choices=("single", "joint")
    )
    mode: str = param(
        "exact", "exact, or fast: the approximations that the parameters fast_* choose", choices=("exact", "fast")
    )
    fast_guidance: float | None = param(
        1.0, "guidance of upsampling, a video model's at a window's last frame; null = diffusion.guidance", low=0.0
    )
    fast_signs: str = param("both", "I+ against I-, or plus: against the clean image", choices=("both", "plus"))
    fast_steps: int = param(2, "steps that are run from modulate_step on, evenly spread", low=1)
    fast_groups: str = param(
        "labels",
        "modulated in one pass: a single label, labels that do not touch, connected parts of labels that do not touch; "
        "a video model's do not in any frame of the window",
        choices=("single", "labels", "parts"),
    )
    fast_gap: int = param(2, "tokens between what is modulated in one pass", low=1)
    fast_decode: str = param(
        "latent",
        "full images, the box around the label, the small decoder, or none: latents enlarged along the image's edges",
        choices=("full", "box", "small", "latent"),
    )
    fast_small_decoder: str | None = param(
        None,
        "folder of the small decoder (diffusers' AutoencoderTiny) for this backbone's latents; null = small_decoder/ "
        "in the backbone's folder",
    )
    fast_deep: str = param(
        "clean", "deep features after modulate_step: own, or the clean pass's", choices=("own", "clean")
    )


@dataclass(frozen=True)
class EvaluateParams:
    """Section `evaluate`."""

    protocol: str = param(
        "strict", "void is void, or the published evaluator with its slips", choices=("strict", "official")
    )
    assignment: str = param(
        "auto",
        "clusters to classes by the first annotated frame; auto = majority, none where labels are classes",
        choices=("auto", "majority", "official", "hungarian", "none"),
    )
    windows: tuple[int, ...] = param((8, 16), "n of VC_n", low=1)
    coarse_stride: int = param(16, "pixels per cell of the coarse grid of assignment: official", low=1)
    objects: str = param(
        "auto",
        "DAVIS J and F; auto = semi_supervised where a first-frame mask was carried along",
        choices=("auto", "none", "semi_supervised", "unsupervised"),
    )


@dataclass(frozen=True)
class RenderParams:
    """Section `render`."""

    opacity: float = param(0.55, "of the labels over the picture", low=0.0, high=1.0)
    extras: bool = param(True, "feature PCA and x-t slices")
    slice_row: float = param(0.5, "row of the x-t slices: 0 = top, 1 = bottom", low=0.0, high=1.0)


#: The sections of params.yaml.
SECTIONS: dict[str, type] = {
    "backbone": BackboneParams,
    "diffusion": DiffusionParams,
    "ingest": IngestParams,
    "extract": ExtractParams,
    "correspond": CorrespondParams,
    "segment": SegmentParams,
    "upsample": UpsampleParams,
    "evaluate": EvaluateParams,
    "render": RenderParams,
}
