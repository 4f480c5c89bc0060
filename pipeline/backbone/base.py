"""The interface that the pipeline needs of a diffusion model.

Terms. A *latent* is the autoencoder's code of a frame, scaled to unit-like variance. *Step* i of a schedule of S
steps goes from noise level sigma_i to sigma_{i+1}; the last step ends at sigma_S = 0. *Block* i (0..11) is the
paper's numbering of decoder blocks (section 3.1). A *tap* names one tensor inside a block's attention.
With guidance a denoiser runs two *halves*: first the unconditional (all-zero context), then the conditional.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tap:
    """One attention tensor after its linear map, before the split into heads: (halves * b, n, c)."""

    block: int
    layer: Literal["self", "cross"]
    tensor: Literal["query", "key"]


@dataclass(frozen=True)
class Offset:
    """The modulation +-lambda * M_l of Eq. 2 on the cross-attention of one block.

    Attributes:
        block: b_m, the decoder block.
        values: (b, n) float, signed strength times the mask of each token; the same for all channels and halves.
        place: `after` adds to the output of the projection f, as the authors' code; `inside` adds to its input,
            as Eq. 2 is printed.
    """

    block: int
    values: Tensor
    place: Literal["after", "inside"] = "after"


@dataclass(frozen=True)
class Schedule:
    """Noise levels: `sigmas` (steps + 1,) float32, the last one 0, and the model's `timesteps` (steps,) ints."""

    sigmas: Tensor
    timesteps: tuple[int, ...]


@dataclass(frozen=True)
class Denoised:
    """Result of one step: the next noisy latents (b, 4, h, w) float32 and the tapped tensors."""

    latents: Tensor
    taps: Mapping[Tap, Tensor] = field(default_factory=dict)


class Backbone(Protocol):
    """A latent diffusion model that sees a window of frames.

    Image models treat the frames of a window alone, video models together; callers do not need to know.
    """

    #: Name in params.yaml, e.g. `compact`.
    name: str
    #: SHA-256 (hex) of the weights.
    fingerprint: str
    #: Pixels per latent cell.
    latent_stride: int

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        ...

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        """(h, w, c): token grid and query width of a decoder block, for frames of size (H, W)."""
        ...

    def schedule(self, steps: int) -> Schedule:
        """The noise schedule with that many Euler steps."""
        ...

    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        """Scaled latents (b, 4, H/8, W/8) float32 of frames (b, H, W, 3) uint8.

        `noise`, of the latents' shape, gives a sample of the posterior; without it its mode.
        """
        ...

    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float,
        *,
        record: Collection[Tap] = (),
        inject: Mapping[Tap, Tensor] | None = None,
        offset: Offset | None = None,
    ) -> Denoised:
        """One Euler step of noisy latents (b, 4, h, w).

        Args:
            guidance: scale against the all-zero context; 1 runs the conditional half only.
            record: taps to return.
            inject: tensors that replace what these taps would hold, each (halves * b, n, c).
            offset: modulation of this step.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (b, 3, H, W) float32, nominally in [-1, 1] but not clipped, of clean latents (b, 4, h, w)."""
        ...
