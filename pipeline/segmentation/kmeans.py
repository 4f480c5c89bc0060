"""K-Means for the first frame's segments (paper section 4.1): greedy k-means++ seeds, exact Lloyd iterations.

All restarts go in step, so that their products with the tokens are few and large, and distances that cannot matter
are not computed: the triangle inequality bounds how far a token's distances can have changed since they were last
computed (Elkan, "Using the triangle inequality to accelerate k-means", 2003). Labels are those of the plain
iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UsageError
from pipeline.finite import require_finite

ITERATIONS = 100
#: Above this share of undecided tokens one product with all tokens costs less than one per run with its own.
SHARED = 0.5
#: Tokens that are gathered at a time, few enough to stay in the processor's cache.
BLOCK = 512
#: What rounding may change in a squared distance, in parts of the squared lengths.
SLACK = np.float32(2**-15)


@dataclass(frozen=True)
class KMeansResult:
    """The best of several K-Means runs.

    Attributes:
        labels: (n,) int32; 0 is the largest cluster, 1 the next (on equal size: the one whose first token
            comes first).
        centers: (l, c) float32, the means of the labels' tokens, weighted.
        inertia: sum of squared distances of the tokens to their centres, each times the token's weight.
    """

    labels: np.ndarray
    centers: np.ndarray
    inertia: float


def kmeans(
    tokens: np.ndarray, clusters: int, restarts: int, seed: int, weights: np.ndarray | None = None
) -> KMeansResult:
    """Cluster tokens; the run with the lowest inertia of `restarts` runs wins (the earliest on ties).

    The result depends on the arguments alone: every run draws from its own generator, keyed by (seed, run).
    There can be fewer labels than `clusters` where tokens coincide.

    Args:
        tokens: (n, c) floats.
        weights: (n,) positive floats, how much each token counts; None: all count 1.

    Raises:
        UsageError: more clusters than tokens.
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
    counts = np.ones(len(values), np.float32) if weights is None else np.asarray(weights, np.float32)
    best = min(_runs(values, counts, clusters, restarts, seed), key=lambda run: run.inertia())
    return _result(values, counts, best)


def greedy_seeds(
    tokens: np.ndarray,
    squares: np.ndarray,
    weights: np.ndarray,
    clusters: int,
    generators: Sequence[np.random.Generator],
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy k-means++: each seed is the best of a few tokens drawn in proportion to weighted squared distance.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (2007), in the greedy variant of
    its section 7 with 2 + ln(l) candidates.

    Args:
        squares: (n,) squared lengths of the tokens (n, c).
        weights: (n,) float32, how much each counts.
        generators: one for each of r runs.

    Returns:
        positions (r, l) of the seeds, and which seed is nearest to each token (r, n) int32, the first on ties.
    """
    candidates = 2 + int(math.log(clusters))
    runs = np.arange(len(generators))
    drawn = np.array([[generator.integers(len(tokens))] for generator in generators])
    distance = _squared_distance(tokens, squares, drawn)[:, 0]
    seeds = np.empty((len(generators), clusters), np.int64)
    seeds[:, 0] = drawn[:, 0]
    nearest = np.zeros(distance.shape, np.int32)
    for step in range(1, clusters):
        cumulative = np.cumsum(distance * weights, axis=1, dtype=np.float64)
        drawn = np.stack(
            [
                np.searchsorted(sums, generator.random(candidates) * sums[-1], side="right")
                for sums, generator in zip(cumulative, generators, strict=True)
            ]
        )
        drawn = np.minimum(drawn, len(tokens) - 1)
        remaining = _squared_distance(tokens, squares, drawn)  # (r, candidates, n)
        np.minimum(remaining, distance[:, None], out=remaining)
        best = (remaining * weights).sum(axis=2, dtype=np.float64).argmin(axis=1)
        seeds[:, step] = drawn[runs, best]
        nearest[remaining[runs, best] < distance] = step
        distance = remaining[runs, best]
    return seeds, nearest


def _squared_distance(tokens: np.ndarray, squares: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(r, k, n) squared distances of the chosen tokens (r, k) to all n."""
    distances = tokens[chosen.reshape(-1)] @ tokens.T
    distances *= -2
    distances += squares[chosen.reshape(-1), None]
    distances += squares
    distances[np.arange(chosen.size), chosen.reshape(-1)] = 0
    return np.maximum(distances, 0, out=distances).reshape(*chosen.shape, len(tokens))


class _Run:
    """One run between two iterations.

    Attributes:
        labels: (n,) int32, the centre that each token was last seen to be nearest to.
        centers: (l, c) float32, the means of the labels' tokens.
        upper: (n,) at least the distance to the label's centre.
        lower: (l, n) at most the distance to every other centre; infinite for the label's.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        squares: np.ndarray,
        weights: np.ndarray,
        seeds: np.ndarray,
        labels: np.ndarray,
        sums: np.ndarray,
    ) -> None:
        self._tokens, self._squares, self._weights = tokens, squares, weights
        self._sums = sums.astype(np.float64)
        self._counts = np.bincount(labels, weights, len(seeds))
        self.labels = labels
        self.centers = self._means(seeds)
        self.upper = np.full(len(tokens), np.inf, np.float32)
        self.lower = np.zeros((len(seeds), len(tokens)), np.float32)

    def undecided(self) -> np.ndarray:
        """Positions (m,) of the tokens whose nearest centre may have changed."""
        return np.flatnonzero(self.lower.min(axis=0) < self.upper)

    def products(self, at: np.ndarray) -> np.ndarray:
        """(l, m) products of the centres with the tokens `at` (m,)."""
        products = np.empty((len(at), len(self.centers)), np.float32)
        for part, tokens in _blocks(self._tokens, at):
            np.matmul(tokens, self.centers.T, out=products[part])
        return np.ascontiguousarray(products.T)

    def assign(self, at: np.ndarray | slice, products: np.ndarray) -> bool:
        """Give the tokens `at` their nearest centres, from their products (l, m) with all; whether any moved."""
        lengths = np.einsum("lc,lc->l", self.centers, self.centers)
        squared = products
        squared *= -2  # in place: these arrays are large
        squared += lengths[:, None]
        squared += self._squares[at]
        nearest = squared.argmin(axis=0).astype(np.int32)
        columns = np.arange(len(nearest))
        slack = SLACK * (self._squares[at] + lengths.max())
        self.upper[at] = np.sqrt(np.maximum(squared[nearest, columns], 0) + slack)
        squared -= slack
        lower = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        lower[nearest, columns] = np.inf
        self.lower[:, at] = lower
        moved = np.flatnonzero(nearest != self.labels[at])
        if len(moved):
            self._move(np.arange(len(self.labels))[at][moved], nearest[moved])
        return len(moved) > 0

    def _move(self, tokens: np.ndarray, after: np.ndarray) -> None:
        """Give tokens (m,) other labels, change the centres with them, and the bounds with the centres."""
        columns = np.arange(len(tokens))
        change = np.zeros((len(self.centers), len(tokens)), np.float32)
        change[after, columns] = self._weights[tokens]
        change[self.labels[tokens], columns] = -self._weights[tokens]
        self.labels[tokens] = after
        for part, moved in _blocks(self._tokens, tokens):
            self._sums += change[:, part] @ moved
        self._counts = np.bincount(self.labels, self._weights, len(self.centers))
        centers = self._means(self.centers)
        shifts = np.linalg.norm(centers - self.centers, axis=1)
        self.centers = centers
        self.upper += shifts[self.labels]
        self.lower -= shifts[:, None]

    def _means(self, otherwise: np.ndarray) -> np.ndarray:
        """The mean of each label's tokens; a centre without tokens stays where it was."""
        used = self._counts[:, None] > 0
        return np.where(used, self._sums / np.where(used, self._counts[:, None], 1), otherwise).astype(np.float32)

    def inertia(self) -> float:
        """Weighted sum of squared distances to the means, up to rounding."""
        within = np.square(self._sums).sum(axis=1) / np.where(self._counts > 0, self._counts, 1)
        return float((self._squares * self._weights).sum(dtype=np.float64) - within.sum())


def _runs(tokens: np.ndarray, weights: np.ndarray, clusters: int, restarts: int, seed: int) -> list[_Run]:
    """All runs, each iterated (Lloyd) until no token moves any more, in step."""
    squares = np.einsum("nc,nc->n", tokens, tokens)
    generators = [np.random.default_rng((seed, run)) for run in range(restarts)]
    seeds, nearest = greedy_seeds(tokens, squares, weights, clusters, generators)
    members = nearest[:, None] == np.arange(clusters)[:, None]  # (r, l, n)
    weighted = tokens * weights[:, None]
    sums = (members.reshape(-1, len(tokens)).astype(np.float32) @ weighted).reshape(restarts, clusters, -1)
    runs = [
        _Run(tokens, squares, weights, tokens[chosen], labels, added)
        for chosen, labels, added in zip(seeds, nearest, sums, strict=True)
    ]
    active = runs
    for _ in range(ITERATIONS):
        undecided = [run.undecided() for run in active]
        if sum(map(len, undecided)) > SHARED * len(active) * len(tokens):
            products = np.concatenate([run.centers for run in active]) @ tokens.T
            parts = np.split(products, len(active))
            moved = [run.assign(slice(None), part) for run, part in zip(active, parts, strict=True)]
        else:
            moved = [run.assign(at, run.products(at)) for run, at in zip(active, undecided, strict=True)]
        active = [run for run, goes_on in zip(active, moved, strict=True) if goes_on]
        if not active:
            break
    return runs


def _blocks(tokens: np.ndarray, at: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The tokens `at`, block by block, and where in `at` each block lies."""
    for start in range(0, len(at), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, tokens[at[part]]


def _result(tokens: np.ndarray, weights: np.ndarray, run: _Run) -> KMeansResult:
    """Number the clusters by size, and measure them."""
    used, first_token, sizes = np.unique(run.labels, return_index=True, return_counts=True)
    order = np.lexsort((first_token, -sizes))
    rank = np.empty(len(used), np.int32)
    rank[order] = np.arange(len(used))
    labels, centers = rank[np.searchsorted(used, run.labels)], run.centers[used[order]]
    inertia = 0.0
    for part, members in _blocks(tokens, np.arange(len(tokens))):
        members -= centers[labels[part]]
        inertia += float((np.einsum("nc,nc->n", members, members) * weights[part]).sum(dtype=np.float64))
    return KMeansResult(labels, centers, inertia)
