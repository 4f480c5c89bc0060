from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.errors import DataError
from pipeline.media.pictures import (
    davis_palette,
    image_size,
    read_image,
    read_label_png,
    write_image,
    write_label_png,
)
from tests.support.places import DATA


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 4, (6, 9)).astype(np.uint8)


def packed_png(path: Path, values: np.ndarray, bits: int, colour_type: int) -> Path:
    """A PNG of 1, 2 or 4 bits per pixel, grey (0) or palette (3), which Pillow itself does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    planes = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(planes, axis=1))
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if colour_type == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def disc(size: int = 96) -> Image.Image:
    rows, columns = np.mgrid[:size, :size] - size // 2
    return Image.fromarray((255 * (rows**2 + columns**2 < (size // 3) ** 2)).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


SMOOTHED = {
    "blurred a little": lambda: disc().filter(ImageFilter.GaussianBlur(1)),
    "blurred": lambda: disc().filter(ImageFilter.GaussianBlur(3)),
    "a JPEG once": lambda: as_jpeg(disc(), 75),
    "a JPEG of little loss": lambda: as_jpeg(disc(), 95),
    "made larger": lambda: disc().resize((300, 200), Image.Resampling.BICUBIC),
    "made smaller": lambda: disc().resize((50, 40), Image.Resampling.LANCZOS),
    "smoothed ids": lambda: Image.fromarray(np.array(disc(), np.uint8) // 20).filter(ImageFilter.GaussianBlur(2)),
}


@pytest.mark.parametrize("kind", SMOOTHED)
def test_masks_of_smoothed_edges_are_refused(kind: str, tmp_path: Path) -> None:
    SMOOTHED[kind]().save(tmp_path / "mask.png")
    message = r"mask.png: \d+ values in a mask, \d+ of them on edges only: are its edges smoothed, or was it a JPEG\?"
    with pytest.raises(DataError, match=message):
        read_label_png(tmp_path / "mask.png")


def test_the_smoothed_mask_of_a_report_is_refused_and_its_hard_twin_read() -> None:
    with pytest.raises(DataError, match="mask_smooth_edges.png: 249 values in a mask"):
        read_label_png(DATA / "cases" / "mask_smooth_edges.png")
    assert np.unique(read_label_png(DATA / "cases" / "mask_hard_edges.png")).tolist() == [0, 255]


def test_masks_of_many_or_tiny_objects_are_read(tmp_path: Path) -> None:
    blocks = np.kron(np.arange(100, dtype=np.uint8).reshape(10, 10), np.ones((4, 4), np.uint8))
    dots = np.zeros((40, 40), np.uint8)
    dots[5, 5], dots[9, 9], dots[20] = 3, 7, 9
    for number, values in enumerate((blocks, dots, np.array(disc()))):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        assert np.array_equal(read_label_png(tmp_path / f"{number}.png"), values)


def test_the_davis_palette_has_its_known_colours() -> None:
    palette = davis_palette()
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        255: (224, 224, 192),
    }
    assert {key: tuple(map(int, palette[key])) for key in known} == known
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


def test_label_round_trip_as_palette(tmp_path: Path, labels: np.ndarray) -> None:
    path = write_label_png(tmp_path / "new" / "a.png", labels)
    read = read_label_png(path)
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.uint8
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), davis_palette()[labels])
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_label_round_trip_above_255(tmp_path: Path, labels: np.ndarray) -> None:
    wide = labels.astype(np.uint16) * 300
    read = read_label_png(write_label_png(tmp_path / "a.png", wide))
    np.testing.assert_array_equal(read, wide)
    assert read.dtype == np.uint16


@pytest.mark.parametrize("wrong", [-1, 70000])
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(DataError, match=f"0..65535, found {wrong}"):
        write_label_png(tmp_path / "a.png", np.array([[0, wrong]]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("bits", "colour_type"), [(1, 0), (2, 0), (4, 0), (2, 3), (4, 3)])
def test_packed_label_files_keep_their_values(tmp_path: Path, labels: np.ndarray, bits: int, colour_type: int) -> None:
    values = labels % 2**bits
    np.testing.assert_array_equal(read_label_png(packed_png(tmp_path / "a.png", values, bits, colour_type)), values)


def test_grey_labels(tmp_path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_become_ids(tmp_path: Path, labels: np.ndarray, mode: str) -> None:
    colours = {0: (0, 0, 0), 1: (9, 9, 200), 2: (9, 200, 9), 3: (200, 9, 9), 300: (1, 2, 3)}
    lookup = np.array([colours[value] for value in range(4)], np.uint8)
    Image.fromarray(lookup[labels]).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "a.png", colours), labels)
    with pytest.raises(DataError, match=r"a\.png: holds colours, not label ids"):
        read_label_png(tmp_path / "a.png")
    del colours[3]
    with pytest.raises(DataError, match=r"a\.png: the colour \(200, 9, 9\) at row \d, column \d belongs to no"):
        read_label_png(tmp_path / "a.png", colours)


def test_other_label_modes_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="mode CMYK"):
        read_label_png(tmp_path / "a.tif")


@pytest.mark.parametrize(("mode", "more"), [("L", 0), ("RGB", 0), ("L", 1)])
def test_label_maps_that_are_jpegs_are_refused_whatever_their_name(tmp_path: Path, mode: str, more: int) -> None:
    image = Image.new(mode, (16, 16), 3 if mode == "L" else (3, 3, 3))
    image.save(tmp_path / "a.png", format="MPO", save_all=True, append_images=[image] * more)  # alone, a mere JPEG
    with pytest.raises(DataError, match=r"a\.png: a JPEG, which changes label values; store label maps as PNG"):
        read_label_png(tmp_path / "a.png", {1: (3, 3, 3)})


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image.min() >= 250


def test_16_bit_grey_is_reduced_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :4] = 255  # a bright left side
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left side comes up
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (16, 8, 3)
    assert image_size(tmp_path / "a.png") == (16, 8)
    assert image[:4].min() == 255 and image[4:].max() == 0


@pytest.mark.parametrize("read", [read_image, read_label_png, image_size])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "not a picture"), (b"plain text", "not a picture")],
)
def test_unreadable_files_are_named(tmp_path: Path, read: object, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png: {message}"):
        read(path)  # type: ignore[operator]


def test_a_truncated_picture_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_image(tmp_path / "a.png", rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png: damaged picture"):
        read_image(path)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "a.tif")
