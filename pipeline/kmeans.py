"""K-Means for the first frame's segments (paper section 4.1): greedy k-means++ seeds, FAISS iterations.

FAISS' own seeding is random, which lands in clearly worse optima on diffusion features; greedy k-means++
matches the inertia of scikit-learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UsageError
from pipeline.faiss_library import load_faiss
from pipeline.finite import require_finite

ITERATIONS = 100


@dataclass(frozen=True)
class KMeansResult:
    """The best of several K-Means runs.

    Attributes:
        labels: (n,) int32; 0 is the largest cluster, 1 the next (on equal size: the one whose first token
            comes first).
        centers: (l, c) float32, in the order of the labels.
        inertia: sum of squared distances of the tokens to their centres.
        iterations: how many iterations still lowered the inertia.
    """

    labels: np.ndarray
    centers: np.ndarray
    inertia: float
    iterations: int


def kmeans(tokens: np.ndarray, clusters: int, restarts: int, seed: int) -> KMeansResult:
    """Cluster tokens; the run with the lowest inertia of `restarts` runs wins (the earliest on ties).

    The result depends on the arguments alone: every run draws from its own generator, keyed by (seed, run).
    There can be fewer labels than `clusters` where tokens coincide.

    Args:
        tokens: (n, c) floats.

    Raises:
        UsageError: more clusters than tokens, or FAISS is not installed.
        DataError: tokens are not finite.
    """
    values = np.ascontiguousarray(tokens, np.float32)
    if clusters > len(values):
        raise UsageError(
            f"segment.clusters is {clusters}, but there are only {len(values)} tokens to cluster; "
            "lower segment.clusters or raise ingest.size"
        )
    if clusters < 1 or restarts < 1:
        raise UsageError("segment.clusters and segment.restarts must be at least 1")
    require_finite(values[None], "features")
    runs = [_run(values, greedy_seeds(values, clusters, np.random.default_rng((seed, run)))) for run in range(restarts)]
    return _renumbered(min(runs, key=lambda run: run.inertia))


def greedy_seeds(tokens: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: (l, c) seeds, each the best of a few tokens drawn in proportion to squared distance.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (2007), in the greedy variant of
    its section 7 with 2 + ln(l) candidates.
    """
    candidates = 2 + int(math.log(clusters))
    squares = np.einsum("nc,nc->n", tokens, tokens)
    chosen = [int(generator.integers(len(tokens)))]
    distance = _squared_distance(tokens, squares, chosen)[0]
    for _ in range(1, clusters):
        cumulative = np.cumsum(distance, dtype=np.float64)
        draws = np.searchsorted(cumulative, generator.random(candidates) * cumulative[-1], side="right")
        drawn = np.minimum(draws, len(tokens) - 1)
        remaining = np.minimum(distance, _squared_distance(tokens, squares, drawn))  # (candidates, n)
        best = int(remaining.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        distance = remaining[best]
    return tokens[chosen]


def _run(tokens: np.ndarray, seeds: np.ndarray) -> KMeansResult:
    faiss = load_faiss()
    clusters, channels = seeds.shape
    # Without these limits FAISS silently clusters a random subset, and warns about small clusters.
    run = faiss.Kmeans(
        channels, clusters, niter=ITERATIONS, max_points_per_centroid=10**9, min_points_per_centroid=1, seed=1
    )
    run.train(tokens, init_centroids=seeds)
    centers = np.asarray(run.centroids, np.float32).reshape(clusters, channels)
    _, nearest = run.index.search(tokens, 1)
    labels = nearest[:, 0].astype(np.int32)
    inertia = float(np.square(tokens - centers[labels], dtype=np.float64).sum())
    objective = np.asarray(run.obj)
    lowered = int(np.count_nonzero(objective > objective.min() * (1 + 1e-6))) + 1
    return KMeansResult(labels, centers, inertia, lowered)


def _renumbered(result: KMeansResult) -> KMeansResult:
    used, first_token, sizes = np.unique(result.labels, return_index=True, return_counts=True)
    order = np.lexsort((first_token, -sizes))
    rank = np.empty(len(used), np.int32)
    rank[order] = np.arange(len(used))
    labels = rank[np.searchsorted(used, result.labels)]
    return KMeansResult(labels, result.centers[used[order]], result.inertia, result.iterations)


def _squared_distance(tokens: np.ndarray, squares: np.ndarray, chosen: np.ndarray | list[int]) -> np.ndarray:
    """(k, n) squared distances of the chosen tokens to all tokens."""
    products = tokens[chosen] @ tokens.T
    distances = squares[chosen][:, None] - 2 * products + squares[None, :]
    distances[np.arange(len(products)), chosen] = 0
    return np.maximum(distances, 0)
