"""What distillation learns from: latents of images with the encoder's tokens and the first weights' queries.

Every image is run through all frozen networks once. A *view* is a crop of it, maybe mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backbone.image.schedule import scaled_linear_schedule
from pipeline.encoder.base import Encoder
from pipeline.errors import UsageError
from pipeline.training.autoencoder import STRIDE, encode
from pipeline.training.data import Picture, to_tensor
from pipeline.training.denoiser import BETAS, Denoiser, mean_queries
from pipeline.training.loop import mixed_precision

#: Sides of pictures are multiples of so many pixels: the denoiser halves latents three times.
UNIT = 8 * STRIDE


@dataclass(frozen=True)
class ExampleSettings:
    """How pictures are prepared and views cut.

    Attributes:
        short_sides: least and largest short side of a picture in pixels; smaller images are left out.
        long_side: largest long side in pixels.
        sizes: of views, in latents; tokens are 2x2 latents.
        latents_per_batch: of all views of a batch together.
        steps, start_step: the Euler steps that extraction runs; features are read in the last one.
        denoised: share of views that went through the steps before the last, as in extraction; the others are clean.
        latent_scale, latent_shift: largest random change of a view's latents, channel by channel.
    """

    short_sides: tuple[int, int] = (128, 256)
    long_side: int = 448
    sizes: tuple[tuple[int, int], ...] = (
        (16, 16), (16, 24), (24, 16), (24, 24), (24, 24), (24, 32), (24, 32), (32, 32), (32, 48),
    )  # fmt: skip
    latents_per_batch: int = 8 * 24 * 24
    steps: int = 25
    start_step: int = 22
    denoised: float = 0.5
    latent_scale: float = 0.1
    latent_shift: float = 0.1

    def __post_init__(self) -> None:
        if any(side % 8 for size in self.sizes for side in size):
            raise UsageError("view sizes must be multiples of 8 latents")
        if any(side % UNIT for side in (*self.short_sides, self.long_side)):
            raise UsageError(f"sides of pictures must be multiples of {UNIT} px")
        if max(self.smallest) * STRIDE > self.short_sides[0]:
            raise UsageError(f"the smallest view must fit into a picture of {self.short_sides[0]} px")

    @property
    def smallest(self) -> tuple[int, int]:
        """The size of least area, in latents."""
        return min(self.sizes, key=lambda size: size[0] * size[1])


@dataclass(frozen=True)
class Example:
    """One picture, all float16.

    Attributes:
        clean: latents (4, h, w).
        denoised: latents (4, h, w) after the steps before the last, as the network takes them there.
        tokens: (h/2, w/2, c) of the encoder, of length 1.
        queries: (h/2, w/2, q) of the first weights, mean of blocks 6 to 8.
    """

    clean: Tensor
    denoised: Tensor
    tokens: Tensor
    queries: Tensor


@dataclass(frozen=True)
class Views:
    """A batch of b views of one size with n tokens, float32.

    Attributes:
        latents: (b, 4, h, w).
        denoised: (b,) bool, whose latents went through the steps before the last; those of the others are clean.
        tokens: (b, n, c) of the encoder.
        queries: (b, n, q) of the first weights.
    """

    latents: Tensor
    denoised: Tensor
    tokens: Tensor
    queries: Tensor


def prepared(image: Picture, settings: ExampleSettings) -> Picture:
    """The picture of an image (H, W, 3) u8: the short side resized to a multiple of `UNIT`, the long one then cut."""
    import cv2

    height, width = image.shape[:2]
    least, largest = settings.short_sides
    side = min(max(int(min(height, width) / UNIT + 0.5) * UNIT, least), largest)
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)
    kept = [min(found // UNIT * UNIT, settings.long_side) for found in resized.shape[:2]]
    top, left = ((found - wanted) // 2 for found, wanted in zip(resized.shape[:2], kept, strict=True))
    return np.ascontiguousarray(resized[top : top + kept[0], left : left + kept[1]])


def last_timestep(settings: ExampleSettings) -> int:
    """The training timestep of the step that features are read in."""
    return int(scaled_linear_schedule(settings.steps, *BETAS).timesteps[-1])


@torch.no_grad()
def before_last_step(denoiser: Denoiser, clean: Tensor, settings: ExampleSettings, noise: torch.Generator) -> Tensor:
    """Latents (b, 4, h, w) f32 as the network takes them in the last step: with noise, after the Euler steps before."""
    schedule = scaled_linear_schedule(settings.steps, *BETAS)
    sigmas, last = schedule.sigmas.tolist(), settings.steps - 1
    keep = torch.ones(len(clean), device=clean.device)
    latents = clean + sigmas[settings.start_step] * torch.randn(clean.shape, generator=noise).to(clean.device)
    for step in range(settings.start_step, last):
        timesteps = torch.full((len(clean),), int(schedule.timesteps[step]), device=clean.device)
        with mixed_precision(clean.device):
            epsilon = denoiser(latents / (1 + sigmas[step] ** 2) ** 0.5, timesteps, keep).float()
        latents = latents + (sigmas[step + 1] - sigmas[step]) * epsilon
    return latents / (1 + sigmas[last] ** 2) ** 0.5


@torch.no_grad()
def make_examples(
    images: Sequence[Picture],
    denoiser: Denoiser,
    autoencoder: nn.Module,
    encoder: Encoder,
    settings: ExampleSettings,
    seed: int = 0,
    log: Callable[[int, int], None] = lambda done, total: None,
) -> list[Example]:
    """An example of every image; the networks are on one device and stay as they are.

    Args:
        images: (H, W, 3) u8 each, short sides of at least `settings.short_sides[0]`.
        log: is called with (images done, images).
    """
    device = next(denoiser.parameters()).device
    noise = torch.Generator().manual_seed(seed)
    examples = []
    for done, image in enumerate(images):
        picture = prepared(image, settings)
        grid = (picture.shape[0] // (2 * STRIDE), picture.shape[1] // (2 * STRIDE))
        with mixed_precision(device):
            clean = encode(autoencoder, to_tensor(picture[None]).to(device)).float()
            start, keep = torch.zeros(1, dtype=torch.long, device=device), torch.ones(1, device=device)
            queries = mean_queries(denoiser, clean, start, keep)
            tokens = encoder.tokens(picture, grid)
        denoised = before_last_step(denoiser, clean, settings, noise)
        stored = [found.half().cpu() for found in (clean[0], denoised[0], tokens, queries[0])]
        examples.append(Example(*stored[:2], *(found.unflatten(0, grid) for found in stored[2:])))
        log(done + 1, len(images))
    return examples


def fitting_sizes(examples: Sequence[Example], settings: ExampleSettings) -> list[tuple[tuple[int, int], list[int]]]:
    """The view sizes that are found in examples, each with the examples that it fits into."""
    found = []
    for height, width in settings.sizes:
        fit = [i for i, e in enumerate(examples) if e.clean.shape[1] >= height and e.clean.shape[2] >= width]
        if fit:
            found.append(((height, width), fit))
    return found


def cut_views(
    examples: Sequence[Example], size: tuple[int, int], settings: ExampleSettings, rng: np.random.Generator
) -> Views:
    """A random view of each of these examples, `size` (h, w) in latents."""
    latents, denoised, tokens, queries = [], [], [], []
    for example in examples:
        denoised.append(bool(rng.random() < settings.denoised))
        whole = example.denoised if denoised[-1] else example.clean
        # Latents are cut where tokens begin.
        top, left = (2 * int(rng.integers(0, (whole.shape[1 + i] - size[i]) // 2 + 1)) for i in (0, 1))
        part = whole[:, top : top + size[0], left : left + size[1]]
        rows, columns = (slice(begin // 2, (begin + n) // 2) for begin, n in zip((top, left), size, strict=True))
        seen = [example.tokens[rows, columns], example.queries[rows, columns]]
        if rng.random() < 0.5:
            # Latents of a mirrored image are taken to be the mirrored latents: near enough for a convolution.
            part, seen = part.flip(2), [values.flip(1) for values in seen]
        scale = 1 + settings.latent_scale * rng.uniform(-1, 1, (4, 1, 1))
        shift = settings.latent_shift * rng.uniform(-1, 1, (4, 1, 1))
        latents.append(part.float() * torch.from_numpy(scale).float() + torch.from_numpy(shift).float())
        tokens.append(seen[0].flatten(0, 1).float())
        queries.append(seen[1].flatten(0, 1).float())
    return Views(torch.stack(latents), torch.tensor(denoised), torch.stack(tokens), torch.stack(queries))
