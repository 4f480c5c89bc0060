"""The noise of a frame, drawn on the CPU so that it is the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Standard normal draws, each (b, 4, h, w) float32.

    Attributes:
        posterior: samples the autoencoder's posterior (used only when latents are sampled).
        epsilon: is added at the start of the denoising.
    """

    posterior: Tensor
    epsilon: Tensor


def frame_noise(seed: int, source_indices: Sequence[int], shape: tuple[int, int, int]) -> Noise:
    """Noise that depends on (seed, source frame index) only: not on the window, batch, range or worker."""
    draws = []
    for index in source_indices:
        # torch's generator reads 32 bits of a seed only, so both numbers are mixed first.
        mixed = np.random.SeedSequence((seed, index)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        draws.append([torch.randn(shape, generator=generator) for _ in range(2)])
    return Noise(torch.stack([d[0] for d in draws]), torch.stack([d[1] for d in draws]))


def shared_noise(seed: int, frames: int, shape: tuple[int, int, int]) -> Noise:
    """Noise that does not depend on the frame: one draw, repeated."""
    return frame_noise(seed, [0] * frames, shape)


def image_noise(seed: int, source_index: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise (3, H, W) for the image of one frame, by (seed, source frame index); other draws than `frame_noise`'s."""
    mixed = np.random.SeedSequence((seed, source_index, 1)).generate_state(1)[0]
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(mixed)))


def window_noise(
    seed: int, shape: tuple[int, int, int, int], size: tuple[int, int], unused: int = 0
) -> tuple[Noise, Tensor]:
    """The authors' rule for a video model: one draw for a whole window, by position, and the image noise (3, H, W).

    Args:
        shape: (b, 4, h, w) of the latents.
        size: (H, W) of the frames.
        unused: draws of the latents' shape that are thrown away (one in their single-video script).
    """
    generator = torch.Generator().manual_seed(seed)
    posterior = torch.randn(shape, generator=generator)
    image = torch.randn((3, *size), generator=generator)
    epsilon = [torch.randn(shape, generator=generator) for _ in range(unused + 1)][-1]
    return Noise(posterior, epsilon), image


def batch_noise(seed: int, shape: tuple[int, int, int, int]) -> Noise:
    """The authors' rule: one draw for a whole batch, by position; seeded anew for every batch."""
    generator = torch.Generator().manual_seed(seed)
    posterior = torch.randn(shape, generator=generator)
    return Noise(posterior, torch.randn(shape, generator=generator))


class TurnNoise:
    """SMITE's authors' rule: one sequence of draws for all passes over chunks, in the order in which these are made.

    A pass draws a timestep, then the noise of its reference maps (`posterior`), then its own, each frame by frame
    within a channel. Any pass can be made alone: what those before it draw is drawn and thrown away. The place in the
    sequence after a pass is kept until the next one is made, so that no look at a clip draws again what it has drawn.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int, int], timesteps: range) -> None:
        """No pass is drawn yet.

        Args:
            shape: (f, 4, h, w) of the latents, the same in all passes.
            timesteps: of which each pass draws one.
        """
        self._shape, self._timesteps = shape, timesteps
        #: Number of a pass -> the generator's state before it.
        self._before = {0: torch.Generator().manual_seed(seed).get_state()}

    def of(self, turn: int) -> tuple[Noise, int]:
        """The draws of the pass before which so many others were made, and its timestep."""
        frames, channels, height, width = self._shape
        known = max(number for number in self._before if number <= turn)
        generator = torch.Generator()
        generator.set_state(self._before[known])
        for _ in range(known, turn + 1):
            drawn = torch.randint(self._timesteps.start, self._timesteps.stop, (1,), generator=generator)
            reference, own = (torch.randn(channels, frames, height, width, generator=generator) for _ in range(2))
        if known == turn > 0:
            del self._before[turn]
        self._before[turn + 1] = generator.get_state()
        return Noise(reference.transpose(0, 1), own.transpose(0, 1)), int(drawn)


#: The sequence of the clip that is at hand, from one chunk to the next.
turns = lru_cache(maxsize=1)(TurnNoise)
