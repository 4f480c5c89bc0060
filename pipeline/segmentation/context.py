"""The scene context model: labelled features of earlier frames, and a nearest-neighbour vote (section 4.1).

Terms: a *segment of memory* is a set of tokens that were learnt together. The *first* segment is what the
model was fitted on, frame 1 with its K-Means labels or its given mask; each *window* segment holds one
refined window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.finite import require_finite
from pipeline.parameters import MemoryPolicy
from pipeline.segmentation.faiss_library import load_faiss
from pipeline.segmentation.kmeans import greedy_seeds


@dataclass(frozen=True)
class Segment:
    """Tokens learnt together: features (n, c) float32, max-abs-normalised, and labels (n,) int32."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Neighbours:
    """The remembered tokens that are nearest to those of a window, the nearest first.

    Attributes:
        labels: (f, n, k) int32.
        distances: (f, n, k) float32, Euclidean.
    """

    labels: np.ndarray
    distances: np.ndarray

    def vote(self) -> np.ndarray:
        """(f, n) int32: the label that most have; the smallest wins ties."""
        values, positions = np.unique(self.labels, return_inverse=True)
        positions = positions.reshape(-1, self.labels.shape[-1])
        votes = np.zeros((len(positions), len(values)), np.int32)
        np.add.at(votes, (np.arange(len(positions))[:, None], positions), 1)
        return values[votes.argmax(axis=1)].reshape(self.labels.shape[:-1])


@dataclass(frozen=True)
class Context:
    """The model's whole state; every change makes a new one.

    Attributes:
        first: what it was fitted on, None once forgotten.
        windows: refined windows, oldest first.
        prototypes: representative tokens of every label ever seen, where the policy keeps them.
    """

    first: Segment | None
    windows: tuple[Segment, ...] = ()
    prototypes: Segment | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        first, prototypes = ((part,) if part is not None else () for part in (self.first, self.prototypes))
        return first + self.windows + prototypes

    @cached_property
    def features(self) -> np.ndarray:
        """(m, c) float32, all remembered tokens in the order of `segments`."""
        return np.concatenate([segment.features for segment in self.segments])

    @cached_property
    def labels(self) -> np.ndarray:
        """(m,) int32, label values of the remembered tokens."""
        return np.concatenate([segment.labels for segment in self.segments])

    @cached_property
    def latest_labels(self) -> frozenset[int]:
        """Label values of the last window; before the first one, of what the model was fitted on."""
        latest = self.windows[-1] if self.windows else self.first
        return frozenset() if latest is None else frozenset(np.unique(latest.labels).tolist())

    def predict(self, features: np.ndarray, neighbors: int, first_frame: int = 0) -> np.ndarray:
        """Label every token by its `neighbors` nearest remembered tokens (Euclidean, exact).

        Each neighbour has one vote; the smallest label wins ties. Takes and raises what `neighbours` does.

        Returns:
            (f, n) int32 label values.
        """
        return self.neighbours(features, neighbors, first_frame).vote()

    def neighbours(self, features: np.ndarray, count: int, first_frame: int = 0) -> Neighbours:
        """The `count` remembered tokens that are nearest to every token (Euclidean, exact).

        Args:
            features: (f, n, c) floats, max-abs-normalised.
            first_frame: position of `features[0]` in its clip, for error messages.

        Raises:
            UsageError: more neighbours than remembered tokens, or FAISS is not installed.
            DataError: features are not finite or have another number of channels than the memory.
        """
        frames, tokens, channels = features.shape
        memory, known = self.features.shape
        if channels != known:
            raise DataError(
                f"the context model holds features of {known} channels, this clip has {channels}; use a "
                "context made with the same backbone and blocks"
            )
        if count > memory:
            raise UsageError(
                f"segment.neighbors is {count}, but the context model remembers only {memory} tokens; "
                f"set segment.neighbors to at most {memory}"
            )
        require_finite(features, "features", first_frame)
        queries = np.ascontiguousarray(features.reshape(-1, channels), np.float32)
        distances, nearest = nearest_distances(self.features, queries, count)
        shape = (frames, tokens, count)
        return Neighbours(self.labels[nearest].reshape(shape), distances.reshape(shape))

    def update(self, features: np.ndarray, labels: np.ndarray, memory: MemoryPolicy) -> Context:
        """The model after a window: (f, n, c) features and their refined (f, n) labels.

        A policy that keeps the first segment, on a model that has forgotten it, keeps the oldest window
        instead.
        """
        first, past = self.first, self.windows
        if not memory.keep_first:
            first = None
        elif first is None:
            first, past = past[0], past[1:]
        windows = (*past, make_segment(features, labels))
        prototypes = representatives((*self.segments, windows[-1]), memory.prototypes) if memory.prototypes else None
        return Context(first, windows[-memory.windows :], prototypes)

    def joined_by(self, segment: Segment) -> Context:
        """The model with one more window, and nothing forgotten."""
        return Context(self.first, (*self.windows, segment), self.prototypes)


def fit(features: np.ndarray, labels: np.ndarray) -> Context:
    """A new model from frame 1: (n, c) features, max-abs-normalised, and its labels M^1 (n,).

    Raises:
        DataError: features are not finite.
    """
    return Context(first=make_segment(features[None], labels[None]))


def fit_images(images: Sequence[tuple[np.ndarray, np.ndarray]], void: int) -> Context:
    """A new model from annotated images.

    Args:
        images: features (n, c) and labels (n,) of the tokens of each image, whose number may differ.
        void: label of tokens that are left out.

    Raises:
        DataError: no token has a label, or features are not finite.
    """
    labelled = [(features[labels != void], labels[labels != void]) for features, labels in images]
    features, labels = (np.concatenate(parts) for parts in zip(*labelled, strict=True))
    if not len(labels):
        raise DataError("no token of the annotated images has a label; draw larger segments")
    return fit(features, labels)


def make_segment(features: np.ndarray, labels: np.ndarray) -> Segment:
    """Flatten frames (f, n, c) and labels (f, n) to one segment of memory."""
    require_finite(features, "features")
    return Segment(
        features=np.ascontiguousarray(features.reshape(-1, features.shape[-1]), np.float32),
        labels=labels.reshape(-1).astype(np.int32),
    )


def representatives(segments: Sequence[Segment], count: int) -> Segment:
    """Up to `count` tokens of every label, spread over its tokens by k-means++; seeded, the same each time."""
    features = np.concatenate([segment.features for segment in segments])
    labels = np.concatenate([segment.labels for segment in segments])
    chosen = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if len(members) > count:
            tokens = features[members]
            squares, weights = np.einsum("nc,nc->n", tokens, tokens), np.ones(len(tokens), np.float32)
            positions, _ = greedy_seeds(tokens, squares, weights, count, [np.random.default_rng(0)])
            members = members[np.unique(positions[0])]
        chosen.append(members)
    at = np.concatenate(chosen)
    return Segment(features[at], labels[at])


def nearest_tokens(memory: np.ndarray, queries: np.ndarray, neighbors: int) -> np.ndarray:
    """Indices (q, k) of the nearest of the (m, c) memory for each of the (q, c) queries; both float32."""
    return nearest_distances(memory, queries, neighbors)[1]


def nearest_distances(memory: np.ndarray, queries: np.ndarray, neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances (q, k) float32 and indices (q, k) of the nearest of the memory, as `nearest_tokens` takes it.

    On the GPU when FAISS can use one.
    """
    faiss = load_faiss()
    index: Any = faiss.IndexFlatL2(memory.shape[1])
    # Without a usable GPU the GPU functions abort the process instead of raising: count first.
    if faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(memory)
    squared, found = index.search(queries, neighbors)
    return np.sqrt(np.maximum(squared, 0)), found  # rounding may leave a square of 0 below it


def merge_by_mask(clusters: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """First-frame label matching: a cluster takes the mask value most frequent in it, the smallest on ties.

    Args:
        clusters: (n,) cluster ids.
        mask: (n,) label values of the same tokens.

    Returns:
        (n,) int32 label values.
    """
    values, positions = np.unique(mask, return_inverse=True)
    ids, members = np.unique(clusters, return_inverse=True)
    counts = np.zeros((len(ids), len(values)), np.int64)
    np.add.at(counts, (members, positions), 1)
    return values[counts.argmax(axis=1)][members].astype(np.int32)
