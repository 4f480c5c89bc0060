"""K-Means of the first frame's features."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans

from pipeline.errors import DataError, UsageError
from pipeline.segmentation.kmeans import greedy_seeds, kmeans
from tests.support.commands import ENVIRONMENT


@pytest.fixture
def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens around five centres with 80, 60, 40, 20 and 10 members, shuffled, and their group."""
    centers = 10 * rng.standard_normal((5, 16))
    group = rng.permutation(np.repeat(np.arange(5), (80, 60, 40, 20, 10)))
    return (centers[group] + 0.3 * rng.standard_normal((210, 16))).astype(np.float32), group


def test_labels_are_numbered_by_descending_size(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, group = blobs
    result = kmeans(tokens, 5, restarts=3, seed=0)
    np.testing.assert_array_equal(result.labels, group)
    for label in range(5):
        np.testing.assert_allclose(result.centers[label], tokens[group == label].mean(axis=0), atol=1e-4)
    assert result.inertia == pytest.approx(np.square(tokens - result.centers[group]).sum(), rel=1e-5)


def test_equal_sizes_are_numbered_by_their_first_token() -> None:
    tokens = np.repeat(np.eye(3, dtype=np.float32)[[2, 0, 1]], 4, axis=0)
    assert kmeans(tokens, 3, restarts=2, seed=0).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("clusters", [2, 7, 20])
def test_inertia_is_not_worse_than_scikit_learn(clusters: int, rng: np.random.Generator) -> None:
    smooth = rng.standard_normal((6, 4, 12)).repeat(10, axis=0).reshape(-1, 12)
    tokens = (smooth + 0.5 * rng.standard_normal(smooth.shape)).astype(np.float32)
    # Both draw lots: either may find the better optimum.
    theirs = KMeans(clusters, n_init=10, random_state=0).fit(tokens)
    assert kmeans(tokens, clusters, restarts=10, seed=0).inertia <= 1.02 * theirs.inertia_


def test_a_seed_repeats_and_more_restarts_never_hurt(rng: np.random.Generator) -> None:
    tokens = rng.standard_normal((300, 8)).astype(np.float32)
    first, again = kmeans(tokens, 9, 4, seed=5), kmeans(tokens, 9, 4, seed=5)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centers, again.centers)
    assert kmeans(tokens, 9, 8, seed=5).inertia <= first.inertia <= kmeans(tokens, 9, 1, seed=5).inertia


def test_threads_do_not_change_the_result() -> None:
    code = (
        "import numpy as np, hashlib; from pipeline.segmentation.kmeans import kmeans;"
        "t = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32);"
        "print(hashlib.sha256(kmeans(t, 12, 4, 0).labels.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**ENVIRONMENT, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1


def test_greedy_seeds_spread_over_far_groups(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, group = blobs
    generators = [np.random.default_rng(seed) for seed in (1, 2)]
    seeds, nearest = greedy_seeds(tokens, np.square(tokens).sum(axis=1), np.ones(len(tokens)), 5, generators)
    for chosen, labels in zip(seeds, nearest, strict=True):
        assert sorted(group[chosen]) == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(group[chosen][labels], group)


def plain_iterations(tokens: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm in float64, every distance computed, until no token moves."""
    while True:
        chosen = [labels == label for label in range(labels.max() + 1)]
        centers = np.stack([np.average(tokens[of], axis=0, weights=weights[of]) for of in chosen])
        following = np.square(tokens[:, None] - centers).sum(axis=2).argmin(axis=1)
        if np.array_equal(following, labels):
            return labels
        labels = following


def spread(tokens: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> float:
    total = 0.0
    for label in np.unique(labels):
        of = labels == label
        mean = np.average(tokens[of], axis=0, weights=weights[of])
        total += (weights[of, None] * np.square(tokens[of] - mean)).sum()
    return total


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize(("noise", "clusters"), [(0.3, 4), (1.0, 9), (3.0, 20)])
def test_labels_are_those_of_plain_iterations(
    noise: float, clusters: int, weighted: bool, rng: np.random.Generator
) -> None:
    smooth = rng.standard_normal((40, 24)).repeat(15, axis=0)
    tokens = (smooth + noise * rng.standard_normal(smooth.shape)).astype(np.float32)
    weights = rng.uniform(0.01, 3, len(tokens)).astype(np.float32) if weighted else np.ones(len(tokens), np.float32)
    generators = [np.random.default_rng((7, run)) for run in range(3)]
    _, nearest = greedy_seeds(tokens, np.square(tokens).sum(axis=1), weights, clusters, generators)
    found = [plain_iterations(tokens.astype(float), weights, labels) for labels in nearest]
    spreads = [spread(tokens, weights, labels) for labels in found]
    best = found[int(np.argmin(spreads))]
    ours = kmeans(tokens, clusters, restarts=3, seed=7, weights=weights if weighted else None)
    assert ours.inertia == pytest.approx(min(spreads), rel=1e-5)
    np.testing.assert_array_equal(best[:, None] == best, ours.labels[:, None] == ours.labels)


@pytest.mark.parametrize("clusters", [1, 4, 6])
def test_fewer_distinct_tokens_than_clusters_give_fewer_labels(clusters: int) -> None:
    tokens = np.repeat(np.eye(3, 5, dtype=np.float32), 2, axis=0)
    result = kmeans(tokens, clusters, restarts=2, seed=0)
    count = len(np.unique(result.labels))
    assert count == min(clusters, 3)
    assert set(result.labels) == set(range(count))
    assert len(result.centers) == count


def test_as_many_clusters_as_tokens() -> None:
    result = kmeans(np.eye(6, dtype=np.float32), 6, restarts=1, seed=0)
    assert result.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert result.inertia == 0


def test_more_clusters_than_tokens_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"segment.clusters is 9, but there are only 6 tokens"):
        kmeans(np.eye(6, dtype=np.float32), 9, restarts=1, seed=0)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        kmeans(np.full((6, 2), np.nan), 2, restarts=1, seed=0)
