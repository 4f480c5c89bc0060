"""Pairs of views for the dense self-supervised loss: cached latents of changed images, cut and matched.

Every image is encoded a few times (its *variants*): another window of the same central square, other colours.
A *view* is a crop of one variant's latents, maybe mirrored. Views of one image share places: the token of one
view that shows the same part of the image as a token of another follows from an affine map per axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.training.autoencoder import STRIDE, encode
from pipeline.training.data import Picture, to_tensor
from pipeline.training.loop import mixed_precision


@dataclass(frozen=True)
class ViewSettings:
    """How variants are made and views cut. Sizes are in latents; tokens are 2x2 latents."""

    variants: int = 2
    side: int = 24
    smallest_window: float = 0.7
    colour: float = 0.3
    gray: float = 0.1
    sizes: tuple[tuple[int, int], ...] = ((16, 16), (16, 16), (16, 24), (24, 16), (24, 24))
    latents_per_batch: int = 16 * 16 * 16
    latent_scale: float = 0.1
    latent_shift: float = 0.1


@dataclass(frozen=True)
class Cache:
    """Latents (images, variants, 4, side, side) f16 and their windows (images, variants, 4) f32.

    A window is top, left, height, width in pixels of the image.
    """

    latents: torch.Tensor
    windows: NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two views of the same images: (b,4,h,w) each; grid (b,h/2,w/2,2) of the first's tokens in the second.

    The grid is in `grid_sample` coordinates (x, y in [-1, 1], pixel edges at +-1); outside means not shared.
    """

    first: torch.Tensor
    second: torch.Tensor
    grid: torch.Tensor


@torch.no_grad()
def encode_variants(
    model: nn.Module,
    images: Sequence[Picture],
    settings: ViewSettings,
    seed: int = 0,
    log: Callable[[int, int], None] = lambda done, total: None,
    batch: int = 8,
) -> Cache:
    """Encode every image `variants` times; the first variant keeps its colours."""
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    count, side = len(images), settings.side
    latents = torch.empty((count, settings.variants, 4, side, side), dtype=torch.float16)
    windows = np.empty((count, settings.variants, 4), np.float32)
    for start in range(0, count, batch):
        part = images[start : start + batch]
        for variant in range(settings.variants):
            pictures = []
            for offset, image in enumerate(part):
                window = random_window(image.shape[:2], settings.smallest_window, rng)
                windows[start + offset, variant] = window
                picture = resize_window(image, window, side * STRIDE)
                pictures.append(picture if variant == 0 else change_colours(picture, settings, rng))
            with mixed_precision(device):
                coded = encode(model, to_tensor(np.stack(pictures)).to(device))
            latents[start : start + len(part), variant] = coded.half().cpu()
        log(start + len(part), count)
    return Cache(latents, windows)


def random_window(size: tuple[int, ...], smallest: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(top, left, height, width) in pixels: a part of the central square, aspect within about 10 %."""
    height, width = size[:2]
    square = min(height, width)
    extent = square * rng.uniform(smallest, 1.0)
    shape = np.minimum(square, extent * rng.uniform(0.95, 1.05, 2))
    corner = (np.array([height, width]) - square) / 2 + rng.uniform(0, 1, 2) * (square - shape)
    corner, shape = np.floor(corner), np.floor(shape)
    return np.concatenate([corner, shape]).astype(np.float32)


def resize_window(image: Picture, window: NDArray[np.float32], side: int) -> Picture:
    """The window of an image at (side, side, 3)."""
    import cv2

    top, left, height, width = (int(value) for value in window)
    part = image[top : top + height, left : left + width]
    method = cv2.INTER_AREA if min(height, width) >= side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (side, side), interpolation=method), dtype=np.uint8)


def change_colours(image: Picture, settings: ViewSettings, rng: np.random.Generator) -> Picture:
    """Random brightness, contrast, saturation and channel gains; now and then gray."""
    amount = settings.colour
    pixels = image.astype(np.float32)
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < settings.gray else rng.uniform(1 - 2 * amount, 1 + amount)
    pixels = gray[..., None] + saturation * (pixels - gray[..., None])
    pixels = gray.mean() + rng.uniform(1 - amount, 1 + amount) * (pixels - gray.mean())
    gains = rng.uniform(1 - amount, 1 + amount) * rng.uniform(1 - amount / 2, 1 + amount / 2, 3)
    return np.clip(pixels * gains, 0, 255).astype(np.uint8)


def sample_pair(cache: Cache, settings: ViewSettings, rng: np.random.Generator) -> Pair:
    """A batch of view pairs of one random size, from different images."""
    height, width = settings.sizes[rng.integers(len(settings.sizes))]
    count = min(len(cache.latents), max(2, settings.latents_per_batch // (2 * height * width)))
    picks = rng.choice(len(cache.latents), count, replace=False)
    firsts: list[torch.Tensor] = []
    seconds: list[torch.Tensor] = []
    grids: list[torch.Tensor] = []
    for image in picks:
        one, other = rng.choice(cache.latents.shape[1], 2, replace=cache.latents.shape[1] < 2)
        best: tuple[float, tuple[View, View], NDArray[np.float32]] | None = None
        for _ in range(4):  # crops that share little teach little: keep the best of a few
            views = tuple(_random_view(cache, int(image), int(v), (height, width), rng) for v in (one, other))
            grid = matching_grid(views[0], views[1])
            shared = float((np.abs(grid) < 1).all(-1).mean())
            if best is None or shared > best[0]:
                best = (shared, (views[0], views[1]), grid)
        assert best is not None
        for view, batch in zip(best[1], (firsts, seconds), strict=True):
            batch.append(_cut(cache, view, settings, rng))
        grids.append(torch.from_numpy(best[2]))
    return Pair(torch.stack(firsts), torch.stack(seconds), torch.stack(grids))


@dataclass(frozen=True)
class View:
    """A crop of a variant: which, where and how large (in latents), mirrored or not, the variant's window."""

    image: int
    variant: int
    corner: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool
    window: NDArray[np.float32]
    side: int

    def axis(self, axis: int) -> tuple[float, float]:
        """(origin, step) in image pixels: token j of axis 0 (y) or 1 (x) is centred at origin + step * j."""
        cell = float(self.window[2 + axis]) / self.side
        origin = float(self.window[axis]) + cell * (self.corner[axis] + 1)
        step = 2 * cell
        if axis == 1 and self.mirrored:
            return origin + step * (self.size[1] // 2 - 1), -step
        return origin, step


def matching_grid(first: View, second: View) -> NDArray[np.float32]:
    """Where the first view's tokens lie in the second: (h/2, w/2, 2) f32, see `Pair`."""
    axes = []
    for axis in (0, 1):
        tokens = first.size[axis] // 2
        origin, step = first.axis(axis)
        other_origin, other_step = second.axis(axis)
        index = (origin + step * np.arange(tokens) - other_origin) / other_step
        axes.append((2 * index + 1) / (second.size[axis] // 2) - 1)
    return np.stack(np.meshgrid(axes[1], axes[0]), axis=-1).astype(np.float32)


def _random_view(cache: Cache, image: int, variant: int, size: tuple[int, int], rng: np.random.Generator) -> View:
    side = cache.latents.shape[-1]
    corner = (int(rng.integers(0, side - size[0] + 1)), int(rng.integers(0, side - size[1] + 1)))
    return View(image, variant, corner, size, bool(rng.random() < 0.5), cache.windows[image, variant], side)


def _cut(cache: Cache, view: View, settings: ViewSettings, rng: np.random.Generator) -> torch.Tensor:
    (top, left), (height, width) = view.corner, view.size
    part = cache.latents[view.image, view.variant, :, top : top + height, left : left + width].float()
    # Latents of a mirrored image are taken to be the mirrored latents: near enough for a convolution.
    part = part.flip(-1) if view.mirrored else part
    scale = 1 + settings.latent_scale * rng.uniform(-1, 1, (4, 1, 1))
    shift = settings.latent_shift * rng.uniform(-1, 1, (4, 1, 1))
    return part * torch.from_numpy(scale).float() + torch.from_numpy(shift).float()
