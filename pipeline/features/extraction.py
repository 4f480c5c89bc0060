"""Frames to features (paper sections 3.1 and 4.1): encode, noise, denoise, tap the queries; an encoder beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import Backbone, Tap
from pipeline.encoder.base import Encoder
from pipeline.errors import DataError, UsageError
from pipeline.features.diffusion import (
    add_noise,
    clean_pass,
    condition,
    conditional_half,
    draw_noise,
    psnr,
)
from pipeline.features.padding import inner, inner_tokens, margin_of, padded
from pipeline.features.steps import feature_schedule
from pipeline.parameters import DiffusionParams, ExtractParams


@dataclass(frozen=True)
class Extracted:
    """What is extracted of b frames.

    Attributes:
        latents: (b, 4, h, w) float32, clean and scaled.
        reconstruction: (b, 4, h, w) float32, the denoised latents; the clean ones where nothing was denoised.
        aggregated: (b, n, c) float32, mean over blocks, normalised (F~ of section 4.1).
        matching: (b, n, c) float32, raw queries of the matching block (F_c of Eq. 3).
        encoder: (b, n, c') float32, of length 1 per token.
    """

    latents: Tensor
    reconstruction: Tensor
    aggregated: Tensor | None = None
    matching: Tensor | None = None
    encoder: Tensor | None = None

    def since(self, first: int) -> Extracted:
        """What belongs to the frames from position `first` on."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: part[first:] for name, part in parts.items() if part is not None})


def feature_arrays(params: ExtractParams) -> tuple[str, ...]:
    """The features that are read, by the names of `Extracted` and of the arrays in their store."""
    of_encoder = () if params.encoder == "none" else ("encoder",)
    return of_encoder if params.parts == "encoder" else ("aggregated", "matching", *of_encoder)


@torch.inference_mode()
def extract(
    backbone: Backbone,
    frames: np.ndarray,
    source_indices: Sequence[int],
    diffusion: DiffusionParams,
    params: ExtractParams,
    encoder: Encoder | None = None,
) -> Extracted:
    """Features of the frames of one pass (b, H, W, 3) uint8, whose noise is keyed by their source indices.

    With margins both networks see frames with mirrored margins, whose tokens are cut off again; the latents are those
    of the frames themselves.

    Args:
        encoder: with `params.encoder`.

    Raises:
        UsageError: feature_step is not among the steps that are run, a block has no attention, or margins hold no
            whole number of tokens.
    """
    if params.parts == "encoder":
        latents = _latents(backbone, frames, source_indices, diffusion, params)
        extracted = Extracted(latents, latents)
    else:
        extracted = _denoised(backbone, frames, source_indices, diffusion, params)
    if encoder is None:
        return extracted
    grid = backbone.token_shape(params.matching_block, _size(frames))[:2]
    return replace(extracted, encoder=encoded(encoder, frames, grid, margin_of(params)))


def _denoised(
    backbone: Backbone,
    frames: np.ndarray,
    source_indices: Sequence[int],
    diffusion: DiffusionParams,
    params: ExtractParams,
) -> Extracted:
    diffusion = feature_schedule(params, diffusion)
    seen = padded(frames, margin_of(params))
    noise = draw_noise(diffusion, source_indices, latent_shape(backbone, _size(seen)))
    latents = backbone.encode(seen, noise.posterior if params.parity.encode == "sample" else None)
    start = add_noise(latents, noise.epsilon, diffusion, backbone)
    taps = [Tap(block, "self", "query") for block in sorted({*params.blocks, params.matching_block})]
    conditioning = condition(backbone, seen[0], source_indices[0], diffusion)
    clean = clean_pass(backbone, start, diffusion, {params.feature_step: taps}, conditioning=conditioning)

    def query(block: int, value: Tensor) -> Tensor:
        outer, grid = (backbone.token_shape(block, _size(images))[:2] for images in (seen, frames))
        return inner_tokens(conditional_half(value, len(frames)).float(), outer, grid)

    queries = {tap.block: query(tap.block, value) for tap, value in clean.taps[params.feature_step].items()}
    aggregated = aggregate([queries[block] for block in params.blocks])
    if params.parity.normalize == "max_abs":
        aggregated = max_abs_normalize(aggregated)
    if seen is not frames:
        latents = _latents(backbone, frames, source_indices, diffusion, params)
    reconstruction = inner(clean.final, tuple(latents.shape[-2:]))
    return Extracted(latents, reconstruction, aggregated, queries[params.matching_block])


def _latents(
    backbone: Backbone,
    frames: np.ndarray,
    source_indices: Sequence[int],
    diffusion: DiffusionParams,
    params: ExtractParams,
) -> Tensor:
    if params.parity.encode == "mode":
        return backbone.encode(frames)
    return backbone.encode(
        frames, draw_noise(diffusion, source_indices, latent_shape(backbone, _size(frames))).posterior
    )


def encoded(encoder: Encoder, frames: np.ndarray, grid: tuple[int, int], margin: int = 0) -> Tensor:
    """An encoder's features (f, n, c) float32 of frames (f, H, W, 3) uint8 on their token grid (h, w).

    Args:
        margin: pixels of mirrored margin on each side that it sees as well.
    """
    height, width = _size(frames)
    outer = grid[0] * (height + 2 * margin) // height, grid[1] * (width + 2 * margin) // width
    return inner_tokens(torch.stack([encoder.tokens(frame, outer) for frame in padded(frames, margin)]), outer, grid)


def _size(frames: np.ndarray) -> tuple[int, int]:
    """(H, W) of frames (f, H, W, 3)."""
    return frames.shape[1], frames.shape[2]


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


@torch.inference_mode()
def reconstruction_psnr(backbone: Backbone, reconstruction: Tensor, frame: np.ndarray) -> float:
    """PSNR in dB of one frame (H, W, 3) uint8 against its decoded latents (4, h, w).

    What the inversion loses cannot be segmented: the limit the paper names in section 6.

    Raises:
        DataError: the decoded image is not finite.
    """
    image = backbone.decode(reconstruction[None])
    if not bool(torch.isfinite(image).all()):
        raise DataError("the decoded image has NaN or infinite values; check the weights")
    target = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)[None].to(image) * 2 / 255 - 1
    return float(psnr(image, target)[0])


def gather(parts: Sequence[Extracted], name: str) -> np.ndarray:
    """One field of consecutive batches as a (f, ...) float32 array."""
    return torch.cat([getattr(part, name) for part in parts]).float().cpu().numpy()
