"""Equation 3: matches between consecutive frames."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError, UsageError
from pipeline.segmentation.correspondence import match_pair, next_tokens, stream_matches, unit_tokens

GRID = (4, 5)
TOKENS = 20


def literal_equation_3(
    features: np.ndarray, grid: tuple[int, int], threshold: float, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """argmax over q of the cosine of F^j[p] and F^{j+1}[q], with ||p - q||^2 <= T, token by token."""
    frames, tokens, _ = features.shape
    following = np.full((frames - 1, tokens), -1)
    similarity = np.zeros((frames - 1, tokens))
    for j in range(frames - 1):
        for p in range(tokens):
            best, best_q = -np.inf, -1
            for q in range(tokens):
                near = sum((a - b) ** 2 for a, b in zip(divmod(p, grid[1]), divmod(q, grid[1]), strict=True))
                if rule == "constrained" and near > threshold:
                    continue
                a, b = features[j, p].astype(float), features[j + 1, q].astype(float)
                cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                if cosine > best:
                    best, best_q, best_near = cosine, q, near
            similarity[j, p] = best
            following[j, p] = best_q if best_near <= threshold else -1
    return following, similarity


@pytest.mark.parametrize("rule", ["constrained", "reject"])
@pytest.mark.parametrize("threshold", [0, 1, 2, 3.9, 4, 8, 1000])
def test_equation_3_against_the_literal_version(rule: str, threshold: float, rng: np.random.Generator) -> None:
    features = rng.standard_normal((3, TOKENS, 6)).astype(np.float32) * rng.uniform(0.1, 9, (3, TOKENS, 1))
    following, similarity = literal_equation_3(features, GRID, threshold, rule)
    matches = next_tokens(features, GRID, threshold, rule)
    np.testing.assert_array_equal(matches.next, following)
    np.testing.assert_allclose(matches.similarity, similarity, atol=1e-5)
    assert matches.next.dtype == np.int32
    assert matches.similarity.dtype == np.float32


def test_a_shift_of_the_content_is_followed(rng: np.random.Generator) -> None:
    canvas = rng.standard_normal((5, 7, 8)).astype(np.float32)
    features = np.stack([canvas[:4, 1:6], canvas[:4, 0:5]]).reshape(2, TOKENS, 8)  # content moves right by one
    matches = next_tokens(features, GRID, 2, "constrained")
    inside = np.arange(TOKENS).reshape(GRID)[:, :-1].reshape(-1)
    np.testing.assert_array_equal(matches.next[0, inside], inside + 1)


@pytest.mark.parametrize(("rule", "expected"), [("constrained", [0, 0, 1, 2, 3]), ("reject", [0, 0, -1, -1, -1])])
def test_ties_go_to_the_lowest_token(rule: str, expected: list[int]) -> None:
    features = np.zeros((2, 5, 3), np.float32)
    features[..., 1] = 1  # all tokens alike
    assert next_tokens(features, (1, 5), 1, rule).next[0].tolist() == expected


def test_zero_tokens_are_similar_to_nothing() -> None:
    features = np.zeros((2, TOKENS, 3), np.float32)
    matches = next_tokens(features, GRID, 2, "constrained")
    assert (matches.similarity == 0).all()
    assert (matches.next >= 0).all()


@pytest.mark.parametrize("frames", [0, 1])
def test_fewer_than_two_frames_have_no_matches(frames: int) -> None:
    matches = next_tokens(np.ones((frames, TOKENS, 3), np.float32), GRID, 2, "constrained")
    assert matches.next.shape == matches.similarity.shape == (0, TOKENS)
    assert matches.next.dtype == np.int32


def test_streaming_equals_the_whole(rng: np.random.Generator) -> None:
    features = rng.standard_normal((4, TOKENS, 6)).astype(np.float16)
    whole = next_tokens(features, GRID, 2, "constrained")
    streamed = list(stream_matches(iter(features), GRID, 2, "constrained"))
    np.testing.assert_array_equal(np.stack([following for following, _ in streamed]), whole.next)
    np.testing.assert_array_equal(np.stack([similarity for _, similarity in streamed]), whole.similarity)


@pytest.mark.parametrize("rule", ["constrained", "reject"])
def test_nothing_is_matched_across_a_cut(rng: np.random.Generator, rule: str) -> None:
    features = rng.standard_normal((6, TOKENS, 6)).astype(np.float32)
    whole = next_tokens(features, GRID, 2, rule)
    cut = next_tokens(features, GRID, 2, rule, first_frame=10, cuts=(3, 12, 14, 16))
    assert (cut.next[[1, 3]] == -1).all() and (cut.similarity[[1, 3]] == 0).all()
    np.testing.assert_array_equal(cut.next[[0, 2, 4]], whole.next[[0, 2, 4]])
    np.testing.assert_array_equal(cut.similarity[[0, 2, 4]], whole.similarity[[0, 2, 4]])


def test_nan_names_the_frame_of_the_clip() -> None:
    features = np.ones((3, TOKENS, 3), np.float32)
    features[2, 4, 1] = np.nan
    with pytest.raises(DataError, match="matching features of frame 16 have NaN"):
        next_tokens(features, GRID, 2, "constrained", first_frame=14)


@pytest.mark.parametrize(
    ("threshold", "rule", "message"),
    [
        (-1, "constrained", "max_squared_distance must be at least 0"),
        (2, "best", "constrained, reject, not 'best'"),
    ],
)
def test_bad_parameters_are_named(threshold: float, rule: str, message: str) -> None:
    tokens = unit_tokens(np.ones((TOKENS, 3)))
    with pytest.raises(UsageError, match=message):
        match_pair(tokens, tokens, GRID, threshold, rule)


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"frame 0 have shape \(20, 3\), which does not fit a grid of 4x4"):
        next_tokens(np.ones((2, TOKENS, 3)), (4, 4), 2, "constrained")
