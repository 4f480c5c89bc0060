"""Training images: read tar shards or a folder, and cut random crops from them."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import DataError

Picture = NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class ImageSet:
    """Decoded images (H,W,3) u8 with their names, and how many files could not be decoded."""

    images: tuple[Picture, ...]
    names: tuple[str, ...]
    unreadable: int

    def at_least(self, side: int) -> ImageSet:
        """The images whose short side has `side` pixels or more; DataError when none is left."""
        kept = [i for i, image in enumerate(self.images) if min(image.shape[:2]) >= side]
        if not kept:
            raise DataError(f"no training image has a short side of {side} px: use larger images or crops")
        return ImageSet(tuple(self.images[i] for i in kept), tuple(self.names[i] for i in kept), self.unreadable)

    def split(self, names: frozenset[str]) -> tuple[ImageSet, ImageSet]:
        """(the images that are not in `names`, those that are)."""
        inside = [i for i, name in enumerate(self.names) if name in names]
        outside = [i for i, name in enumerate(self.names) if name not in names]
        first, second = (
            ImageSet(tuple(self.images[i] for i in part), tuple(self.names[i] for i in part), self.unreadable)
            for part in (outside, inside)
        )
        return first, second


def held_out_names(folder: Path, groups: Sequence[str] = ("train-192", "train-256"), every: int = 50) -> frozenset[str]:
    """Names of the held-back set: every `every`-th row of the groups in `index.csv` (none without it)."""
    index = folder / "index.csv"
    if not index.is_file():
        return frozenset()
    with index.open(newline="", encoding="utf-8") as rows:
        files = [row["file"] for row in csv.DictReader(rows) if row["shard"].startswith(tuple(groups))]
    return frozenset(files[::every])


def read_images(folder: Path, pattern: str = "*.tar") -> ImageSet:
    """Decode every image of the tar shards that match `pattern`, or, without shards, of the folder itself.

    A file that cannot be decoded is skipped and counted. Raises DataError when the folder is missing, a shard
    is damaged or has no image, or nothing could be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist: give a folder of .tar shards or of images")
    shards = sorted(folder.glob(pattern))
    entries = _from_shards(shards) if shards else _from_files(folder)
    images, names, unreadable = [], [], 0
    for name, data in entries:
        image = _decode(data)
        if image is None:
            unreadable += 1
        else:
            images.append(image)
            names.append(name)
    if not images:
        raise DataError(f"no readable image in {folder} ({unreadable} unreadable): give .tar shards or images")
    return ImageSet(tuple(images), tuple(names), unreadable)


def _from_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield path.name, path.read_bytes()


def _from_shards(shards: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for shard in shards:
        found = 0
        try:
            with tarfile.open(shard) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    if stream is None or Path(member.name).suffix.lower() not in SUFFIXES:
                        continue
                    found += 1
                    yield Path(member.name).name, stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"shard {shard} cannot be read ({error}): copy it again or remove it") from error
        if not found:
            raise DataError(f"shard {shard} has no image: remove it or pack it again")


def _decode(data: bytes) -> Picture | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """(N,H,W,3) u8 to (N,3,H,W) f32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def center_crop(image: Picture, side: int) -> Picture:
    """The central (side, side, 3) part of an image, enlarged first when its short side is smaller."""
    import cv2

    height, width = image.shape[:2]
    if min(height, width) < side:
        scale = side / min(height, width)
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        height, width = image.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def random_crop(image: Picture, side: int, rng: np.random.Generator) -> Picture:
    """A random (side, side, 3) crop, maybe mirrored, half of the time reduced from a larger window."""
    import cv2

    height, width = image.shape[:2]
    window_h = window_w = side
    if rng.random() < 0.5:
        window_h = int(rng.integers(side, height + 1))
        low, high = (min(width, max(side, round(window_h * aspect))) for aspect in (1 / 1.4, 1.4))
        window_w = int(rng.integers(low, high + 1))
    top, left = rng.integers(0, height - window_h + 1), rng.integers(0, width - window_w + 1)
    crop = image[top : top + window_h, left : left + window_w]
    if crop.shape[:2] != (side, side):
        crop = np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def crop_batch(images: Sequence[Picture], count: int, side: int, rng: np.random.Generator) -> torch.Tensor:
    """`count` random crops of random images: (count,3,side,side) f32 in [-1, 1]."""
    picks = rng.integers(0, len(images), count)
    return to_tensor(np.stack([random_crop(images[i], side, rng) for i in picks]))
