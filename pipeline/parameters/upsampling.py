"""Labels at full size: `upsample`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.parameters.declare import param


@dataclass(frozen=True)
class UpsampleFast:
    """Group `upsample.fast`: the approximations of `upsample.mode: fast`."""

    guidance: float | None = param(
        1.0,
        "guidance of upsampling, a video model's at a window's last frame; null = diffusion.guidance",
        low=0.0,
        stored="fast_guidance",
    )
    signs: Literal["both", "plus"] = param(
        "both", "I+ against I-, or plus: against the clean image", stored="fast_signs"
    )
    steps: int = param(2, "steps that are run from modulate_step on, evenly spread", low=1, stored="fast_steps")
    groups: Literal["single", "labels", "parts"] = param(
        "labels",
        "modulated in one pass: a single label, labels that do not touch, connected parts of labels that do not touch; "
        "a video model's do not in any frame of the window",
        stored="fast_groups",
    )
    gap: int = param(2, "tokens between what is modulated in one pass", low=1, stored="fast_gap")
    decode: Literal["full", "box", "small", "latent"] = param(
        "latent",
        "full images, the box around the label, the small decoder, or none: latents enlarged along the image's edges",
        stored="fast_decode",
    )
    small_decoder: str | None = param(
        None,
        "folder of the small decoder (diffusers' AutoencoderTiny) for this backbone's latents; null = small_decoder/ "
        "in the backbone's folder",
        stored="fast_small_decoder",
    )
    deep: Literal["own", "clean"] = param(
        "clean", "deep features after modulate_step: own, or the clean pass's", stored="fast_deep"
    )


@dataclass(frozen=True)
class UpsampleParity:
    """Group `upsample.parity`: where the paper and the authors' code differ."""

    offset: Literal["after", "inside"] = param("after", "offset after or inside the output projection f of Eq. 2")
    blend_last_step: int = param(23, "last step that is blended", low=0)
    mask_resize: Literal["bilinear", "nearest"] = param("bilinear", "enlargement of masks to the latents")
    inject: bool = param(True, "queries and keys of blocks 3-11 from the clean pass")
    difference: Literal["squared", "root", "wrapped"] = param(
        "squared", "squared or root norm; wrapped = the authors' 8-bit maps"
    )
    blur: bool = param(True, "5x5 Gaussian blur of difference maps")
    normalize: bool = param(True, "difference maps divided by their own maximum")
    filter_resize: Literal["bilinear", "lanczos"] = param("bilinear", "enlargement of masks in Eq. 7")


@dataclass(frozen=True)
class UpsampleVideo:
    """Group `upsample.video`: what only video models can choose."""

    attention: Literal["cross_spatial", "self_spatial", "self_temporal", "self_spatial_temporal"] = param(
        "cross_spatial", "which attention of the block is modulated; image models have the first only"
    )
    decode: Literal["single", "joint"] = param("single", "frames decoded alone, or a window's together")


@dataclass(frozen=True)
class UpsampleParams:
    """Section `upsample`."""

    method: Literal["modulation", "guided", "bilinear", "nearest", "joint_bilateral"] = param(
        "modulation", "masked modulation, or interpolation of the coarse map; guided follows the picture's edges"
    )
    mode: Literal["exact", "fast"] = param("exact", "exact, or fast: the approximations of the group upsample.fast")
    strength: float = param(50.0, "lambda of Eq. 2; 10 without blending", low=0.0)
    block: int = param(7, "b_m: decoder block whose attention is modulated", low=3, high=11)
    modulate_step: int = param(22, "t_m: step at which it is modulated", low=0)
    blend: bool = param(True, "latent blending (Eq. 6), from modulate_step to parity.blend_last_step")
    filter: float = param(0.7, "s of Eq. 7; 1 = unfiltered", low=0.0, high=1.0)
    batch: int = param(
        8, "modulated samples per pass; a video model's are whole windows of frames, at least one", low=1
    )
    confidence: bool = param(
        False, "labels.zarr also says how sure the label of each pixel is: `confidence`, 0 to 255", before=False
    )
    fast: UpsampleFast = UpsampleFast()
    parity: UpsampleParity = UpsampleParity()
    video: UpsampleVideo = UpsampleVideo()
