"""The interface that the pipeline needs of a diffusion model.

Terms. A *latent* is the autoencoder's code of a frame, scaled to unit-like variance. *Step* i of a schedule of S
steps goes from noise level sigma_i to sigma_{i+1}; the last step ends at sigma_S = 0. *Block* i (0..11) is the
paper's numbering of decoder blocks (section 3.1). A *tap* names one tensor inside a block's attention.
With guidance a denoiser runs two *halves*: first the unconditional (all-zero context), then the conditional.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.boxes import Box


@dataclass(frozen=True)
class Tap:
    """One attention tensor, (halves * b, n, c).

    `query` and `key` are taken after their linear map, before the split into heads; `output` after the projection f.
    """

    block: int
    layer: Literal["self", "cross"]
    tensor: Literal["query", "key", "output"]


@dataclass(frozen=True)
class Keep:
    """What a step keeps for variants of its frames, so that they need not compute it again.

    Attributes:
        attention: the attention of the decoder blocks; variants take over its queries and keys (injection).
        block: b_m, the decoder block whose cross-attention the variants offset; they share all that lies before.
            None: variants differ in their latents.
        deep: what lies below the network's top level; variants take it over and run that level alone. Not with `block`.
    """

    attention: bool = False
    block: int | None = None
    deep: bool = False


@dataclass(frozen=True)
class Offset:
    """The modulation +-lambda * M_l of Eq. 2 on the cross-attention of the block that was kept.

    Attributes:
        values: (j, n) float, signed strength times the mask of each token; the same for all channels and halves.
        place: `after` adds to the output of the projection f, as the authors' code; `inside` adds to its input,
            as Eq. 2 is printed.
    """

    values: Tensor
    place: Literal["after", "inside"] = "after"

    def __getitem__(self, part: slice) -> Offset:
        return Offset(self.values[part], self.place)


@dataclass(frozen=True)
class Schedule:
    """Noise levels: `sigmas` (steps + 1,) float32, the last one 0, and the model's `timesteps` (steps,) ints."""

    sigmas: Tensor
    timesteps: tuple[int, ...]

    def without(self, skipped: Collection[int]) -> Schedule:
        """The schedule in which the step before a skipped one goes to where that one would have gone.

        Step numbers stay; the skipped steps are not to be run.
        """
        sigmas = self.sigmas.clone()
        for step in sorted(skipped, reverse=True):
            sigmas[step] = sigmas[step + 1]
        return Schedule(sigmas, self.timesteps)


class Variants(Protocol):
    """A step that is repeated with changes; what the changes leave alone was computed once, for each of its frames."""

    def denoise(self, latents: Tensor, frames: Sequence[int], offset: Offset | None = None) -> Tensor:
        """The next latents (j, 4, h, w) of j variants.

        Args:
            latents: (j, 4, h, w); at a step kept with its block, those of the frames themselves.
            frames: (j,) which frame of the kept step each variant is of.
            offset: modulation, at a step kept with its block.
        """
        ...


class Kept(Protocol):
    """A step of some frames, kept to be repeated with changes."""

    def variants(self, frames: Collection[int]) -> Variants:
        """Get ready for variants of these frames.

        Holds the attention weights of each of them: halves * heads * n^2 values per decoder block.
        """
        ...


@dataclass(frozen=True)
class Denoised:
    """Result of one step: the next noisy latents (b, 4, h, w) float32, the tapped tensors and what was kept."""

    latents: Tensor
    taps: Mapping[Tap, Tensor] = field(default_factory=dict)
    kept: Kept | None = None


class PartDecoder(Protocol):
    """A decoder that holds the statistics of one whole image fixed, so that parts of variants can be decoded alone."""

    @property
    def whole(self) -> Tensor:
        """(1, 3, H, W) float32, the image itself."""
        ...

    def part(self, latents: Tensor, box: Box) -> Tensor:
        """The box of the image (3, 8h, 8w) float32 of other latents (4, H/8, W/8)."""
        ...


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
        keep: Keep | None = None,
    ) -> Denoised:
        """One Euler step of noisy latents (b, 4, h, w).

        Args:
            guidance: scale against the all-zero context; 1 runs the conditional half only.
            record: taps to return.
            keep: what to keep for variants; None: there will be none.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (b, 3, H, W) float32, nominally in [-1, 1] but not clipped, of clean latents (b, 4, h, w)."""
        ...

    def part_decoder(self, latents: Tensor) -> PartDecoder:
        """Ready to decode parts of variants of one frame's clean latents (1, 4, h, w)."""
        ...
