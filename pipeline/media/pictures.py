"""Picture files: RGB images and label maps, read without surprises and written whole or not at all."""

from __future__ import annotations

import importlib
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.files import replacing

Colour = tuple[int, int, int]

#: The value that every common data set uses for unlabelled pixels.
VOID = 255

#: What is read, whatever a file's name says: Pillow would hand an EPS file to another program.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
#: What is read of frames besides; no label map comes in these.
_OF_FRAMES = ("AVIF", "PPM", "JPEG2000")
#: Pixels of a picture or of a video's frame; a small file may claim to hold far more.
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485

#: So many values that fill no 2x2 pixels may be thin or tiny objects; more, and most of all, are blends.
MOST_BLENDS = 4

#: Pillow spreads grey PNGs of 2 and 4 bits over 0..255; this undoes it for label values.
_GREY_STEPS = {"L;2": 85, "L;4": 17}


def davis_palette() -> np.ndarray:
    """The palette (256, 3) u8 of DAVIS and PASCAL VOC: the bits of an id dealt to R, G, B, highest first."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            place = 3 * bit + channel
            if place < 8:
                palette[:, channel] |= ((ids >> place & 1) << (7 - bit)).astype(np.uint8)
    return palette


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB u8 (H, W, 3): upright by its EXIF orientation, alpha dropped, 16 bit reduced.

    Raises:
        DataError: missing, not a picture, truncated, or of floating-point pixels.
    """
    with opened_picture(path) as image:
        return pixels_of(path, image)


def pixels_of(path: Path, image: Image.Image) -> np.ndarray:
    """The frame at which a picture stands, as `read_image` reads one.

    Raises:
        DataError: of floating-point pixels.
    """
    if image.mode == "F":
        raise DataError(f"{path}: floating-point pixels; convert it to 8 bits per channel")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip
        grey = (np.asarray(upright).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(upright.convert("RGB"))


def label_maps(folder: Path) -> dict[str, Path]:
    """The PNGs of a folder by stem, without hidden ones; raises as `by_stem` does."""
    files = sorted(folder.iterdir())
    return by_stem(path for path in files if path.suffix.lower() == ".png" and not path.name.startswith("."))


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Files of a folder by their stems, which are the names of frames.

    Raises:
        DataError: two of them have one stem.
    """
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(file.stem, file)
        if other is not file:
            raise DataError(f"{file.parent}: {other.name} and {file.name} have the same stem; frames need unique names")
    return found


def label_size(path: Path) -> tuple[int, int]:
    """(height, width) of a label map, from its header alone.

    Raises:
        DataError: missing or not a picture.
    """
    with _opened(path) as image:
        return image.height, image.width


def image_size(path: Path) -> tuple[int, int]:
    """Upright (height, width) of a picture, from its header alone.

    Raises:
        DataError: missing or not a picture.
    """
    with opened_picture(path) as image:
        sideways = image.getexif().get(0x0112) in (5, 6, 7, 8)
        return (image.width, image.height) if sideways else (image.height, image.width)


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write u8 (H, W, 3) or (H, W) in the format of the suffix; the file appears whole or not at all."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary)
    return path


def read_label_png(path: Path, colours: Mapping[int, Colour] | None = None) -> np.ndarray:
    """Read a label map (H, W) as u8, or u16 from a 16-bit file: pixel values are ids, palettes are ignored.

    Args:
        colours: id -> (r, g, b), for files that hold colours instead of ids.

    Raises:
        DataError: unreadable, a JPEG, grey values of smoothed edges, colours without a list of them, or a colour that
            is not listed.
    """
    with _opened(path) as image:
        _refuse_jpeg(path, image)
        if image.mode in ("P", "L", "1"):
            step = _GREY_STEPS.get(_raw_mode(image), 1)  # known only until the pixels are loaded
            values = np.array(image).astype(np.uint8) // np.uint8(step)
            if image.mode == "L":
                _check_hard_edges(path, values)
            return values
        if image.mode.startswith("I"):
            return _as_u16(path, np.array(image))
        if image.mode not in ("RGB", "RGBA"):
            raise DataError(f"{path}: a label map of mode {image.mode}; expected palette, grey or colours")
        pixels = np.array(image.convert("RGB"))
    if not colours:
        raise DataError(
            f"{path}: holds colours, not label ids; give a class list with a colour per class, "
            "or convert it to a palette PNG"
        )
    return _from_colours(path, pixels, colours)


def read_colours(path: Path, most: int) -> set[Colour] | None:
    """The colours of a label map that holds colours, at least `most` + 1 where it has more; None if it holds ids.

    Raises:
        DataError: unreadable, a JPEG, or colours of smoothed edges.
    """
    with _opened(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            return None
        _refuse_jpeg(path, image)
        packed = _packed(np.array(image.convert("RGB")))
    values, places = np.unique(packed, return_inverse=True)
    _check_hard_edges(path, places.reshape(packed.shape))
    return {(value >> 16, value >> 8 & 255, value & 255) for value in values[: most + 1].tolist()}


def write_label_png(path: Path, labels: np.ndarray) -> Path:
    """Write a label map (H, W): a palette PNG in DAVIS colours, or 16-bit grey when an id is above 255.

    Raises:
        DataError: ids below 0 or above 65535.
    """
    lowest, highest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if lowest < 0 or highest > 65535:
        raise DataError(f"{path}: label ids must lie in 0..65535, found {lowest if lowest < 0 else highest}")
    if highest > 255:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(davis_palette().tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return path


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A frame's picture, lazily decoded, by Pillow, while this is held.

    Raises:
        DataError: missing, not a picture, damaged, or of a format that needs another package.
    """
    formats: tuple[str, ...] = (*FORMATS, *_OF_FRAMES)
    if path.suffix.lower() in (".heic", ".heif"):
        formats = (*formats, _heif(path))
    with _opened(path, formats) as image:
        yield image


@contextmanager
def _opened(path: Path, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=formats)
        with opened as image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: has more than the {MOST_PIXELS} pixels that are read; make it smaller") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        empty = " (0 bytes); fetch it again" if path.is_file() and not path.stat().st_size else ""
        raise DataError(f"{path}: not a picture that can be read{empty}") from error
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: damaged picture ({reason})") from error


def _heif(path: Path) -> str:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise DataError(f"{path}: reading HEIC needs pillow-heif: pip install 'vidseg[heif]', or convert it") from error
    return "HEIF"


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def _refuse_jpeg(path: Path, image: Image.Image) -> None:
    if image.format in ("JPEG", "MPO"):  # MPO: a JPEG with further pictures behind it
        raise DataError(f"{path}: a JPEG, which changes label values; store label maps as PNG")


def _check_hard_edges(path: Path, values: np.ndarray) -> None:
    """Refuse a mask in which most values are nothing but blends of others: no 2x2 pixels share them."""
    found = np.flatnonzero(np.bincount(values.ravel()))
    if len(found) <= MOST_BLENDS:
        return
    corner = values[:-1, :-1]
    solid = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    blends = len(found) - len(np.unique(corner[solid]))
    if blends >= MOST_BLENDS and 2 * blends >= len(found):
        raise DataError(
            f"{path}: {len(found)} values in a mask, {blends} of them on edges only: are its edges smoothed, or was it "
            "a JPEG? Save it as PNG without anti-aliasing, and change its size with nearest neighbour"
        )


def _as_u16(path: Path, values: np.ndarray) -> np.ndarray:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(f"{path}: label ids must lie in 0..65535")
    return values.astype(np.uint16)


def _from_colours(path: Path, pixels: np.ndarray, colours: Mapping[int, Colour]) -> np.ndarray:
    ids = np.array(list(colours), np.uint16)
    keys = np.array([_packed(np.array(colour)) for colour in colours.values()])
    order = np.argsort(keys, kind="stable")
    packed = _packed(pixels)
    found = np.minimum(np.searchsorted(keys[order], packed), len(keys) - 1)
    unknown = keys[order][found] != packed
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        colour = tuple(int(value) for value in pixels[row, column])
        raise DataError(
            f"{path}: the colour {colour} at row {row}, column {column} belongs to no class; "
            "correct the picture, or give the class list that colour"
        )
    labels = ids[order][found]
    return labels.astype(np.uint8) if ids.max() <= 255 else labels


def _packed(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue
