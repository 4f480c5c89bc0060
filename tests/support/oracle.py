"""A test-only backbone whose features are an embedding of the ground-truth class plus noise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone import UNCONDITIONED, Conditioning, Denoised, Schedule, Tap
from pipeline.backbone.image.schedule import scaled_linear_schedule
from pipeline.parameters import DiffusionVideo

STRIDE = 8
CHANNELS = 24


class OracleBackbone:
    """Knows every frame's labels; in some frames a share of the tokens flickers to a neighbour class.

    Args:
        frames: (f, H, W, 3) uint8 at model size, to recognise a frame by its pixels.
        labels: (f, H, W) class of every pixel.
        flicker: frame -> share of its tokens with a wrong class.
    """

    name = "oracle"
    fingerprint = "oracle"
    latent_stride = 8
    window = 1

    def __init__(
        self,
        frames: np.ndarray,
        labels: np.ndarray,
        noise: float = 0.1,
        flicker: Mapping[int, float] | None = None,
    ) -> None:
        rng = np.random.default_rng(0)
        half = STRIDE // 2
        self._planes = labels[:, half::STRIDE, half::STRIDE].astype(int)
        count = int(labels.max()) + 1
        for frame, share in (flicker or {}).items():
            wrong = rng.random(self._planes[frame].shape) < share
            self._planes[frame][wrong] = (self._planes[frame][wrong] + 1) % count
        self._embedding = rng.standard_normal((count, CHANNELS)).astype(np.float32)
        self._noise = noise * rng.standard_normal((*self._planes.shape, CHANNELS)).astype(np.float32)
        self._known = {frame.tobytes(): index for index, frame in enumerate(frames)}
        self._window: Sequence[int] = ()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def token_shape(self, block: int, size: tuple[int, int]) -> tuple[int, int, int]:
        return size[0] // STRIDE, size[1] // STRIDE, CHANNELS

    def schedule(self, steps: int) -> Schedule:
        return scaled_linear_schedule(steps)

    def frames_per_pass(self, together: int, batch: int) -> int:
        return batch

    def guidance_of(self, first: float, last: float, frames: int) -> float:
        return last

    def encode(self, frames: np.ndarray, noise: Tensor | None = None) -> Tensor:
        self._window = [self._known[frame.tobytes()] for frame in frames]
        return torch.zeros(len(frames), 4, frames.shape[1] // 8, frames.shape[2] // 8)

    def condition(self, frame: np.ndarray, noise: Tensor, told: DiffusionVideo) -> Conditioning:
        return UNCONDITIONED

    def denoise(
        self,
        latents: Tensor,
        step: int,
        schedule: Schedule,
        guidance: float | Sequence[float],
        *,
        record: Collection[Tap] = (),
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Denoised:
        features = self._embedding[self._planes[self._window]] + self._noise[self._window]
        tokens = torch.from_numpy(features).flatten(1, 2)
        return Denoised(latents, {tap: tokens for tap in record})

    def decode(self, latents: Tensor, together: int = 1) -> Tensor:
        return torch.zeros(len(latents), 3, latents.shape[2] * 8, latents.shape[3] * 8)
