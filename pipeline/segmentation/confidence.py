"""How sure the label of a token is: from what the context model and the votes say of it. Not in the paper.

Three shares in [0, 1], multiplied:

* of the token's nearest remembered tokens, those that have its label;
* of the votes along its track (equations 4 and 5), those for its label;
* how near these tokens are: as near as remembered tokens are to each other, or nearer, is 1; twice as far is 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.segmentation.context import Context, Neighbours, make_segment, nearest_distances
from pipeline.segmentation.voting import Voted

#: So many remembered tokens, evenly spread, tell how near these are to each other.
SAMPLED = 1000


@dataclass(frozen=True)
class TokenParts:
    """What the confidence of tokens is the product of: three arrays (f, n) float32 in [0, 1]."""

    neighbours: np.ndarray
    votes: np.ndarray
    nearness: np.ndarray

    @property
    def product(self) -> np.ndarray:
        """(f, n) float32."""
        return self.neighbours * self.votes * self.nearness


def token_confidence(voted: Voted, features: np.ndarray, neighbours: Neighbours, context: Context) -> np.ndarray:
    """How sure the labels of a window are: (f, n) float32 in [0, 1]; takes what `token_parts` does."""
    return token_parts(voted, features, neighbours, context).product


def token_parts(voted: Voted, features: np.ndarray, neighbours: Neighbours, context: Context) -> TokenParts:
    """What the confidence of a window's labels consists of.

    A segment that the model does not know, because it was born in this window, is compared with itself: the
    neighbours of its tokens are those that the model remembers and the other tokens of such segments.

    Args:
        voted: the refined labels (f, n) of the window.
        features: (f, n, c) float32.
        neighbours: of its tokens, in the memory of the model.
        context: that model, before it learns the window.
    """
    labels, count = neighbours.labels, neighbours.labels.shape[-1]
    distances = neighbours.distances.mean(axis=-1)
    unknown = ~np.isin(voted.labels, context.labels)
    if unknown.any():
        joined = context.joined_by(make_segment(features[unknown], voted.labels[unknown]))
        labels, distances = labels.copy(), distances.copy()
        # The nearest is the token itself.
        found, nearest = nearest_distances(joined.features, np.ascontiguousarray(features[unknown]), count + 1)
        labels[unknown] = joined.labels[nearest[:, 1:]]
        distances[unknown] = found[:, 1:].mean(axis=-1)
    agreeing = (labels == voted.labels[..., None]).mean(axis=-1, dtype=np.float32)
    return TokenParts(agreeing, voted.share, _nearness(distances, _usual_distance(context, count)))


def _usual_distance(context: Context, count: int) -> float:
    """The median, over remembered tokens, of the mean distance to the `count` others that are nearest to them."""
    memory = context.features
    others = min(count, len(memory) - 1)
    if others < 1:
        return 0.0
    sampled = np.ascontiguousarray(memory[:: max(1, len(memory) // SAMPLED)])
    return float(np.median(nearest_distances(memory, sampled, others + 1)[0][:, 1:].mean(axis=1)))


def _nearness(distances: np.ndarray, usual: float) -> np.ndarray:
    """The usual distance divided by those (f, n), at most 1; 1 where all remembered tokens are alike."""
    if usual == 0:
        return np.ones(distances.shape, np.float32)
    return (usual / np.maximum(distances, usual)).astype(np.float32)
