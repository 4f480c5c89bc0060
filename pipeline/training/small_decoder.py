"""Training of a small decoder that imitates a backbone's own, above all in differences of images.

Masked modulation compares decoded images of latents z + d and z - d (section 3.2). So the small decoder learns
from such pairs: to show the images, and to show their difference, whatever its size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.backbone import Backbone
from pipeline.errors import UsageError
from pipeline.training.data import ImageSet, center_crop, random_crop
from pipeline.training.loop import Budget, LoopSettings, Schedule, Step, train


@dataclass(frozen=True)
class SmallDecoderSettings:
    """Everything that decides the trained weights, apart from the backbone and the images.

    Attributes:
        channels: width of all layers.
        blocks: blocks of three convolutions at 1/8, 1/4, 1/2 and full size.
        crop: side of a crop in pixels.
        batch: crops per step.
        pushes: smallest and largest root mean square of d, in scaled latents. Real ones are about 0.001, where both
            decoders are linear; larger ones lie further above rounding.
        shake: noise on z, since what is decoded was denoised.
        difference_weight: of the loss of differences beside that of the images.
    """

    channels: int = 32
    blocks: tuple[int, ...] = (3, 3, 1, 0)
    crop: int = 96
    batch: int = 4
    pushes: tuple[float, float] = (0.003, 0.1)
    shake: float = 0.1
    difference_weight: float = 1.0
    rate: float = 2e-3
    warmup: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.blocks) != 4:
            raise UsageError(f"a small decoder has four sizes: give four numbers of blocks, not {len(self.blocks)}")
        if self.crop % 8:
            raise UsageError(f"crops must be multiples of 8 px, not {self.crop}")


def build_small_decoder(settings: SmallDecoderSettings) -> nn.Module:
    """A diffusers AutoencoderTiny, of which only `decoder` is trained: latents (b,4,h,w) -> (b,3,8h,8w)."""
    from diffusers import AutoencoderTiny

    widths = (settings.channels,) * len(settings.blocks)
    torch.manual_seed(settings.seed)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=settings.blocks,
        num_decoder_blocks=settings.blocks,
    )


def smooth_field(count: int, channels: int, size: tuple[int, int], cells: int, noise: torch.Generator) -> Tensor:
    """Normal noise on a grid of `cells` x `cells`, enlarged smoothly: (count, channels, *size) float32."""
    coarse = torch.randn((count, channels, cells, cells), generator=noise)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def perturbations(
    shape: tuple[int, ...], pushes: tuple[float, float], rng: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Perturbations d (b, c, h, w) float32 like those of masked modulation: in blobs, hardly anything outside.

    In a blob d is in equal parts a shift, what varies slowly, and noise: neighbouring latents of real ones correlate
    by 0.2 to 0.7. Its root mean square over the crop is drawn evenly on a logarithmic scale between `pushes`.
    """
    count, channels, *size = shape
    place = (size[0], size[1])
    blobs = torch.sigmoid(6 * (smooth_field(count, 1, place, int(rng.integers(2, 6)), noise) - 0.5))
    shift = torch.randn((count, channels, 1, 1), generator=noise)
    slow = smooth_field(count, channels, place, int(rng.integers(3, 8)), noise)
    field = blobs * (shift + slow + torch.randn((count, channels, *place), generator=noise))
    low, high = (math.log(push) for push in pushes)
    wanted = torch.from_numpy(np.exp(rng.uniform(low, high, (count, 1, 1, 1)))).float()
    return field * wanted / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def difference_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of differences (b,3,H,W) over the target's squares: 0 = equal, 1 = as good as none; scalar."""
    error = (output - target).square().mean(dim=(1, 2, 3))
    return (error / target.square().mean(dim=(1, 2, 3)).clamp_min(1e-12)).mean()


class SmallDecoderLoss:
    """Loss of one batch of random crops: images of z + d and z - d, and their difference."""

    def __init__(self, backbone: Backbone, images: ImageSet, settings: SmallDecoderSettings) -> None:
        self.backbone, self.settings = backbone, settings
        self.images = images.at_least(settings.crop).images

    def __call__(self, model: nn.Module, rng: np.random.Generator, noise: torch.Generator) -> Step:
        s = self.settings
        picks = rng.integers(0, len(self.images), s.batch)
        crops = np.stack([random_crop(self.images[pick], s.crop, rng) for pick in picks])
        latents = self.backbone.encode(crops).cpu()
        latents = latents + s.shake * torch.randn(latents.shape, generator=noise)
        push = perturbations(tuple(latents.shape), s.pushes, rng, noise)
        pair = torch.cat([latents + push, latents - push]).to(self.backbone.device)
        target = self.backbone.decode(pair)
        decoder: Any = model.decoder
        output = decoder(pair)
        plus, minus = output.chunk(2)
        wanted_plus, wanted_minus = target.chunk(2)
        error = output - target
        images = error.abs().mean() + 2 * error.square().mean()
        difference = difference_loss(plus - minus, wanted_plus - wanted_minus)
        loss = images + s.difference_weight * difference
        shown = {
            "loss": float(loss.detach()),
            "mse": float(error.detach().square().mean()),
            "difference": float(difference.detach()),
        }
        return Step(loss, shown, s.batch)


def train_small_decoder(
    backbone: Backbone,
    images: ImageSet,
    settings: SmallDecoderSettings,
    budget: Budget,
    work: Path,
    log: Callable[[str], None] = print,
) -> nn.Module:
    """Train within `budget`; an interrupted run is continued from `work/small_decoder.pt`.

    Args:
        backbone: an image model; its weights stay as they are.
        images: training images; those of at least a crop's size are used.

    Returns:
        An AutoencoderTiny with a trained decoder; its encoder has random weights.

    Raises:
        DataError: the images are too small, or training diverged.
        UsageError: `work` has a checkpoint of other parameters, images or weights.
        ResourceError: a checkpoint cannot be written.
    """
    loss = SmallDecoderLoss(backbone, images, settings)
    # On a CPU narrow convolutions run faster in this layout.
    model = build_small_decoder(settings).to(backbone.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.encoder.requires_grad_(False)
    loop = LoopSettings(Schedule(settings.rate, settings.warmup), budget, seed=settings.seed)
    identity = _identity(backbone, images, settings, budget)
    model.load_state_dict(train(model, loss, loop, work / "small_decoder.pt", identity, log))
    return model.eval()


def _identity(backbone: Backbone, images: ImageSet, settings: SmallDecoderSettings, budget: Budget) -> str:
    names = [(name, image.shape) for name, image in zip(images.names, images.images, strict=True)]
    text = json.dumps([backbone.fingerprint, names, asdict(settings), asdict(budget)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Imitation:
    """How well a small decoder imitates: PSNR in dB of its images, correlation of difference maps (0..1)."""

    psnr: float
    correlation: float


@torch.no_grad()
def imitation(
    backbone: Backbone,
    small: Callable[[Tensor], Tensor],
    images: ImageSet,
    side: int = 192,
    push: float = 0.003,
    seed: int = 0,
) -> Imitation:
    """Measure on the central `side` pixels of images, with seeded perturbations of root mean square `push`.

    A difference map is the sum over channels of squared differences (section 3.2); the correlation is Pearson's,
    mean of the images.
    """
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    psnrs, correlations = [], []
    for image in images.images:
        latents = backbone.encode(center_crop(image, side)[None]).cpu()
        change = perturbations(tuple(latents.shape), (push, push), rng, noise)
        triple = torch.cat([latents, latents + change, latents - change]).to(backbone.device)
        shown = [decode(triple).cpu() for decode in (backbone.decode, small)]
        own, imitated = (decoded[0].clamp(-1, 1) for decoded in shown)
        psnrs.append(float(10 * torch.log10(4 / (own - imitated).square().mean().clamp_min(1e-12))))
        maps = torch.stack([(decoded[1] - decoded[2]).square().sum(0).flatten() for decoded in shown])
        correlations.append(float(torch.corrcoef(maps)[0, 1]))
    return Imitation(float(np.mean(psnrs)), float(np.mean(correlations)))
