from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA as Reference

from pipeline.errors import DataError
from pipeline.rendering import pca


@pytest.fixture
def tokens(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((500, 8)) * [9, 5, 3, 1, 1, 0.5, 0.5, 0.1] + 4).astype(np.float32)


def test_axes_are_those_of_scikit_learn(tokens: np.ndarray) -> None:
    expected = Reference(3).fit(tokens)
    fitted = pca.fit(tokens)
    signs = np.sign((fitted.axes.T * expected.components_).sum(axis=1))
    np.testing.assert_allclose(fitted.axes.T, expected.components_ * signs[:, None], atol=1e-4)
    np.testing.assert_allclose(fitted.explained, expected.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(fitted.mean, expected.mean_, rtol=1e-4)


def test_signs_are_fixed(tokens: np.ndarray) -> None:
    """A solver may return either sign; mirrored features have mirrored axes, and both rules choose one."""
    for fitted in (pca.fit(tokens), pca.fit(-tokens)):
        assert (fitted.axes[np.abs(fitted.axes).argmax(axis=0), range(3)] > 0).all()


def test_colours_spread_over_the_whole_range(tokens: np.ndarray) -> None:
    colours = pca.fit(tokens).colours(tokens.reshape(50, 10, 8))
    assert colours.shape == (50, 10, 3) and colours.dtype == np.uint8
    for channel in range(3):
        values = colours[..., channel]
        assert 0.005 <= (values == 0).mean() <= 0.02 and 0.005 <= (values == 255).mean() <= 0.02
        assert 90 < values.mean() < 165


def test_equal_tokens_have_one_colour() -> None:
    colours = pca.fit(np.ones((10, 4))).colours(np.ones((10, 4)))
    assert (colours == colours[0]).all()


@pytest.mark.parametrize(("frames", "n"), [(1, 6), (7, 50), (200, 1024)])
def test_sample_covers_the_clip_within_bounds(frames: int, n: int) -> None:
    asked: list[int] = []

    def read(frame: int) -> np.ndarray:
        asked.append(frame)
        return np.full((n, 4), frame)

    taken = pca.sample(read, frames)
    assert len(taken) <= 16384 + 48 and len(asked) <= 48
    assert asked[0] == 0 and asked[-1] == frames - 1
    assert set(taken[:, 0]) == set(asked)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 2)), "features of 2 channels have no three principal components"),
        (np.full((5, 4), np.nan), "features hold NaN or infinite values; run `vidseg extract` again"),
    ],
)
def test_bad_features_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pca.fit(values)
