from __future__ import annotations

import numpy as np
import pytest

from pipeline.parameters import UpsampleParity
from pipeline.upsampling import difference as maps
from pipeline.upsampling.difference import difference_map


def test_squared_difference_is_the_papers_norm() -> None:
    """Section 3.2: D_l = ||I+ - I-||^2 over the colour channels."""
    difference = np.array([[[1.0, 2.0, 2.0], [0.0, -3.0, 4.0]]], np.float32)
    np.testing.assert_allclose(maps.squared_difference(difference), [[9, 25]])
    np.testing.assert_allclose(maps.root_difference(difference), [[3, 5]])


@pytest.mark.parametrize("size", [(20, 30), (31, 47), (9, 13)])
def test_planes_are_enlarged_as_the_image_is(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal((20, 30, 3), dtype=np.float32)
    planes = maps.resize_planes(np.ascontiguousarray(image.transpose(2, 0, 1)), size)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), maps.resize_image(image, size))


def test_eq7_filter() -> None:
    """Eq. 7: D~ = D M + s D (1 - M)."""
    values = np.array([[10.0, 10.0, 10.0]], np.float32)
    mask = np.array([[1.0, 0.5, 0.0]], np.float32)
    np.testing.assert_allclose(maps.filtered(values, mask, 0.7), [[10.0, 8.5, 7.0]], rtol=1e-6)
    np.testing.assert_allclose(maps.filtered(values, mask, 1.0), values)


def test_the_authors_difference_wraps_modulo_256() -> None:
    plus, minus = np.full((9, 9, 3), 200, np.uint8), np.full((9, 9, 3), 180, np.uint8)
    np.testing.assert_allclose(maps.wrapped_difference(plus, minus), np.sqrt(3 * (400 % 256)), rtol=1e-5)


@pytest.mark.parametrize(
    ("parity", "expected"),
    [
        (UpsampleParity(difference="squared", blur=False), 3 * 4.0),
        (UpsampleParity(difference="root", blur=False), np.sqrt(12.0)),
        (UpsampleParity(difference="squared", blur=True), 3 * 4.0),
    ],
)
def test_difference_map_in_grey_levels(parity: UpsampleParity, expected: float) -> None:
    plus = np.full((3, 4, 4), 2 / 127.5, np.float32)
    result = difference_map(plus, np.zeros_like(plus), (6, 8), parity)
    assert result.shape == (6, 8)
    np.testing.assert_allclose(result, expected, rtol=1e-4)


def test_difference_is_not_clipped_and_not_quantised() -> None:
    plus, minus = np.full((3, 4, 4), 1.5, np.float32), np.full((3, 4, 4), 1.4999, np.float32)
    assert difference_map(plus, minus, (4, 4), UpsampleParity(difference="root", blur=False)).min() > 0.01


@pytest.mark.parametrize(("difference", "dtype"), [("squared", np.float32), ("wrapped", np.float64)])
def test_maps_of_8_bits_are_divided_in_double_precision(difference: str, dtype: type) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    values = difference_map(*images, (8, 8), UpsampleParity(difference=difference))  # type: ignore[arg-type]
    assert values.dtype == maps.normalize(values, values.max()).dtype == dtype
    assert maps.normalize(values, values.max()).max() == pytest.approx(1, abs=1e-5)
