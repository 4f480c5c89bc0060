from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.report.encoding import exact_picture, packed, picture


def unpacked(text: str, shape: tuple[int, int], kind: str) -> np.ndarray:
    rows = np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(shape)
    return np.bitwise_xor.accumulate(rows, axis=0)


@pytest.mark.parametrize(("dtype", "kind", "highest"), [(np.uint8, "u1", 255), (np.uint16, "<u2", 65535)])
def test_a_map_comes_back_from_its_text(
    dtype: type[np.unsignedinteger], kind: str, highest: int, rng: np.random.Generator
) -> None:
    plane = rng.integers(0, highest, (13, 7), dtype=dtype, endpoint=True)
    np.testing.assert_array_equal(unpacked(packed(plane), (13, 7), kind), plane)


def test_flat_maps_take_little_room() -> None:
    assert len(packed(np.full((480, 854), 7, np.uint8))) < 1000


def test_pictures_are_data_uris(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (6, 5, 3), np.uint8)
    for text, kind in ((exact_picture(image), "PNG"), (picture(image), "WEBP")):
        head, _, body = text.partition(",")
        assert head == f"data:image/{kind.lower()};base64"
        opened = Image.open(io.BytesIO(base64.b64decode(body)))
        assert (opened.format, opened.size) == (kind, (5, 6))
        if kind == "PNG":
            np.testing.assert_array_equal(np.array(opened), image)
