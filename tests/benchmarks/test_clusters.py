"""Criteria that choose K: on tokens whose clusters are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from benchmarks import clusters
from stages.common.settings import load


def blobs(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count, 16)) * 10
    return (np.repeat(centres, 30, axis=0) + rng.normal(size=(30 * count, 16))).astype(np.float32)


@pytest.mark.parametrize("choose", clusters.CRITERIA.values(), ids=clusters.CRITERIA)
@pytest.mark.parametrize("count", [3, 6])
def test_clusters_that_lie_apart_are_counted(choose: Callable[[clusters.Clusterings], int], count: int) -> None:
    segment = load(None, ["segment.balance=0"])["segment"]
    assert choose(clusters.clusterings(blobs(count), range(2, 13), segment)) == count


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    tokens = blobs(3)
    labels = np.random.default_rng(1).integers(0, 4, len(tokens))
    distances = np.linalg.norm(tokens[:, None] - tokens, axis=2)
    assert clusters.mean_silhouette(distances, labels) == pytest.approx(silhouette_score(tokens, labels), abs=1e-5)
