"""Frames to features (paper sections 3.1 and 4.1): encode, noise, denoise, tap the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Tap
from pipeline.errors import DataError, UsageError
from pipeline.features.diffusion import (
    add_noise,
    clean_pass,
    condition,
    conditional_half,
    draw_noise,
    psnr,
)
from pipeline.features.steps import check_feature_step
from pipeline.parameters import DiffusionParams, ExtractParams


@dataclass(frozen=True)
class Extracted:
    """Features of b frames.

    Attributes:
        latents: (b, 4, h, w) float32, clean and scaled.
        aggregated: (b, n, c) float32, mean over blocks, normalised (F~ of section 4.1).
        matching: (b, n, c) float32, raw queries of the matching block (F_c of Eq. 3).
        reconstruction: (b, 4, h, w) float32, the denoised latents.
    """

    latents: Tensor
    aggregated: Tensor
    matching: Tensor
    reconstruction: Tensor

    def since(self, first: int) -> Extracted:
        """Features of the frames from position `first` on."""
        parts = (self.latents, self.aggregated, self.matching, self.reconstruction)
        return Extracted(*(part[first:] for part in parts))


def extract(
    backbone: Backbone,
    frames: np.ndarray,
    source_indices: Sequence[int],
    diffusion: DiffusionParams,
    params: ExtractParams,
) -> Extracted:
    """Features of the frames of one pass (b, H, W, 3) uint8, whose noise is keyed by their source indices.

    Raises:
        UsageError: feature_step is not among the steps that are run, or a block has no attention.
    """
    check_feature_step(params, diffusion)
    shape = latent_shape(backbone, frames.shape[1:3])
    noise = draw_noise(diffusion, source_indices, shape)
    latents = backbone.encode(frames, noise.posterior if params.parity.encode == "sample" else None)
    start = add_noise(latents, noise.epsilon, diffusion, backbone)
    taps = [Tap(block, "self", "query") for block in sorted({*params.blocks, params.matching_block})]
    conditioning = condition(backbone, frames[0], source_indices[0], diffusion)
    clean = clean_pass(backbone, start, diffusion, {params.feature_step: taps}, conditioning=conditioning)
    queries = {
        tap.block: conditional_half(value, len(frames)).float()
        for tap, value in clean.taps[params.feature_step].items()
    }
    aggregated = aggregate([queries[block] for block in params.blocks])
    if params.parity.normalize == "max_abs":
        aggregated = max_abs_normalize(aggregated)
    return Extracted(latents, aggregated, queries[params.matching_block], clean.final)


def aggregate(queries: Sequence[Tensor]) -> Tensor:
    """Mean of the blocks' queries: F~ of section 4.1.

    Args:
        queries: one (f, n, c) float tensor per block, all of one shape.
    """
    return torch.stack(list(queries)).mean(dim=0)


def max_abs_normalize(features: Tensor) -> Tensor:
    """Divide every token (f, n, c) by its largest absolute channel value; all-zero tokens stay zero.

    The paper does not mention it; the authors' code does it before K-Means and kNN.
    """
    largest = features.abs().amax(dim=-1, keepdim=True)
    return features / largest.clamp_min(torch.finfo(features.dtype).tiny)


def latent_shape(backbone: Backbone, size: tuple[int, ...]) -> tuple[int, int, int]:
    """(4, h, w) of the latents of frames of size (H, W)."""
    height, width = size
    return 4, height // backbone.latent_stride, width // backbone.latent_stride


def feature_shape(backbone: Backbone, size: tuple[int, int], params: ExtractParams) -> tuple[int, int, int]:
    """(h, w, c): token grid and width of the features of frames of size (H, W).

    Raises:
        UsageError: the chosen blocks differ in resolution or width.
    """
    shapes = {block: backbone.token_shape(block, size) for block in (*params.blocks, params.matching_block)}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{block}: {'x'.join(map(str, shape))}" for block, shape in shapes.items())
        raise UsageError(
            f"extract.blocks and extract.matching_block must share one resolution and width, not {listed}; "
            "blocks 6, 7, 8 do"
        )
    return next(iter(shapes.values()))


def reconstruction_psnr(backbone: Backbone, reconstruction: Tensor, frame: np.ndarray) -> float:
    """PSNR in dB of one frame (H, W, 3) uint8 against its decoded latents (4, h, w).

    What the inversion loses cannot be segmented: the limit the paper names in section 6.

    Raises:
        DataError: the decoded image is not finite.
    """
    image = backbone.decode(reconstruction[None])
    if not bool(torch.isfinite(image).all()):
        raise DataError("the decoded image has NaN or infinite values; check the weights")
    target = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].to(image) * 2 / 255 - 1
    return float(psnr(image, target)[0])


def gather(parts: Sequence[Extracted], name: str) -> np.ndarray:
    """One field of consecutive batches as a (f, ...) float32 array."""
    return torch.cat([getattr(part, name) for part in parts]).float().cpu().numpy()
